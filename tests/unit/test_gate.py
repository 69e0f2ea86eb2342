"""The geometry gate: what passes, what is put right, what is refused, and what it says about it."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicomnode.assembly.gate import inspect
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Finding, Policy
from tests.assembly_cases import (
    IDENTITY,
    Change,
    changed,
    ct_slices,
    enhanced,
    grid,
    inspected,
    refusal,
    renamed,
    series_of,
    speckle,
    stepwise,
)
from tests.encoding_cases import affine, tilted

REPAIR = Policy.REPAIR


def lie_across(ds: FileDataset) -> None:
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def test_a_good_series_passes_without_a_verdict_on_the_grid_it_was_made_on(tmp_path: Path):
    inspection = inspected(ct_slices(), tmp_path)
    assert inspection.verdicts == ()
    assert inspection.modality == "CT"
    assert inspection.geometry.is_close_to(grid(), tolerance_mm=1e-6)


def test_slices_are_ordered_along_their_normal_whatever_their_files_and_numbers_say(tmp_path: Path):
    slices = ct_slices()
    for number, ds in enumerate(reversed(slices)):
        ds.InstanceNumber = str(number)
    expected = [str(ds.SOPInstanceUID) for ds in slices]
    series = series_of([slices[i] for i in (3, 0, 5, 1, 4, 2)], tmp_path)
    assert [source.sop_instance_uid for source in inspect(series).sources] == expected


def test_each_slice_keeps_the_position_that_stands_in_its_file(tmp_path: Path):
    slices = stepwise([0.0, 3.987, 7.975, 11.962, 15.949])
    inspection = inspected(slices, tmp_path)
    assert [header.plane.position_mm[2] for header in inspection.slices] == [0.0, 3.987, 7.975, 11.962, 15.949]


def test_rounded_positions_do_not_add_up(tmp_path: Path):
    exact = [0.625 * number for number in range(200)]
    inspection = inspected(stepwise([round(z, 1) for z in exact]), tmp_path)
    fitted = [inspection.geometry.position_mm(number)[2] for number in range(200)]
    assert np.abs(np.array(fitted) - exact).max() < 0.01


def test_a_missing_slice_is_refused_and_the_gap_is_named_in_mm(tmp_path: Path):
    slices = ct_slices()
    del slices[2]
    verdict = refusal(series_of(slices, tmp_path))[Finding.MISSING_SLICES]
    assert "1 missing" in verdict.sentence
    assert "expected 2.50 mm" in verdict.sentence
    assert "5.00 mm after slice 2" in verdict.sentence
    assert set(verdict.sop_instance_uids) == {str(slices[1].SOPInstanceUID), str(slices[2].SOPInstanceUID)}


def test_uneven_slices_are_refused_with_the_distances(tmp_path: Path):
    verdicts = refusal(series_of(stepwise([0, 2, 4, 6, 9.2, 11.2]), tmp_path))
    assert "expected 2.00 mm between slices, found 3.20 mm after slice 4" in verdicts[Finding.UNEVEN_SPACING].sentence


def test_a_slice_that_drifts_sideways_is_refused(tmp_path: Path):
    slices = ct_slices()
    slices[3].ImagePositionPatient = [-101.25, -86.0, 33.125 + 3 * 2.5]
    verdict = refusal(series_of(slices, tmp_path))[Finding.UNEVEN_SPACING]
    assert "slice 4 lies" in verdict.sentence
    assert verdict.sop_instance_uids == (str(slices[3].SOPInstanceUID),)


def test_spacing_that_grows_slowly_is_refused_although_neighbours_agree(tmp_path: Path):
    positions = [float(z) for z in np.cumsum([2 + 0.01 * number for number in range(40)])]
    assert Finding.UNEVEN_SPACING in refusal(series_of(stepwise(positions), tmp_path))


def test_a_gantry_tilt_is_sheared_and_its_degrees_are_recorded(tmp_path: Path):
    tilt = affine(tilted(18.5))
    inspection = inspected(ct_slices(tilt), tmp_path)
    assert [verdict.finding for verdict in inspection.verdicts] == [Finding.GANTRY_TILT]
    assert "18.50 degrees" in inspection.verdicts[0].sentence
    assert inspection.geometry.is_sheared
    assert inspection.geometry.is_close_to(grid(tilt), tolerance_mm=1e-5)


def test_a_site_may_refuse_what_would_be_repaired(tmp_path: Path):
    series = series_of(ct_slices(affine(tilted(5))), tmp_path)
    assert Finding.GANTRY_TILT in refusal(series, {Finding.GANTRY_TILT: Policy.REFUSE})


@pytest.mark.parametrize("image_type", ["LOCALIZER", "AXIAL"])
def test_a_localizer_in_the_series_is_set_aside_marked_or_not(tmp_path: Path, image_type: str):
    slices = ct_slices(voxels=speckle((20, 5, 4)))
    scout = renamed(ct_slices()[0], "scout")
    lie_across(scout)
    scout.ImageType = ["ORIGINAL", "PRIMARY", image_type]
    inspection = inspected([*slices, scout], tmp_path)
    assert [verdict.finding for verdict in inspection.verdicts] == [Finding.LOCALIZER]
    assert inspection.verdicts[0].sop_instance_uids == (str(scout.SOPInstanceUID),)
    assert inspection.geometry.shape[0] == 20


def test_a_series_of_localizers_is_refused(tmp_path: Path):
    def mark(ds: FileDataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    verdicts = refusal(series_of(changed(mark), tmp_path))
    assert "6 of 6 instances are localizers" in verdicts[Finding.LOCALIZER].sentence
    assert Finding.TOO_FEW_SLICES in verdicts


def make_dose_page(ds: FileDataset) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored = "RGB", 3, 8, 8


def make_colour(ds: FileDataset) -> None:
    ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration = "RGB", 3, 0


@pytest.mark.parametrize("change", [make_dose_page, make_colour])
def test_a_page_that_is_no_slice_is_set_aside(tmp_path: Path, change: Change):
    page = renamed(ct_slices()[0], "page")
    change(page)
    inspection = inspected([*ct_slices(), page], tmp_path)
    assert [verdict.finding for verdict in inspection.verdicts] == [Finding.NOT_A_SLICE]
    assert inspection.geometry.shape[0] == 6


def test_the_same_instance_twice_counts_once(tmp_path: Path):
    again = ct_slices()[2]
    again.file_meta.SourceApplicationEntityTitle = "ANOTHER"
    inspection = inspected([*ct_slices(), again], tmp_path)
    assert [verdict.finding for verdict in inspection.verdicts] == [Finding.DUPLICATE_INSTANCE]
    assert inspection.geometry.shape[0] == 6


def test_one_uid_with_two_contents_is_refused(tmp_path: Path):
    other = ct_slices(voxels=speckle(seed=2))[2]
    verdict = refusal(series_of([*ct_slices(), other], tmp_path))[Finding.CONFLICTING_INSTANCE]
    assert verdict.sop_instance_uids == (str(other.SOPInstanceUID),)


def test_the_same_slice_under_two_uids_counts_once(tmp_path: Path):
    inspection = inspected([*ct_slices(), renamed(ct_slices()[2], "copy")], tmp_path)
    assert [verdict.finding for verdict in inspection.verdicts] == [Finding.DUPLICATE_INSTANCE]
    assert inspection.geometry.shape[0] == 6


def test_two_different_slices_in_one_place_are_refused(tmp_path: Path):
    rival = renamed(ct_slices(voxels=speckle(seed=2))[2], "rival")
    verdict = refusal(series_of([*ct_slices(), rival], tmp_path))[Finding.DUPLICATE_POSITION]
    assert "2 slices with different content share 1 positions" in verdict.sentence
    assert str(rival.SOPInstanceUID) in verdict.sop_instance_uids


def change_patient(ds: FileDataset) -> None:
    ds.PatientID = "SECRET-2"


def change_name(ds: FileDataset) -> None:
    ds.PatientName = "Secret^Person"


def change_study(ds: FileDataset) -> None:
    ds.StudyInstanceUID = "1.2.3"


def change_frame_of_reference(ds: FileDataset) -> None:
    ds.FrameOfReferenceUID = "1.2.3"


def drop_frame_of_reference(ds: FileDataset) -> None:
    del ds.FrameOfReferenceUID


def change_modality(ds: FileDataset) -> None:
    ds.Modality = "SEG"


def give_effective_atomic_numbers(ds: FileDataset) -> None:
    ds.RescaleType = "Z_EFF"


def drop_intercept(ds: FileDataset) -> None:
    del ds.RescaleIntercept


def give_no_slope(ds: FileDataset) -> None:
    ds.RescaleSlope = "0"


def drop_position(ds: FileDataset) -> None:
    del ds.ImagePositionPatient


def flatten_pixels(ds: FileDataset) -> None:
    ds.PixelSpacing = [0, 0.8]


def skew_cosines(ds: FileDataset) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0.5, 0.866, 0]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (change_patient, Finding.MIXED_PATIENTS),
        (change_name, Finding.MIXED_PATIENTS),
        (change_study, Finding.MIXED_STUDIES),
        (change_frame_of_reference, Finding.MIXED_FRAMES_OF_REFERENCE),
        (drop_frame_of_reference, Finding.MISSING_GEOMETRY),
        (change_modality, Finding.WRONG_MODALITY),
        (give_effective_atomic_numbers, Finding.WRONG_MODALITY),
        (drop_intercept, Finding.WRONG_MODALITY),
        (give_no_slope, Finding.WRONG_MODALITY),
        (drop_position, Finding.MISSING_GEOMETRY),
        (flatten_pixels, Finding.MISSING_GEOMETRY),
        (skew_cosines, Finding.MISSING_GEOMETRY),
    ],
)
def test_one_wrong_slice_is_refused_and_named(tmp_path: Path, change: Change, finding: Finding):
    slices = ct_slices()
    change(slices[4])
    verdict = refusal(series_of(slices, tmp_path))[finding]
    assert verdict.sop_instance_uids == (str(slices[4].SOPInstanceUID),)
    assert "ecret" not in str(verdict)


def test_case_and_trailing_name_components_do_not_make_another_patient(tmp_path: Path):
    slices = ct_slices()
    slices[1].PatientName = f"{str(IDENTITY.patient_name).upper()}^^^ "
    assert inspected(slices, tmp_path).verdicts == ()


def enlarge_pixels(ds: FileDataset) -> None:
    ds.PixelSpacing = [0.9, 0.8]


def shrink_matrix(ds: FileDataset) -> None:
    ds.Rows = 4


def turn_over(ds: FileDataset) -> None:
    ds.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


MIXTURES = [
    (enlarge_pixels, Finding.MIXED_PIXEL_SPACING),
    (shrink_matrix, Finding.MIXED_MATRIX),
    (turn_over, Finding.MIXED_ORIENTATION),
]


@pytest.mark.parametrize(("change", "finding"), MIXTURES)
def test_mixed_slices_are_refused(tmp_path: Path, change: Change, finding: Finding):
    slices = ct_slices()
    change(slices[5])
    assert finding in refusal(series_of(slices, tmp_path))


@pytest.mark.parametrize(("change", "finding"), MIXTURES)
def test_a_site_may_keep_the_majority_of_mixed_slices(tmp_path: Path, change: Change, finding: Finding):
    slices = ct_slices()
    change(slices[5])
    inspection = inspect(series_of(slices, tmp_path), {finding: REPAIR})
    assert [(verdict.finding, verdict.policy) for verdict in inspection.verdicts] == [(finding, REPAIR)]
    assert inspection.geometry.shape == (5, 5, 4)


@pytest.mark.parametrize(("change", "finding"), MIXTURES)
def test_half_of_the_slices_are_no_majority(tmp_path: Path, change: Change, finding: Finding):
    slices = ct_slices()
    for ds in slices[3:]:
        change(ds)
    assert refusal(series_of(slices, tmp_path), {finding: REPAIR})[finding].policy is Policy.REFUSE


def test_two_slices_are_too_few_to_see_a_gap(tmp_path: Path):
    verdict = refusal(series_of(ct_slices()[:2], tmp_path))[Finding.TOO_FEW_SLICES]
    assert "found 2" in verdict.sentence


def test_a_series_over_the_voxel_limit_is_refused_before_its_pixels_are_touched(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    assert inspect(series, max_voxels=6 * 5 * 4).geometry.shape == (6, 5, 4)
    with pytest.raises(UnusableSeries, match=r"too_large: expected at most 119 voxels .* found 120"):
        inspect(series, max_voxels=119)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path):
    slices = ct_slices(affine(tilted(5)))
    change_patient(slices[0])
    change_study(slices[1])
    del slices[3]
    expected = {Finding.MIXED_PATIENTS, Finding.MIXED_STUDIES, Finding.MISSING_SLICES, Finding.GANTRY_TILT}
    assert set(refusal(series_of(slices, tmp_path))) == expected


def test_a_wrong_modality_may_be_used_as_it_stands_if_the_site_says_so(tmp_path: Path):
    series = series_of(changed(change_modality), tmp_path)
    inspection = inspect(series, {Finding.WRONG_MODALITY: Policy.WARN})
    assert [verdict.policy for verdict in inspection.verdicts] == [Policy.WARN]
    assert inspection.modality == "CT"


def test_frames_of_an_enhanced_instance_are_slices_in_order_of_their_positions(tmp_path: Path):
    order = (2, 0, 1, 5, 3, 4)
    inspection = inspected([enhanced(ct_slices(), order)], tmp_path)
    assert inspection.geometry.is_close_to(grid(), tolerance_mm=1e-6)
    assert [source.frame_number for source in inspection.sources] == [order.index(n) + 1 for n in range(6)]


def test_an_enhanced_instance_without_groups_for_every_frame_is_refused(tmp_path: Path):
    whole = enhanced(ct_slices(), range(6))
    del whole.PerFrameFunctionalGroupsSequence[5]
    verdict = refusal(series_of([whole], tmp_path))[Finding.MISSING_GEOMETRY]
    assert "functional groups of 1 of 6 frames" in verdict.sentence


@pytest.mark.parametrize("pixel_mm", ["0.000000001", "1000000"])
def test_pixels_of_a_size_that_no_scanner_has_are_refused(tmp_path: Path, pixel_mm: str):
    def resize(ds: FileDataset) -> None:
        ds.PixelSpacing = [pixel_mm, "1"]

    found = refusal(series_of(changed(resize), tmp_path))[Finding.IMPLAUSIBLE_GEOMETRY]
    assert "expected a pixel spacing of 0.01 to 100 mm" in found.sentence


def test_slices_half_a_metre_apart_are_no_volume(tmp_path: Path):
    found = refusal(series_of(stepwise([0, 500, 1000, 1500]), tmp_path))[Finding.IMPLAUSIBLE_GEOMETRY]
    assert "found 500" in found.sentence


def test_a_matrix_of_one_pixel_is_no_volume(tmp_path: Path):
    slices = ct_slices(voxels=np.zeros((4, 1, 1), np.int16))
    assert Finding.IMPLAUSIBLE_GEOMETRY in refusal(series_of(slices, tmp_path))
