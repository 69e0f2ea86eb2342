"""Everything in a result's header that must follow from its source, its model and its request."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from dicomnode.encoding.differences import (
    Difference,
    Expectation,
    Reason,
    orientation_differences,
    spacing_differences,
)
from dicomnode.encoding.sources import SourceHeaders, SourcePlane
from dicomnode.encoding.template import NOT_DIAGNOSTIC, long_string
from dicomnode.imaging import CodedConcept, Geometry, Segmentation

TOLERANCE_MM = 0.01

# PS3.3 C.7.1.1 and C.7.2.1: what makes a result this patient's and this study's.
PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
OF_EVERY_SOURCE = {
    "PatientID": Reason.PATIENT,
    "StudyInstanceUID": Reason.STUDY,
    "FrameOfReferenceUID": Reason.FRAME_OF_REFERENCE,
}


def header_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    """Differences between the header and what it must say; pixels and frames are not looked at."""
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


def _parse_all(dataset: Dataset) -> None:
    """Have pydicom convert every value but the frames' groups, which `frame_differences` reads; it raises at damage."""
    for element in dataset:
        if element.VR == "SQ" and element.keyword != "PerFrameFunctionalGroupsSequence":
            for item in element.value:
                _parse_all(item)


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
    for keyword, reason in OF_EVERY_SOURCE.items():
        strangers = sum(_text(header, keyword) != _text(source, keyword) for source in sources.headers.values())
        if strangers:
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
    by_series = [item for entry in header.ReferencedSeriesSequence for item in entry.ReferencedInstanceSequence]
    for items in (by_series, header.SourceImageSequence):
        yield from _instance_differences(items, wanted)


def _instance_differences(items: Sequence[Dataset], wanted: set[tuple[str, str]]) -> Iterator[Difference]:
    found = {(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in items}
    if found != wanted:
        counts = f"found {len(wanted - found)} missing and {len(found - wanted)} foreign"
        yield Difference(Reason.REFERENCED_INSTANCES, f"expected the {len(wanted)} source instances, {counts}")


def _shared_group_differences(header: Dataset, expected: Expectation) -> Iterator[Difference]:
    shared, plane = header.SharedFunctionalGroupsSequence[0], expected.sources.planes[0]
    yield from orientation_differences(shared.PlaneOrientationSequence[0], plane)
    measures = shared.PixelMeasuresSequence[0]
    yield from spacing_differences(measures, plane)
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
    if not model.diagnostic and NOT_DIAGNOSTIC not in description:
        yield Difference(Reason.MODEL, "expected a series description that says not for diagnostic use")
    if not description.startswith("AI "):
        yield Difference(Reason.MODEL, "expected a series description that begins with AI")
