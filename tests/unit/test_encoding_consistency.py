"""A good result passes the last gate; a result with any one thing altered does not, and the gate says which."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from dicomnode.encoding import check_seg, encode_seg
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import Segmentation
from tests.encoding_cases import Case, affine, blobs, build_case, image_orientations, oblique, tilted

Mutation = Callable[[FileDataset], None]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return build_case(tmp_path_factory.mktemp("ct"), affine(oblique()))


@pytest.fixture(scope="module")
def good(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seg") / "seg.dcm"
    return encode_seg(case.segmentation, case.sources, case.request, path).path


def reasons(path: Path, case: Case) -> set[str]:
    """The reasons for which the result is blocked; none when it passes."""
    try:
        check_seg(path, case.segmentation, case.sources, case.request)
    except ResultMismatch as problem:
        message = str(problem)
    else:
        return set()
    assert "phantom" not in message.lower(), "a message must not name the patient"
    return {difference.split(":")[0] for difference in message.split("; ")}


@dataclass(frozen=True)
class Set:
    """Give an attribute, found along a path of keywords and item numbers, another value; None removes it."""

    where: tuple[str | int, ...]
    value: Any

    def __call__(self, seg: FileDataset) -> None:
        target: Any = seg
        for step in self.where[:-1]:
            target = target[step] if isinstance(step, int) else getattr(target, step)
        name = str(self.where[-1])
        delattr(target, name) if self.value is None else setattr(target, name, self.value)


FRAME = ("PerFrameFunctionalGroupsSequence", 5)
SHARED = ("SharedFunctionalGroupsSequence", 0)
SEGMENT = ("SegmentSequence", 1)
REFERENCES = ("ReferencedSeriesSequence", 0)
SOURCE = (*FRAME, "DerivationImageSequence", 0, "SourceImageSequence", 0)


def shift_frame(seg: FileDataset) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence[0]
    x, y, z = (float(v) for v in position.ImagePositionPatient)
    position.ImagePositionPatient = [x, y + 0.02, z]


def refer_to_the_next_slice(seg: FileDataset) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    groups[5].DerivationImageSequence = groups[6].DerivationImageSequence


def swap_two_positions(seg: FileDataset) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    fifth, sixth = groups[5].PlanePositionSequence, groups[6].PlanePositionSequence
    groups[5].PlanePositionSequence, groups[6].PlanePositionSequence = sixth, fifth


def move_whole_frame_one_slice_on(seg: FileDataset) -> None:
    """Position and reference agree, so only the voxels tell."""
    last_of_body = seg.PerFrameFunctionalGroupsSequence[5]
    other = next(g for g in seg.PerFrameFunctionalGroupsSequence[:7] if g is not last_of_body)
    last_of_body.PlanePositionSequence = other.PlanePositionSequence
    last_of_body.DerivationImageSequence = other.DerivationImageSequence


def swap_segments_two_and_three(seg: FileDataset) -> None:
    exchange = {2: 3, 3: 2}
    for groups in seg.PerFrameFunctionalGroupsSequence:
        item = groups.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = exchange.get(item.ReferencedSegmentNumber, item.ReferencedSegmentNumber)


def drop_last_frame(seg: FileDataset) -> None:
    pixels = seg.pixel_array
    repack(seg, pixels[:-1])
    seg.PerFrameFunctionalGroupsSequence.pop()


def repeat_last_frame(seg: FileDataset) -> None:
    pixels = seg.pixel_array
    repack(seg, np.concatenate((pixels, pixels[-1:])))
    seg.PerFrameFunctionalGroupsSequence.append(seg.PerFrameFunctionalGroupsSequence[-1])


def add_a_frame_on_an_empty_slice(seg: FileDataset) -> None:
    """A frame of segment 4 on a slice that only other segments touch."""
    pixels = seg.pixel_array
    repack(seg, np.concatenate((pixels, pixels[-1:])))
    groups = Dataset()
    groups.update(seg.PerFrameFunctionalGroupsSequence[0])
    groups.SegmentIdentificationSequence = seg.PerFrameFunctionalGroupsSequence[-1].SegmentIdentificationSequence
    seg.PerFrameFunctionalGroupsSequence.append(groups)


def repack(seg: FileDataset, pixels: Any) -> None:
    packed = np.packbits(np.asarray(pixels).ravel(), bitorder="little").tobytes()
    seg.PixelData, seg.NumberOfFrames = packed + b"\0" * (len(packed) % 2), len(pixels)


def pixels_through(change: Callable[[Any], Any]) -> Mutation:
    return lambda seg: repack(seg, change(seg.pixel_array))


def flip_one_voxel(pixels: Any) -> Any:
    changed = np.array(pixels)
    changed[7, 4, 3] ^= 1
    return changed


def exceed_in_a_frame(seg: FileDataset) -> None:
    seg.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence[0].add_new(0x00091001, "LO", "more")


def refer_to_one_instance_twice(seg: FileDataset) -> None:
    items = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    items.append(items[0])


def say_more_of_a_reference(seg: FileDataset) -> None:
    seg.SourceImageSequence[2].ReferencedFrameNumber = 1


def leave_a_length_open(seg: FileDataset) -> None:
    seg["PerFrameFunctionalGroupsSequence"].is_undefined_length = True


def drop_one_reference(seg: FileDataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence.pop(2)


def renumber_third_segment(seg: FileDataset) -> None:
    seg.SegmentSequence[2].SegmentNumber = 5


def drop_a_segment(seg: FileDataset) -> None:
    seg.SegmentSequence.pop()


def give_a_frame_its_own_orientation(seg: FileDataset) -> None:
    item = Dataset()
    item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    seg.PerFrameFunctionalGroupsSequence[5].PlaneOrientationSequence = [item]


def forget_the_weights(seg: FileDataset) -> None:
    for segment in seg.SegmentSequence:
        segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters = "model=torso"


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "another patient's name": (Set(("PatientName",), "Other^Somebody"), "patient"),
    "another patient ID": (Set(("PatientID",), "OTHER"), "patient"),
    "no patient ID": (Set(("PatientID",), None), "patient"),
    "another birth date": (Set(("PatientBirthDate",), "19700101"), "patient"),
    "another sex": (Set(("PatientSex",), "F"), "patient"),
    "a weight that the source does not have": (Set(("PatientWeight",), "70"), "patient"),
    "another study": (Set(("StudyInstanceUID",), "1.2.3"), "study"),
    "another study date": (Set(("StudyDate",), "20200101"), "study"),
    "another accession number": (Set(("AccessionNumber",), "OTHER"), "study"),
    "another frame of reference": (Set(("FrameOfReferenceUID",), "1.2.3"), "frame_of_reference"),
    "another SOP Instance UID": (Set(("SOPInstanceUID",), "1.2.3"), "uids"),
    "another series": (Set(("SeriesInstanceUID",), "1.2.3"), "uids"),
    "another UID in the file meta": (Set(("file_meta", "MediaStorageSOPInstanceUID"), "1.2.3"), "uids"),
    "another SOP class": (Set(("SOPClassUID",), "1.2.840.10008.5.1.4.1.1.66.7"), "format"),
    "a fractional type": (Set(("SegmentationType",), "FRACTIONAL"), "format"),
    "no segments at all": (Set(("SegmentSequence",), None), "format"),
    "another series referred to": (Set((*REFERENCES, "SeriesInstanceUID"), "1.2.3"), "referenced_instances"),
    "a foreign instance referred to": (
        Set((*REFERENCES, "ReferencedInstanceSequence", 0, "ReferencedSOPInstanceUID"), "1.2.3"),
        "referenced_instances",
    ),
    "one source instance not referred to": (drop_one_reference, "referenced_instances"),
    "a frame that refers to the next slice": (refer_to_the_next_slice, "frame_reference"),
    "a foreign source image": (
        Set(("SourceImageSequence", 3, "ReferencedSOPInstanceUID"), "1.2.3"),
        "referenced_instances",
    ),
    "a frame of a foreign instance": (Set((*SOURCE, "ReferencedSOPInstanceUID"), "1.2.3"), "frame_reference"),
    "a frame off its source's pixels": (Set((*SOURCE, "SpatialLocationsPreserved"), "NO"), "frame_reference"),
    "a frame of another class": (Set((*SOURCE, "ReferencedSOPClassUID"), "1.2.3"), "frame_reference"),
    "a frame made for another purpose": (
        Set((*SOURCE, "PurposeOfReferenceCodeSequence", 0, "CodeValue"), "121321"),
        "frame_reference",
    ),
    "a frame made in another way": (
        Set((*FRAME, "DerivationImageSequence", 0, "DerivationCodeSequence", 0, "CodeValue"), "113091"),
        "frame_reference",
    ),
    "an element more in a frame": (exceed_in_a_frame, "format"),
    "a frame without a position": (Set((*FRAME, "PlanePositionSequence"), None), "format"),
    "frames of undefined length": (leave_a_length_open, "format"),
    "one source instance referred to twice": (refer_to_one_instance_twice, "referenced_instances"),
    "a source image with more than its UIDs": (say_more_of_a_reference, "format"),
    "a frame number where there are no frames": (Set((*SOURCE, "ReferencedFrameNumber"), 1), "frame_reference"),
    "a frame 0.02 mm off": (shift_frame, "position"),
    "two frames at each other's place": (swap_two_positions, "frame_reference"),
    "a frame moved to another slice": (move_whole_frame_one_slice_on, "extra_plane"),
    "rows mirrored in the orientation": (
        Set((*SHARED, "PlaneOrientationSequence", 0, "ImageOrientationPatient"), [-1, 0, 0, 0, 1, 0]),
        "orientation",
    ),
    "a frame with an orientation of its own": (give_a_frame_its_own_orientation, "orientation"),
    "another pixel spacing": (Set((*SHARED, "PixelMeasuresSequence", 0, "PixelSpacing"), [0.8, 0.81]), "spacing"),
    "another slice spacing": (Set((*SHARED, "PixelMeasuresSequence", 0, "SpacingBetweenSlices"), 3), "spacing"),
    "rows and columns exchanged": (lambda seg: (Set(("Rows",), 8)(seg), Set(("Columns",), 12)(seg), None)[2], "matrix"),
    "one frame too few in the count": (Set(("NumberOfFrames",), 18), "matrix"),
    "pixels cut short": (lambda seg: setattr(seg, "PixelData", seg.PixelData[:-2]), "matrix"),
    "a gap in the segment numbers": (renumber_third_segment, "segments"),
    "a segment not described": (drop_a_segment, "segments"),
    "another label": (Set((*SEGMENT, "SegmentLabel"), "Spleen"), "segments"),
    "dimension indices repeated": (
        Set((*FRAME, "FrameContentSequence", 0, "DimensionIndexValues"), [1, 1]),
        "segments",
    ),
    "another type code": (Set((*SEGMENT, "SegmentedPropertyTypeCodeSequence", 0, "CodeValue"), "1"), "segments"),
    "another category": (
        Set((*SEGMENT, "SegmentedPropertyCategoryCodeSequence", 0, "CodeValue"), "123037004"),
        "segments",
    ),
    "left for right": (
        Set(
            ("SegmentSequence", 2, "SegmentedPropertyTypeCodeSequence", 0,
             "SegmentedPropertyTypeModifierCodeSequence", 0, "CodeValue"),
            "24028007",
        ),
        "segments",
    ),
    "drawn by hand": (Set((*SEGMENT, "SegmentAlgorithmType"), "MANUAL"), "segments"),
    "overlap denied": (Set(("SegmentsOverlap",), "NO"), "overlap"),
    "no weights digest": (forget_the_weights, "model"),
    "no warning": (Set(("SeriesDescription",), "AI Torso structures"), "model"),
    "no word of AI": (Set(("SeriesDescription",), "Torso - not for diagnostic use"), "model"),
    "a missing frame": (drop_last_frame, "missing_plane"),
    "a frame twice": (repeat_last_frame, "extra_plane"),
    "a frame where nothing was found": (add_a_frame_on_an_empty_slice, "extra_plane"),
    "two segments exchanged": (swap_segments_two_and_three, "voxels"),
    "one voxel more or less": (pixels_through(flip_one_voxel), "voxels"),
    "pixels mirrored left to right": (pixels_through(lambda pixels: pixels[:, :, ::-1]), "voxels"),
    "pixels mirrored top to bottom": (pixels_through(lambda pixels: pixels[:, ::-1]), "voxels"),
    "frames in reverse order": (pixels_through(lambda pixels: pixels[::-1]), "voxels"),
    "pixels shifted by one column": (pixels_through(lambda pixels: np.roll(pixels, 1, axis=2)), "voxels"),
    "pixels shifted by one row": (pixels_through(lambda pixels: np.roll(pixels, 1, axis=1)), "voxels"),
    "bits in the other order": (
        lambda seg: setattr(seg, "PixelData", np.packbits(np.unpackbits(np.frombuffer(seg.PixelData, np.uint8)),
                                                          bitorder="little").tobytes()),
        "voxels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_result_with_one_thing_altered_is_blocked_and_the_reason_is_named(
    name: str, case: Case, good: Path, tmp_path: Path
) -> None:
    mutate, reason = MUTATIONS[name]
    seg = dcmread(good)
    mutate(seg)
    seg.save_as(tmp_path / "altered.dcm")
    assert reason in reasons(tmp_path / "altered.dcm", case)


def test_a_result_written_again_without_alteration_passes(case: Case, good: Path, tmp_path: Path) -> None:
    dcmread(good).save_as(tmp_path / "again.dcm")
    assert reasons(tmp_path / "again.dcm", case) == set()


@pytest.mark.parametrize("name", image_orientations())
def test_a_good_result_passes_in_every_orientation(name: str, tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct", affine(image_orientations()[name]))
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    assert reasons(seg.path, case) == set()


def test_a_good_result_of_a_tilted_gantry_passes(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct", affine(tilted()), blobs((10, 7, 9)))
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    assert reasons(seg.path, case) == set()


def test_labels_on_slices_in_reverse_order_are_blocked_although_the_object_is_consistent(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    old = case.segmentation
    turned = Segmentation(old.labels, old.geometry, old.sources[::-1], old.segments, old.model)
    reversed_case = Case(turned, case.sources, case.request)
    seg = encode_seg(turned, case.sources, case.request, tmp_path / "seg.dcm")
    assert "source_grid" in reasons(seg.path, reversed_case)


def test_a_request_for_a_uid_of_the_source_is_blocked(case: Case, tmp_path: Path) -> None:
    taken = replace(case.request, instance_uid=case.segmentation.sources[0].sop_instance_uid)
    seg = encode_seg(case.segmentation, case.sources, taken, tmp_path / "seg.dcm")
    assert "uids" in reasons(seg.path, Case(case.segmentation, case.sources, taken))


def test_a_source_of_another_patient_among_the_slices_is_blocked(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    stranger = case.sources[case.segmentation.sources[4].sop_instance_uid]
    ds = dcmread(stranger)
    ds.PatientID = "SOMEBODY ELSE"
    ds.save_as(stranger)
    assert reasons(seg.path, case) == {"patient"}


def test_a_plane_that_the_writer_did_not_know_of_is_missed(tmp_path: Path) -> None:
    """The check looks at the voxels: what they were counted as does not matter to it."""
    labels = blobs()
    case = build_case(tmp_path / "ct", labels=labels)
    labels[-1, 3, 3] = 2  # behind the segmentation's back, on a slice that held nothing when it was counted
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    assert reasons(seg.path, case) == {"missing_plane"}


def test_a_source_that_moved_after_the_result_was_written_is_blocked(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    path = case.sources[case.segmentation.sources[4].sop_instance_uid]
    ds = dcmread(path)
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [x, y, z + 0.02]
    ds.save_as(path)
    assert reasons(seg.path, case) == {"position"}


def test_a_source_that_is_damaged_now_is_blocked(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    path = case.sources[case.segmentation.sources[4].sop_instance_uid]
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"XSO_\0R 192"))
    with pytest.raises(ResultMismatch, match="readable header"):
        check_seg(seg.path, case.segmentation, case.sources, case.request)


def test_a_patient_id_in_other_characters_but_of_the_same_letters_is_the_same(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    for path, charset in zip(case.sources.values(), cycle(("ISO_IR 100", "ISO_IR 192")), strict=False):
        ds = dcmread(path)
        ds.SpecificCharacterSet, ds.PatientID = charset, "MÜLLER 1"
        ds.save_as(path)
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    assert reasons(seg.path, case) == set()


def test_another_transfer_syntax_is_blocked(case: Case, good: Path, tmp_path: Path) -> None:
    seg = dcmread(good)
    seg.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    seg.save_as(tmp_path / "implicit.dcm", implicit_vr=True)
    assert reasons(tmp_path / "implicit.dcm", case) & {"format", "unreadable"}


@pytest.mark.parametrize("length", [0, 100, 3000, -1, -40])
def test_a_file_cut_short_is_blocked(length: int, case: Case, good: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(good.read_bytes()[:length])
    assert reasons(tmp_path / "cut.dcm", case) & {"format", "unreadable"}


def test_a_file_that_is_gone_is_blocked(case: Case, tmp_path: Path) -> None:
    assert reasons(tmp_path / "absent.dcm", case) == {"unreadable"}
