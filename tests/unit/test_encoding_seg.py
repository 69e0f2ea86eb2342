"""A segmentation becomes a DICOM SEG that says what the network said, of whom, and that a machine said it."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from dicomnode.demo.series import SeriesIdentity, build_ct_slices
from dicomnode.encoding import EncodedObject, check_seg, encode_seg, has_findings, result_uids
from dicomnode.errors import NothingFound, ResultMismatch, Unavailable
from dicomnode.imaging import Geometry, Segment, Segmentation, SliceSource
from tests.encoding_cases import (
    LEFT,
    MODEL,
    RIGHT,
    STRUCTURES,
    Case,
    affine,
    axial,
    blobs,
    build_case,
    build_request,
    case_of,
    oblique,
    tilted,
)


def encode(case: Case, folder: Path) -> EncodedObject:
    return encode_seg(case.segmentation, case.sources, case.request, folder / "seg.dcm")


def with_labels(case: Case, labels: NDArray[np.uint8], segments: tuple[Segment, ...] | None = None) -> Case:
    old = case.segmentation
    new = Segmentation(labels, old.geometry, old.sources, segments or old.segments, old.model)
    return Case(new, case.sources, case.request)


def plain_highdicom(case: Case, described: Dataset, folder: Path) -> Dataset:
    """The same segmentation by highdicom alone, with a (slices, rows, columns, segments) array."""
    segmentation, request = case.segmentation, case.request
    names = [item.SegmentLabel for item in described.SegmentSequence]
    segments = [s for s in segmentation.segments if s.name in names]
    seg = hd.seg.Segmentation(
        [dcmread(case.sources[source.sop_instance_uid]) for source in segmentation.sources],
        np.stack([segmentation.mask(s) for s in segments], axis=-1).astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        [hd.seg.SegmentDescription.from_dataset(item) for item in described.SegmentSequence],
        request.series_uid,
        request.series_number,
        request.instance_uid,
        1,
        manufacturer=described.Manufacturer,
        manufacturer_model_name=described.ManufacturerModelName,
        software_versions="x",
        device_serial_number=request.device_serial_number,
        content_label=request.content_label,
        content_description=described.ContentDescription,
        series_description=described.SeriesDescription,
    )
    seg.save_as(folder / "plain.dcm")
    return dcmread(folder / "plain.dcm")


def differing(ours: Dataset, plain: Dataset, ignored: set[str]) -> set[str]:
    keywords = {e.keyword for e in ours} | {e.keyword for e in plain}
    return {k for k in keywords - ignored if ours.get(k) != plain.get(k)}


@pytest.mark.parametrize(
    ("shape", "segments"),
    [
        pytest.param((10, 12, 8), STRUCTURES, id="overlapping segments"),
        pytest.param((10, 12, 8), STRUCTURES[1:], id="disjoint segments"),
        pytest.param((10, 7, 9), STRUCTURES, id="frames that end in the middle of a byte"),
        pytest.param((5, 5, 5), STRUCTURES[:1], id="one segment"),
    ],
)
def test_the_object_equals_that_of_highdicom_called_plainly(
    shape: tuple[int, int, int], segments: tuple[Segment, ...], tmp_path: Path
) -> None:
    segments = tuple(replace(segment, number=number) for number, segment in enumerate(segments, 1))
    labels = blobs(shape)
    labels[np.isin(labels, [label for s in segments for label in s.labels], invert=True)] = 0
    case = build_case(tmp_path / "ct", affine(oblique()), labels, segments)
    ours = dcmread(encode(case, tmp_path).path)
    plain = plain_highdicom(case, ours, tmp_path)

    ignored = {"ContentCreatorName"}  # of type 2; highdicom leaves it out
    ignored |= {"SoftwareVersions", "ContributingEquipmentSequence"}  # ours name the model, and the time asked for
    ignored |= {f"{what}{unit}" for what in ("InstanceCreation", "Content", "Series") for unit in ("Date", "Time")}
    ignored |= {"DimensionOrganizationSequence", "DimensionIndexSequence"}  # carry a random UID
    ignored |= {"DimensionOrganizationType"}  # optional, and only for a single segment
    ignored |= {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData"}  # below
    assert differing(ours, plain, ignored) == set()
    assert_same_planes(ours, plain)
    assert frames_of(ours).keys() == frames_of(plain).keys()
    for place, (groups, pixels) in frames_of(ours).items():
        other_groups, other_pixels = frames_of(plain)[place]
        # highdicom runs through the slices against the normal, and shares the number of a single segment.
        assert differing(groups, other_groups, {"FrameContentSequence", "SegmentIdentificationSequence"}) == set()
        assert np.array_equal(pixels, other_pixels)


def assert_same_planes(ours: Dataset, plain: Dataset) -> None:
    shared, other = (ds.SharedFunctionalGroupsSequence[0] for ds in (ours, plain))
    assert shared.PlaneOrientationSequence == other.PlaneOrientationSequence
    measures, others = shared.PixelMeasuresSequence[0], other.PixelMeasuresSequence[0]
    assert differing(measures, others, {"SpacingBetweenSlices"}) == set()
    assert float(measures.SpacingBetweenSlices) == pytest.approx(float(others.SpacingBetweenSlices), abs=1e-6)


def frames_of(seg: Dataset) -> dict[tuple[int, str], tuple[Dataset, NDArray[np.uint8]]]:
    """Functional groups and pixels of each frame, by segment number and position."""
    pixels = np.asarray(seg.pixel_array).reshape(-1, seg.Rows, seg.Columns)
    result: dict[tuple[int, str], tuple[Dataset, NDArray[np.uint8]]] = {}
    for groups, plane in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        shared = seg.SharedFunctionalGroupsSequence[0]
        identification = (groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence)[0]
        position = str(groups.PlanePositionSequence[0].ImagePositionPatient)
        result[int(identification.ReferencedSegmentNumber), position] = (groups, plane)
    return result


@pytest.mark.parametrize("directions", [oblique(), tilted(18.5), tilted(-18.5)], ids=["oblique", "tilt", "other tilt"])
def test_highdicom_reads_back_every_voxel_of_overlapping_segments(
    directions: NDArray[np.float64], tmp_path: Path
) -> None:
    case = build_case(tmp_path / "ct", affine(directions))
    seg = hd.seg.segread(encode(case, tmp_path).path)
    uids = [source.sop_instance_uid for source in case.segmentation.sources]
    found = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    wanted = np.stack([case.segmentation.mask(s) for s in STRUCTURES], axis=-1)
    assert np.array_equal(found, wanted)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    first = encode(case, tmp_path / "first")
    second = encode(case, tmp_path / "second")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256


def test_frames_without_a_voxel_are_omitted_and_the_rest_lie_where_their_source_slices_lie(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct", affine(oblique()))
    seg = dcmread(encode(case, tmp_path).path)
    planes = sum(int(case.segmentation.mask(s).any(axis=(1, 2)).sum()) for s in STRUCTURES)
    assert seg.NumberOfFrames == planes < len(STRUCTURES) * len(case.sources)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = dcmread(case.sources[source]).ImagePositionPatient
        assert [str(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient] == [str(v) for v in position]


def test_segments_without_a_voxel_are_left_out_and_the_others_numbered_without_a_gap(tmp_path: Path) -> None:
    labels = blobs()
    labels[labels == 3] = 2
    case = build_case(tmp_path / "ct", labels=labels)
    encoded = encode(case, tmp_path)
    seg = dcmread(encoded.path)
    assert encoded.omitted_segments == ("Left kidney",)
    assert [(s.SegmentNumber, s.SegmentLabel) for s in seg.SegmentSequence] == [
        (1, "Body"),
        (2, "Liver"),
        (3, "Right kidney"),
    ]
    check_seg(encoded.path, case.segmentation, case.sources, case.request)


def test_an_empty_label_map_is_an_outcome_and_not_an_object(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct", labels=np.zeros((4, 6, 5), np.uint8))
    assert not has_findings(case.segmentation)
    with pytest.raises(NothingFound, match="none of 4 segments has a voxel"):
        encode(case, tmp_path)
    assert not (tmp_path / "seg.dcm").exists()


def test_overlap_is_declared_only_where_voxels_are_shared(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    assert dcmread(encode(case, tmp_path).path).SegmentsOverlap == "YES"
    only_liver = np.where(blobs() == 2, 2, 0).astype(np.uint8)
    disjoint = tuple(replace(s, number=n) for n, s in enumerate(STRUCTURES[1:], 1))
    assert dcmread(encode(with_labels(case, only_liver, disjoint), tmp_path).path).SegmentsOverlap == "NO"


def test_a_segment_says_what_it_is_on_which_side_and_which_weights_drew_it(tmp_path: Path) -> None:
    seg = dcmread(encode(build_case(tmp_path / "ct"), tmp_path).path)
    left, right = seg.SegmentSequence[2:]
    for item, side in ((left, LEFT), (right, RIGHT)):
        type_code = item.SegmentedPropertyTypeCodeSequence[0]
        assert type_code.CodeValue == "64033007"
        assert type_code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == side.value
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    algorithm = left.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == MODEL.version
    assert f"weights_sha256={MODEL.weights_sha256}" in algorithm.AlgorithmParameters
    assert left.SegmentAlgorithmType == "AUTOMATIC"
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == len(STRUCTURES)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (221, 130, 101), (0, 0, 255)])
def test_the_recommended_colour_is_the_one_asked_for(colour: tuple[int, int, int], tmp_path: Path) -> None:
    segments = (replace(STRUCTURES[0], colour_rgb=colour), *STRUCTURES[1:])
    seg = dcmread(encode(build_case(tmp_path / "ct", segments=segments), tmp_path).path)
    lab = hd.color.CIELabColor.from_dicom_value(seg.SegmentSequence[0].RecommendedDisplayCIELabValue)
    assert np.allclose(lab.to_rgb(), colour, atol=1)


@pytest.mark.parametrize("title", ["Torso structures", "A title that is far longer than any long string may be " * 2])
def test_a_result_not_for_diagnosis_says_so_in_full_however_long_its_title(title: str, tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    old = case.segmentation
    renamed = Segmentation(old.labels, old.geometry, old.sources, old.segments, replace(MODEL, title=title))
    seg = dcmread(encode(Case(renamed, case.sources, case.request), tmp_path).path)
    assert seg.SeriesDescription.startswith("AI ")
    assert seg.SeriesDescription.endswith("not for diagnostic use")
    assert len(seg.SeriesDescription) <= 64


def test_a_diagnostic_model_carries_no_warning(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    old = case.segmentation
    cleared = Segmentation(old.labels, old.geometry, old.sources, old.segments, replace(MODEL, diagnostic=True))
    seg = dcmread(encode(Case(cleared, case.sources, case.request), tmp_path).path)
    assert seg.SeriesDescription == "AI Torso structures 1.0.0"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (None, "Doe^Jane"),
    ],
)
def test_the_patient_is_the_sources_patient_in_the_sources_characters(
    charset: str | list[str] | None, name: str, tmp_path: Path
) -> None:
    case = edited_case(tmp_path, SpecificCharacterSet=charset, PatientName=name, PatientSex="M", PatientAge="063Y")
    encoded = encode(case, tmp_path)
    seg, source = dcmread(encoded.path), dcmread(next(iter(case.sources.values())))
    assert str(seg.PatientName) == str(source.PatientName) == name
    assert (seg.get("SpecificCharacterSet"), seg.PatientAge) == (source.get("SpecificCharacterSet"), "063Y")
    check_seg(encoded.path, case.segmentation, case.sources, case.request)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_identities_that_break_the_standard_are_copied_as_they_are(tmp_path: Path) -> None:
    odd = {"PatientSex": "X", "PatientBirthDate": "19630231", "StudyTime": "99", "PatientID": "1" * 70}
    case = edited_case(tmp_path, **odd)
    encoded = encode(case, tmp_path)
    seg = dcmread(encoded.path)
    assert {keyword: str(seg[keyword].value) for keyword in odd} == odd
    check_seg(encoded.path, case.segmentation, case.sources, case.request)


def test_attributes_the_source_lacks_are_empty_in_the_result(tmp_path: Path) -> None:
    lacking = ("AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex", "SliceThickness", "StudyTime")
    case = edited_case(tmp_path, **dict.fromkeys(lacking))
    encoded = encode(case, tmp_path)
    seg = dcmread(encoded.path)
    assert not any(seg.get(keyword) for keyword in lacking if keyword != "SliceThickness")
    check_seg(encoded.path, case.segmentation, case.sources, case.request)


def edited_case(folder: Path, **attributes: object) -> Case:
    """A case whose source slices have these attributes, None: not at all; invalid values are let through."""
    identity = SeriesIdentity("edited")
    labels = blobs()
    geometry = Geometry(axial(), (10, 12, 8), identity.frame_of_reference_uid)
    slices = build_ct_slices(np.zeros(labels.shape, np.int16), geometry, identity)
    with disable_value_validation():
        for ds in slices:
            for keyword, value in attributes.items():
                delattr(ds, keyword) if value is None else setattr(ds, keyword, value)
        return case_of(slices, folder / "ct", geometry, labels)


def test_a_source_without_its_file_is_named(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    missing = case.segmentation.sources[3].sop_instance_uid
    fewer = {uid: path for uid, path in case.sources.items() if uid != missing}
    with pytest.raises(ResultMismatch, match=missing):
        encode_seg(case.segmentation, fewer, case.request, tmp_path / "seg.dcm")


def test_a_source_that_cannot_be_read_now_may_be_tried_again(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    case.sources[case.segmentation.sources[3].sop_instance_uid].unlink()
    with pytest.raises(Unavailable):
        encode(case, tmp_path)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_place_that_cannot_be_written_may_be_tried_again_and_nothing_is_left_behind(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable):
        encode_seg(case.segmentation, case.sources, case.request, tmp_path / "file" / "seg.dcm")
    (tmp_path / "folder.dcm").mkdir()
    with pytest.raises(Unavailable):
        encode_seg(case.segmentation, case.sources, case.request, tmp_path / "folder.dcm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct", "file", "folder.dcm"]


def test_any_change_of_content_model_options_or_kind_makes_other_uids() -> None:
    seen = {
        result_uids("content", MODEL, "options", "seg"),
        result_uids("more content", MODEL, "options", "seg"),
        result_uids("content", replace(MODEL, version="1.0.1"), "options", "seg"),
        result_uids("content", replace(MODEL, weights_sha256="00" * 32), "options", "seg"),
        result_uids("content", replace(MODEL, package_sha256="00" * 32), "options", "seg"),
        result_uids("content", MODEL, "other options", "seg"),
        result_uids("content", MODEL, "options", "report"),
    }
    assert len({uid for uids in seen for uid in (uids.series_uid, uids.instance_uid)}) == 14
    assert result_uids("content", MODEL, "options", "seg") in seen


@pytest.mark.parametrize("label", ["", "lower case", "SEVENTEEN_LETTERS", "UMLAUT_Ä"])
def test_a_content_label_that_is_no_code_string_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="content label"):
        replace(build_request(), content_label=label)


def test_a_request_for_an_invalid_uid_is_refused() -> None:
    with pytest.raises(ValueError, match="valid UID"):
        replace(build_request(), instance_uid="1.02.3")
    assert replace(build_request(), created_at=datetime(2027, 1, 1)).created_at.year == 2027  # noqa: DTZ001


def test_frames_of_an_enhanced_source_are_referred_to_by_their_number(tmp_path: Path) -> None:
    case = enhanced_case(tmp_path)
    encoded = encode(case, tmp_path)
    check_seg(encoded.path, case.segmentation, case.sources, case.request)
    seg = dcmread(encoded.path)
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    lowest = int(np.flatnonzero(case.segmentation.mask(STRUCTURES[0]).any(axis=(1, 2)))[0])
    assert source.ReferencedFrameNumber == case.segmentation.sources[lowest].frame_number
    found = hd.seg.segread(encoded.path).get_pixels_by_source_frame(
        case.segmentation.sources[0].sop_instance_uid,
        [source.frame_number or 0 for source in case.segmentation.sources],
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(found, np.stack([case.segmentation.mask(s) for s in STRUCTURES], axis=-1))


def enhanced_case(folder: Path) -> Case:
    """One Enhanced CT whose frames are stored last slice first."""
    single = build_case(folder / "single")
    planes = [dcmread(path) for path in single.sources.values()]
    enhanced = planes[0]
    enhanced.file_meta.MediaStorageSOPClassUID = enhanced.SOPClassUID = EnhancedCTImageStorage
    enhanced.SharedFunctionalGroupsSequence = [Dataset()]
    shared = enhanced.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = enhanced.ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing = enhanced.PixelSpacing
    frames: list[Dataset] = []
    for plane in reversed(planes):
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = [Dataset()]
        frames[-1].PlanePositionSequence[0].ImagePositionPatient = plane.ImagePositionPatient
    enhanced.PerFrameFunctionalGroupsSequence = frames
    enhanced.NumberOfFrames = len(frames)
    enhanced.PixelData = b"".join(plane.PixelData for plane in reversed(planes))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(enhanced, keyword)
    enhanced.save_as(folder / "enhanced.dcm")
    uid, old = str(enhanced.SOPInstanceUID), single.segmentation
    sources = tuple(SliceSource(uid, str(EnhancedCTImageStorage), len(frames) - k) for k in range(len(frames)))
    segmentation = Segmentation(old.labels, old.geometry, sources, old.segments, old.model)
    return Case(segmentation, {uid: folder / "enhanced.dcm"}, single.request)
