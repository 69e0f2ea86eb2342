"""Everything in a result's header that must follow from its source, its model and its request."""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from dicomnode.encoding import strict
from dicomnode.encoding.decoded import DecodedSeg
from dicomnode.encoding.differences import (
    Difference,
    Expectation,
    Reason,
    orientation_differences,
    spacing_differences,
)
from dicomnode.encoding.frame_groups import PER_FRAME_GROUPS
from dicomnode.encoding.sources import SourceHeaders, text_of
from dicomnode.encoding.template import NOT_DIAGNOSTIC, long_string
from dicomnode.imaging import CodedConcept, Geometry, Segmentation

TOLERANCE_MM = 0.01
REFERENCED_SERIES, REFERENCED_INSTANCES, SOURCE_IMAGES = 0x00081115, 0x0008114A, 0x00082112
# What has an item for every source slice or frame is read by `strict`; by the sequence in which it stands.
READ_STRICTLY = {None: {SOURCE_IMAGES, PER_FRAME_GROUPS}, REFERENCED_SERIES: {REFERENCED_INSTANCES}}

# PS3.3 C.7.1.1 and C.7.2.1: what makes a result this patient's and this study's.
PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
OF_EVERY_SOURCE = {
    "PatientID": Reason.PATIENT,
    "StudyInstanceUID": Reason.STUDY,
    "FrameOfReferenceUID": Reason.FRAME_OF_REFERENCE,
}


def header_differences(seg: DecodedSeg, expected: Expectation) -> Iterator[Difference]:
    """Differences between the header and what it must say; pixels and frames are not looked at."""
    header = seg.header
    yield from _format_differences(header)
    yield from _uid_differences(header, expected)
    yield from _identity_differences(header, expected.sources)
    yield from _source_grid_differences(expected)
    yield from _reference_differences(seg, expected.sources)
    yield from _shared_group_differences(header, expected)
    yield from _segment_differences(header, expected)
    yield from _model_differences(header, expected.segmentation)


def _format_differences(header: Dataset) -> Iterator[Difference]:
    wanted = {
        "SOPClassUID": SegmentationStorage,
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    }
    _parse_all(header)
    for keyword, value in wanted.items():
        if header.get(keyword) != value:
            yield Difference(Reason.FORMAT, f"expected {keyword} {value}, found {header.get(keyword, 'none')}")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax != ExplicitVRLittleEndian:
        yield Difference(Reason.FORMAT, f"expected Explicit VR Little Endian, found transfer syntax {syntax}")


def _parse_all(dataset: Dataset, within: int | None = None) -> None:
    """Have pydicom convert every value but those read strictly elsewhere; it raises at damage."""
    for tag in dataset.keys() - READ_STRICTLY.get(within, set()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _parse_all(item, int(tag))


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
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        taken.update(expected.sources.texts(keyword))
    for uid in {str(header.SOPInstanceUID), str(header.SeriesInstanceUID)} & taken:
        yield Difference(Reason.UIDS, f"expected a UID of its own, found {uid} of the source")


def _identity_differences(header: Dataset, sources: SourceHeaders) -> Iterator[Difference]:
    others = [keyword_for_tag(tag) for tag in sorted(header.keys()) if tag.group == 0x0010]
    for reason, keywords in ((Reason.PATIENT, (*PATIENT, *others)), (Reason.STUDY, STUDY)):
        for keyword in dict.fromkeys(keywords):
            if text_of(header, keyword) != text_of(sources.first, keyword):
                yield Difference(reason, f"expected the source's {keyword}, found another")
    for keyword, reason in OF_EVERY_SOURCE.items():
        here = text_of(header, keyword)
        strangers = sum(text != here for text in sources.texts(keyword))
        if strangers:
            yield Difference(reason, f"expected {keyword} of every source, found another in {strangers} of them")


def _source_grid_differences(expected: Expectation) -> Iterator[Difference]:
    """The grid that the labels stand on must be the grid of the source files, or nothing below means much."""
    geometry, sources = expected.segmentation.geometry, expected.sources
    if sources.first.get("FrameOfReferenceUID") != geometry.frame_of_reference_uid:
        yield Difference(Reason.SOURCE_GRID, "expected the source's frame of reference in the segmentation's geometry")
    limit_mm = abs(float(geometry.affine[:3, 0] @ geometry.normal)) / 2
    places_mm = np.array([geometry.position_mm(index) for index in range(len(sources.planes))])
    offs_mm = np.linalg.norm(sources.positions_mm - places_mm, axis=1)
    for index in np.flatnonzero(~(offs_mm <= limit_mm)).tolist():
        found = f"found slice {index + 1} {offs_mm[index]:.3f} mm away from its place in the grid"
        yield Difference(Reason.SOURCE_GRID, f"expected at most {limit_mm:.3f} mm, {found}")
    is_in_plane = cache(partial(_is_in_plane, geometry))
    for index, plane in enumerate(sources.planes):
        if not is_in_plane(plane.orientation, plane.pixel_spacing):
            found = f"found slice {index + 1} to differ"
            yield Difference(Reason.SOURCE_GRID, f"expected rows and columns of the source's planes, {found}")


def _is_in_plane(geometry: Geometry, orientation: tuple[str, ...], pixel_spacing: tuple[str, ...]) -> bool:
    cosines, spacing = np.array(orientation, dtype=np.float64), np.array(pixel_spacing, dtype=np.float64)
    wanted = np.concatenate((geometry.directions[:, 2], geometry.directions[:, 1]))
    # Real cosines have few digits; what must not pass is a flip, a swap or another plane.
    return bool(np.allclose(cosines, wanted, atol=1e-3) and np.allclose(spacing, geometry.spacing_mm[1:], rtol=1e-3))


def _reference_differences(seg: DecodedSeg, sources: SourceHeaders) -> Iterator[Difference]:
    found_series = [str(item.SeriesInstanceUID) for item in seg.header.ReferencedSeriesSequence]
    if len(found_series) != 1 or set(found_series) != set(sources.texts("SeriesInstanceUID")):
        yield Difference(Reason.REFERENCED_INSTANCES, "expected a reference to the source series and no other")
    wanted = set(zip(sources.texts("SOPClassUID"), sources.headers, strict=True))
    for path in ((REFERENCED_SERIES, REFERENCED_INSTANCES), (SOURCE_IMAGES,)):
        found = [_reference(item) for item in strict.items(seg.sequence_bytes(*path))]
        if set(found) != wanted or len(found) != len(wanted):
            counts = f"found {len(found)}, {len(wanted.difference(found))} missing"
            foreign = f"{len(set(found) - wanted)} foreign"
            yield Difference(
                Reason.REFERENCED_INSTANCES, f"expected the {len(wanted)} source instances, {counts} and {foreign}"
            )


def _reference(item: bytes) -> tuple[str, str]:
    uids = strict.fields(item, {0x00081150: b"UI", 0x00081155: b"UI"})
    return strict.uid(uids[0x00081150]), strict.uid(uids[0x00081155])


def _shared_group_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    shared, plane = header.SharedFunctionalGroupsSequence[0], expected.sources.planes[0]
    yield from orientation_differences(shared.PlaneOrientationSequence[0].ImageOrientationPatient, plane)
    measures = shared.PixelMeasuresSequence[0]
    yield from spacing_differences(measures.PixelSpacing, plane)
    geometry = expected.segmentation.geometry
    step_mm = abs(float(geometry.affine[:3, 0] @ geometry.normal))
    found_mm = float(measures.SpacingBetweenSlices)
    if abs(found_mm - step_mm) > TOLERANCE_MM:
        yield Difference(Reason.SPACING, f"expected {step_mm:.4f} mm between slices, found {found_mm:.4f} mm")


def _segment_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    segments = expected.segments
    numbers = [int(item.SegmentNumber) for item in header.SegmentSequence]
    if numbers != list(range(1, len(segments) + 1)):
        yield Difference(Reason.SEGMENTS, f"expected segments numbered 1 to {len(segments)}, found {numbers}")
        return
    for item, segment in zip(header.SegmentSequence, segments, strict=True):
        if _codes(item) != [_triple(segment.category), _triple(segment.type), _triple(segment.modifier)]:
            yield Difference(Reason.SEGMENTS, f"expected the codes of {segment.name}, found others in its place")
        if item.SegmentLabel != long_string(segment.name):
            yield Difference(Reason.SEGMENTS, f"expected the label {segment.name}, found {item.SegmentLabel}")
        if item.SegmentAlgorithmType != "AUTOMATIC":
            yield Difference(Reason.SEGMENTS, f"expected algorithm type AUTOMATIC, found {item.SegmentAlgorithmType}")
    occurring = [label for s in segments for label in set(s.labels) if expected.present[:, label].any()]
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
    if not model.diagnostic and NOT_DIAGNOSTIC not in description:
        yield Difference(Reason.MODEL, "expected a series description that says not for diagnostic use")
    if not description.startswith("AI "):
        yield Difference(Reason.MODEL, "expected a series description that begins with AI")
