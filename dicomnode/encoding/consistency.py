"""Decode a written SEG again and compare it with its source and with what the network said.

The last gate before a result leaves: no validator notices a segmentation that is well formed and wrong.
Everything is compared in patient space, frame by frame, against the headers of the source files read anew.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from dicomnode.encoding.decoded import UNPARSEABLE, DecodedFrame, DecodedSeg, opened_seg
from dicomnode.encoding.request import EncodingRequest
from dicomnode.encoding.sources import SourceHeaders, SourcePlane, read_source_headers
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import CodedConcept, Geometry, Segment, Segmentation

TOLERANCE_MM = 0.01
COSINE_TOLERANCE = 1e-4
SHOWN_PER_REASON = 3

# PS3.3 C.7.1.1 and C.7.2.1: what makes a result this patient's and this study's.
PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
OF_EVERY_SOURCE = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")


class Reason(StrEnum):
    """Everything that can be wrong with a result; the first word of each difference."""

    FORMAT = "format"
    UIDS = "uids"
    PATIENT = "patient"
    STUDY = "study"
    FRAME_OF_REFERENCE = "frame_of_reference"
    SOURCE_GRID = "source_grid"
    REFERENCED_INSTANCES = "referenced_instances"
    FRAME_REFERENCE = "frame_reference"
    POSITION = "position"
    ORIENTATION = "orientation"
    SPACING = "spacing"
    MATRIX = "matrix"
    SEGMENTS = "segments"
    MODEL = "model"
    OVERLAP = "overlap"
    MISSING_PLANE = "missing_plane"
    EXTRA_PLANE = "extra_plane"
    VOXELS = "voxels"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it must be, without any value of a patient's attribute."""

    reason: Reason
    sentence: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.sentence}"


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """What the written bytes are held against."""

    segmentation: Segmentation
    sources: SourceHeaders
    request: EncodingRequest
    counts: NDArray[np.int64]  # [slice, label]: voxels

    @property
    def segments(self) -> list[Segment]:
        """The segments with voxels, in the order in which the file must number them from 1."""
        return [s for s in self.segmentation.segments if self.voxels(s).any()]

    def voxels(self, segment: Segment) -> NDArray[np.int64]:
        """Voxels of a segment in each slice."""
        return self.counts[:, sorted(set(segment.labels))].sum(axis=1)


def check_seg(path: Path, segmentation: Segmentation, sources: Mapping[str, Path], request: EncodingRequest) -> None:
    """Hold the bytes at `path` against the segmentation, the source files and the request.

    Raises:
        ResultMismatch: something differs; the message names each difference by its `Reason`, with numbers.
        Unavailable: a source cannot be read now.
    """
    headers = read_source_headers(segmentation.sources, sources)
    expected = Expectation(segmentation, headers, request, _label_counts(segmentation))
    with opened_seg(path) as seg:
        differences = list(_differences(seg, expected))
    if differences:
        raise ResultMismatch(_summary(differences))


def _differences(seg: DecodedSeg, expected: Expectation) -> Iterator[Difference]:
    """Everything that differs; frames are looked at only when the header lets them be counted."""
    try:
        yield from _header_differences(seg, expected)
        frames = seg.frames()
        matrix = list(_matrix_differences(seg, expected, len(frames)))
        yield from matrix
        if not matrix:
            yield from _frame_differences(seg, frames, expected)
    except UNPARSEABLE as problem:
        yield Difference(Reason.FORMAT, f"expected the attributes of a SEG, found {type(problem).__name__}")


def _header_differences(seg: DecodedSeg, expected: Expectation) -> Iterator[Difference]:
    header = seg.header
    yield from _format_differences(header)
    yield from _uid_differences(header, expected)
    yield from _identity_differences(header, expected.sources)
    yield from _source_grid_differences(expected)
    yield from _reference_differences(header, expected.sources)
    yield from _shared_group_differences(header, expected)
    yield from _segment_differences(header, expected)
    yield from _model_differences(header, expected.segmentation)


def _format_differences(header: Dataset) -> Iterator[Difference]:
    wanted = {
        "SOPClassUID": SegmentationStorage,
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "BitsAllocated": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    }
    for keyword, value in wanted.items():
        if header.get(keyword) != value:
            yield Difference(Reason.FORMAT, f"expected {keyword} {value}, found {header.get(keyword, 'none')}")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax != ExplicitVRLittleEndian:
        yield Difference(Reason.FORMAT, f"expected Explicit VR Little Endian, found transfer syntax {syntax}")


def _uid_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    request = expected.request
    wanted = (
        ("SOPInstanceUID", header.SOPInstanceUID, request.instance_uid),
        ("MediaStorageSOPInstanceUID", header.file_meta.MediaStorageSOPInstanceUID, request.instance_uid),
        ("SeriesInstanceUID", header.SeriesInstanceUID, request.series_uid),
    )
    for keyword, found, value in wanted:
        if found != value:
            yield Difference(Reason.UIDS, f"expected {keyword} {value}, found {found}")
    taken = set(expected.sources.headers)
    for source in expected.sources.headers.values():
        taken.update(str(source.get(k)) for k in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"))
    for uid in {str(header.SOPInstanceUID), str(header.SeriesInstanceUID)} & taken:
        yield Difference(Reason.UIDS, f"expected a UID of its own, found {uid} of the source")


def _identity_differences(header: Dataset, sources: SourceHeaders) -> Iterator[Difference]:
    others = [element.keyword for element in header if element.tag.group == 0x0010]
    for reason, keywords in ((Reason.PATIENT, (*PATIENT, *others)), (Reason.STUDY, STUDY)):
        for keyword in dict.fromkeys(keywords):
            if _text(header, keyword) != _text(sources.first, keyword):
                yield Difference(reason, f"expected the source's {keyword}, found another")
    for keyword in OF_EVERY_SOURCE:
        strangers = sum(_text(header, keyword) != _text(source, keyword) for source in sources.headers.values())
        if strangers:
            reason = {"PatientID": Reason.PATIENT, "StudyInstanceUID": Reason.STUDY}.get(
                keyword, Reason.FRAME_OF_REFERENCE
            )
            yield Difference(reason, f"expected {keyword} of every source, found another in {strangers} of them")


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value)


def _source_grid_differences(expected: Expectation) -> Iterator[Difference]:
    """The grid that the labels stand on must be the grid of the source files, or nothing below means much."""
    geometry, planes = expected.segmentation.geometry, expected.sources.planes
    if expected.sources.first.get("FrameOfReferenceUID") != geometry.frame_of_reference_uid:
        yield Difference(Reason.SOURCE_GRID, "expected the source's frame of reference in the segmentation's geometry")
    limit_mm = abs(float(geometry.affine[:3, 0] @ geometry.normal)) / 2
    for index, plane in enumerate(planes):
        off_mm = float(np.linalg.norm(plane.position_mm - geometry.position_mm(index)))
        if off_mm > limit_mm:
            found = f"found slice {index + 1} {off_mm:.3f} mm away from its place in the grid"
            yield Difference(Reason.SOURCE_GRID, f"expected at most {limit_mm:.3f} mm, {found}")
        if not _is_in_plane(plane, geometry):
            found = f"found slice {index + 1} to differ"
            yield Difference(Reason.SOURCE_GRID, f"expected rows and columns of the source's planes, {found}")


def _is_in_plane(plane: SourcePlane, geometry: Geometry) -> bool:
    cosines = np.array(plane.orientation, dtype=np.float64)
    wanted = np.concatenate((geometry.directions[:, 2], geometry.directions[:, 1]))
    spacing = np.array(plane.pixel_spacing, dtype=np.float64)
    # Real cosines have few digits; what must not pass is a flip, a swap or another plane.
    return bool(np.allclose(cosines, wanted, atol=1e-3) and np.allclose(spacing, geometry.spacing_mm[1:], rtol=1e-3))


def _reference_differences(header: Dataset, sources: SourceHeaders) -> Iterator[Difference]:
    series = {str(source.SeriesInstanceUID) for source in sources.headers.values()}
    found_series = {str(item.SeriesInstanceUID) for item in header.ReferencedSeriesSequence}
    if found_series != series:
        yield Difference(Reason.REFERENCED_INSTANCES, "expected a reference to the source series and no other")
    wanted = {(str(source.SOPClassUID), uid) for uid, source in sources.headers.items()}
    items = [item for entry in header.ReferencedSeriesSequence for item in entry.ReferencedInstanceSequence]
    found = {(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in items}
    if found != wanted:
        counts = f"found {len(wanted - found)} missing and {len(found - wanted)} foreign"
        yield Difference(Reason.REFERENCED_INSTANCES, f"expected the {len(wanted)} source instances, {counts}")


def _shared_group_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    shared, plane = header.SharedFunctionalGroupsSequence[0], expected.sources.planes[0]
    yield from _orientation_differences(shared.PlaneOrientationSequence[0], plane)
    measures = shared.PixelMeasuresSequence[0]
    yield from _spacing_differences(measures, plane)
    geometry = expected.segmentation.geometry
    step_mm = abs(float(geometry.affine[:3, 0] @ geometry.normal))
    found_mm = float(measures.SpacingBetweenSlices)
    if abs(found_mm - step_mm) > TOLERANCE_MM:
        yield Difference(Reason.SPACING, f"expected {step_mm:.4f} mm between slices, found {found_mm:.4f} mm")


def _orientation_differences(item: Dataset, plane: SourcePlane) -> Iterator[Difference]:
    found = np.array([float(v) for v in item.ImageOrientationPatient])
    if not np.allclose(found, np.array(plane.orientation, dtype=np.float64), rtol=0, atol=COSINE_TOLERANCE):
        yield Difference(Reason.ORIENTATION, f"expected the source's {'/'.join(plane.orientation)}, found {found}")


def _spacing_differences(item: Dataset, plane: SourcePlane) -> Iterator[Difference]:
    found = np.array([float(v) for v in item.PixelSpacing])
    if not np.allclose(found, np.array(plane.pixel_spacing, dtype=np.float64), rtol=1e-6):
        yield Difference(Reason.SPACING, f"expected the source's {'/'.join(plane.pixel_spacing)} mm, found {found}")


def _segment_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    segments = expected.segments
    numbers = [int(item.SegmentNumber) for item in header.SegmentSequence]
    if numbers != list(range(1, len(segments) + 1)):
        yield Difference(Reason.SEGMENTS, f"expected segments numbered 1 to {len(segments)}, found {numbers}")
        return
    for item, segment in zip(header.SegmentSequence, segments, strict=True):
        if _codes(item) != [_triple(segment.category), _triple(segment.type), _triple(segment.modifier)]:
            yield Difference(Reason.SEGMENTS, f"expected the codes of {segment.name}, found others in its place")
        if item.SegmentAlgorithmType != "AUTOMATIC":
            yield Difference(Reason.SEGMENTS, f"expected algorithm type AUTOMATIC, found {item.SegmentAlgorithmType}")
    occurring = [label for s in segments for label in set(s.labels) if expected.counts[:, label].any()]
    overlap = "YES" if len(occurring) != len(set(occurring)) else "NO"
    if header.get("SegmentsOverlap") != overlap:
        found = header.get("SegmentsOverlap", "none")
        yield Difference(Reason.OVERLAP, f"expected Segments Overlap {overlap}, found {found}")


def _codes(item: Dataset) -> list[tuple[str, str] | None]:
    category = item.SegmentedPropertyCategoryCodeSequence[0]
    type_ = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = type_.get("SegmentedPropertyTypeModifierCodeSequence") or [None]
    return [
        None if code is None else (str(code.CodeValue), str(code.CodingSchemeDesignator))
        for code in (category, type_, modifiers[0])
    ]


def _triple(concept: CodedConcept | None) -> tuple[str, str] | None:
    return None if concept is None else (concept.value, concept.scheme)


def _model_differences(header: Dataset, segmentation: Segmentation) -> Iterator[Difference]:
    model = segmentation.model
    for item in header.SegmentSequence:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        digest_stands = model.weights_sha256 in str(algorithm.AlgorithmParameters)
        if not digest_stands or str(algorithm.AlgorithmVersion) != model.version[:64].strip():
            found = f"found another algorithm in segment {item.SegmentNumber}"
            yield Difference(Reason.MODEL, f"expected version and weights digest of {model.name}, {found}")
    description = str(header.SeriesDescription)
    if not model.diagnostic and "not for diagnostic use" not in description:
        yield Difference(Reason.MODEL, "expected a series description that says not for diagnostic use")
    if not description.startswith("AI "):
        yield Difference(Reason.MODEL, "expected a series description that begins with AI")


def _matrix_differences(seg: DecodedSeg, expected: Expectation, frame_count: int) -> Iterator[Difference]:
    _, rows, columns = expected.segmentation.geometry.shape
    found = (int(seg.header.Rows), int(seg.header.Columns))
    if found != (rows, columns):
        yield Difference(Reason.MATRIX, f"expected {rows} rows and {columns} columns, found {found[0]} and {found[1]}")
    if int(seg.header.NumberOfFrames) != frame_count:
        said = int(seg.header.NumberOfFrames)
        yield Difference(Reason.MATRIX, f"expected functional groups of {said} frames, found {frame_count}")
    pixel_bytes = (frame_count * rows * columns + 7) // 8
    if seg.pixel_bytes != pixel_bytes + pixel_bytes % 2:
        yield Difference(Reason.MATRIX, f"expected {pixel_bytes} bytes of pixels, found {seg.pixel_bytes}")


def _frame_differences(
    seg: DecodedSeg, frames: Sequence[DecodedFrame], expected: Expectation
) -> Iterator[Difference]:
    planes_mm = np.array([plane.position_mm for plane in expected.sources.planes])
    frame_of: dict[tuple[int, int], int] = {}  # (segment number, slice) -> frame
    for index, frame in enumerate(frames):
        distances_mm = np.linalg.norm(planes_mm - np.array(frame.position_mm), axis=1)
        slice_index = int(distances_mm.argmin())
        yield from _placement_differences(index, frame, expected.sources.planes[slice_index])
        if distances_mm[slice_index] > TOLERANCE_MM:
            away = f"found it {distances_mm[slice_index]:.3f} mm from the nearest"
            yield Difference(Reason.POSITION, f"expected frame {index + 1} on a source slice, {away}")
        if (frame.segment_number, slice_index) in frame_of:
            twice = f"found slice {slice_index + 1} of segment {frame.segment_number} again in frame {index + 1}"
            yield Difference(Reason.EXTRA_PLANE, f"expected each plane once, {twice}")
        frame_of[frame.segment_number, slice_index] = index
    yield from _voxel_differences(seg, frame_of, expected)


def _placement_differences(index: int, frame: DecodedFrame, plane: SourcePlane) -> Iterator[Difference]:
    if (frame.source_uid, frame.source_frame) != (plane.sop_instance_uid, plane.frame_number):
        sentence = f"expected frame {index + 1} to refer to the source slice it lies on, found another"
        yield Difference(Reason.FRAME_REFERENCE, sentence)
    if "PlaneOrientationSequence" in frame.groups:
        yield from _orientation_differences(frame.groups.PlaneOrientationSequence[0], plane)
    if "PixelMeasuresSequence" in frame.groups:
        yield from _spacing_differences(frame.groups.PixelMeasuresSequence[0], plane)


def _voxel_differences(
    seg: DecodedSeg, frame_of: Mapping[tuple[int, int], int], expected: Expectation
) -> Iterator[Difference]:
    """Every plane of every segment against the frame in its place, one at a time."""
    segmentation = expected.segmentation
    wanted: set[tuple[int, int]] = set()
    for number, segment in enumerate(expected.segments, 1):
        belongs = segmentation.membership(segment)
        for slice_index in np.flatnonzero(expected.voxels(segment)).tolist():
            wanted.add((number, slice_index))
            where = f"slice {slice_index + 1} of {segment.name}"
            frame_index = frame_of.get((number, slice_index))
            if frame_index is None:
                yield Difference(Reason.MISSING_PLANE, f"expected a frame for {where}, found none")
                continue
            wrong = np.count_nonzero(seg.mask(frame_index) != np.take(belongs, segmentation.labels[slice_index]))
            if wrong:
                yield Difference(Reason.VOXELS, f"expected the network's voxels in {where}, found {wrong} others")
    for number, slice_index in sorted(set(frame_of) - wanted):
        where = f"slice {slice_index + 1} of segment {number}"
        yield Difference(Reason.EXTRA_PLANE, f"expected no frame for {where}, found one")


def _label_counts(segmentation: Segmentation) -> NDArray[np.int64]:
    """Voxels of each label in each slice, `[slice, label]`."""
    highest = max(int(segmentation.labels.max()), *(max(s.labels) for s in segmentation.segments))
    return np.array([np.bincount(plane.ravel(), minlength=highest + 1) for plane in segmentation.labels])


def _summary(differences: Sequence[Difference]) -> str:
    """The first few differences of each reason, and how many there are of it."""
    counts = Counter(difference.reason for difference in differences)
    shown: list[str] = []
    for reason, count in counts.items():
        shown += [str(d) for d in differences if d.reason is reason][:SHOWN_PER_REASON]
        if count > SHOWN_PER_REASON:
            shown.append(f"{reason}: and {count - SHOWN_PER_REASON} more")
    return "; ".join(shown)
