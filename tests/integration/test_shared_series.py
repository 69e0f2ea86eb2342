"""Every real series of the shared data: the right verdict, or the right volume, and why the odd ones are odd."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everyone calls it
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import assemble
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Finding, Policy, Series, Verdict, Volume, derived_uid
from tests.assembly_cases import refusal, series_in
from tests.peers import shared_data

F = Finding


@dataclass(frozen=True, slots=True)
class Usable:
    """A series that becomes a volume."""

    folder: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    hu: tuple[int, int]  # lowest and highest
    repaired: tuple[Finding, ...] = ()


USABLE = (
    # Feet first, thickness 3.2 mm at a spacing of 2.0: overlapping slices are fine, thickness is not spacing.
    Usable("series/chaos-liver/DICOM_anon", (78, 512, 512), (2.0, 0.7265625, 0.7265625), (-1000, 1434)),
    # Positions rounded to 3 decimals: gaps of 3.987 and 3.988 mm are one spacing.
    Usable("series/cip-chest-64/ct-64Dicom", (79, 64, 64), (3.98734, 4.171872, 4.171872), (-1007, 1095)),
    Usable("series/kits-00072", (18, 512, 512), (2.5, 0.6640625, 0.6640625), (-1024, 1334)),
    # The tilt is in the slice step: 2.37 mm along the normal, 2.5 mm along the table.
    Usable(
        "series/philips-phantom-tilt/S21610/S2010/",
        (30, 512, 512),
        (2.5, 0.482421875, 0.482421875),
        (-1024, 791),
        repaired=(F.GANTRY_TILT,),
    ),
    # No HU (Rescale Type US, values from 0): an MR that was filed as CT. It says CT, nothing in it says otherwise.
    Usable("series/torchio-small", (17, 128, 88), (2.0, 2.0, 2.0), (0, 696)),
)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A series that is refused for exactly these reasons, after exactly these repairs."""

    folder: str
    refused: tuple[Finding, ...]
    repaired: tuple[Finding, ...] = ()
    says: str = ""


UNUSABLE = (
    # A tilted head in two spacings (4.0 mm at the base of the skull, 7.0 above) and a gap of 1.08 mm between them.
    Unusable("series/ge-head-tilt-uneven", (F.UNEVEN_SPACING,), (F.GANTRY_TILT,), "1.08 mm after slice 14"),
    # The single localizer of that study.
    Unusable("series/philips-phantom-tilt/S21610/S1000", (F.TOO_FEW_SLICES,), (F.LOCALIZER,), "found 0"),
    # Three RGB dose pages and two reference surviews, all Secondary Capture with Modality CT.
    Unusable("series/philips-phantom-tilt/S21610/S4010", (F.TOO_FEW_SLICES,), (F.NOT_A_SLICE,), "5 of 5"),
    # Anonymised without a Frame of Reference UID, like everything of dicom2nifti: a SEG could not refer to its space.
    # The tilt of 14 degrees alone would be repaired.
    Unusable("reject/dicom2nifti/failing/gantrytilting/001", (F.MISSING_GEOMETRY,), (F.GANTRY_TILT,), "14.00 degrees"),
    Unusable(
        "reject/dicom2nifti/failing/notavolume/001",
        (F.DUPLICATE_POSITION, F.TOO_FEW_SLICES, F.MISSING_GEOMETRY),
        says="4 slices with different content share 1 positions",
    ),
    # Two slices of a sagittal MR.
    Unusable("reject/dicom2nifti/failing/slicecount/001/", (F.TOO_FEW_SLICES, F.MISSING_GEOMETRY), says="found 2"),
    Unusable(
        "reject/dicom2nifti/failing/sliceincrement/001",
        (F.MISSING_SLICES, F.MISSING_GEOMETRY),
        says="1 missing, expected 5.00 mm between slices, found 10.00 mm after slice 3",
    ),
    # The distances along the normal of a stack tilted by 15.5 degrees.
    Unusable(
        "reject/dicom2nifti/failing/sliceincrement/002/",
        (F.MISSING_SLICES, F.MISSING_GEOMETRY),
        (F.GANTRY_TILT,),
        "1 missing, expected 0.75 mm between slices, found 1.50 mm after slice 3",
    ),
    # Two sagittal and two coronal slices: neither is a majority.
    Unusable(
        "reject/dicom2nifti/failing/sliceorientation/001",
        (F.MIXED_ORIENTATION, F.TOO_FEW_SLICES, F.MISSING_GEOMETRY),
        says="2 of 4 slices lie across the others, at 90.0 degrees",
    ),
    # Of the two slices at one position one is a copy of the other; between the three places 32.5 and 47.5 mm are empty.
    Unusable("reject/duplicate-positions", (F.UNEVEN_SPACING,), (F.DUPLICATE_INSTANCE,), "47.50 mm after slice 2"),
    # Each slice has a frame of reference of its own. The pixels are broken too: see the test below.
    Unusable("reject/fda-phantom-j2k", (F.MIXED_FRAMES_OF_REFERENCE,), says="found 5"),
    Unusable("reject/modality-seg-as-ct", (F.WRONG_MODALITY, F.TOO_FEW_SLICES), says="modality SEG in a CT SOP class"),
)


def series_at(folder: str) -> Series:
    found = series_from_paths([shared_data(folder)])
    assert len(found.series) == 1
    return found.series[0]


@pytest.mark.parametrize("expected", USABLE, ids=lambda expected: expected.folder)
def test_a_usable_series_becomes_the_right_volume(expected: Usable):
    inspection = inspect(series_at(expected.folder))
    volume = assemble(inspection)
    assert volume.geometry.shape == expected.shape
    assert volume.geometry.spacing_mm == pytest.approx(expected.spacing_mm, abs=1e-5)
    assert (volume.voxels.dtype, volume.voxels.min(), volume.voxels.max()) == (np.int16, *expected.hu)
    assert tuple(verdict.finding for verdict in inspection.verdicts) == expected.repaired


@pytest.mark.parametrize("expected", USABLE, ids=lambda expected: expected.folder)
def test_every_voxel_of_a_usable_series_is_within_a_hundredth_mm_of_where_its_file_says(expected: Usable):
    inspection = inspect(series_at(expected.folder))
    for index, header in enumerate(inspection.slices):
        assert np.abs(inspection.geometry.position_mm(index) - header.plane.position_mm).max() < 0.01


@pytest.mark.parametrize("expected", UNUSABLE, ids=lambda expected: expected.folder)
def test_an_unusable_series_is_refused_for_the_right_reasons(expected: Unusable):
    verdicts = refusal(series_at(expected.folder)).values()
    assert {v.finding for v in verdicts if v.policy is Policy.REFUSE} == set(expected.refused)
    assert {v.finding for v in verdicts if v.policy is not Policy.REFUSE} == set(expected.repaired)
    assert expected.says in "; ".join(str(verdict) for verdict in verdicts)


def test_every_series_and_reject_folder_is_in_the_table():
    elsewhere = {"siim-patient-positions", "totalseg-example"}
    listed = {expected.folder.split("/")[1] for expected in (*USABLE, *UNUSABLE)} | elsewhere
    assert {p.name for top in ("series", "reject") for p in shared_data(top).iterdir()} == listed


def test_each_single_slice_is_refused_but_read_whatever_its_decimal_strings_look_like():
    found = series_from_paths([shared_data("series/siim-patient-positions")])
    assert (len(found.series), found.rejected) == (14, ())
    for series in found.series:
        assert set(refusal(series)) == {Finding.TOO_FEW_SLICES}


@pytest.mark.parametrize(
    "folder", ["series/chaos-liver/DICOM_anon", "series/kits-00072", "series/cip-chest-64/ct-64Dicom"]
)
def test_itk_reads_the_same_volume(folder: str):
    volume = assemble(inspect(series_at(folder)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(shared_data(folder))))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    last = [n - 1 for n in volume.geometry.shape]
    ours = volume.geometry.to_patient_mm(np.array([last], dtype=np.float64))[0]
    assert np.allclose(image.TransformIndexToPhysicalPoint(last[::-1]), ours, atol=0.01)


def restamped(path: Path, name: str) -> FileDataset:
    """A data set with UIDs where anonymisation left none, or under others."""
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(derived_uid("restamped", name))
    ds.SeriesInstanceUID, ds.StudyInstanceUID = derived_uid("series"), derived_uid("study")
    ds.FrameOfReferenceUID = derived_uid("frame of reference")
    return ds


def saved(datasets: Sequence[FileDataset], folder: Path) -> Series:
    for number, ds in enumerate(datasets):
        ds.save_as(folder / f"{number}.dcm")
    return series_in(folder)


def test_instances_without_uids_are_named_and_with_uids_their_jpeg_2000_reads_as_itk_reads_it(tmp_path: Path):
    folder = shared_data("series/totalseg-example/example_ct_dicom")
    found = series_from_paths([folder])
    assert (found.series, len(found.rejected)) == ((), 20)
    assert {r.reason for r in found.rejected} == {"expected a valid SOPInstanceUID in the file, found none"}
    paths = sorted(folder.iterdir())
    volume = assemble(inspect(saved([restamped(path, path.name) for path in paths], tmp_path)))
    assert volume.geometry.spacing_mm == pytest.approx((2.0, 0.9765625, 0.9765625))
    expected = {slice_position(path): sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0] for path in paths}
    assert np.array_equal(volume.voxels, np.stack([expected[z] for z in sorted(expected)]))


def slice_position(path: Path) -> float:
    return float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def test_jpeg_2000_that_no_decoder_reads_is_refused_with_every_instance_named(tmp_path: Path):
    paths = sorted(shared_data("reject/fda-phantom-j2k").iterdir())
    series = saved([restamped(path, path.name) for path in paths], tmp_path)
    with pytest.raises(UnusableSeries) as caught:
        assemble(inspect(series))
    verdict = caught.value.verdicts[0]
    assert isinstance(verdict, Verdict)
    assert verdict.finding is Finding.UNDECODABLE_PIXELS
    assert set(verdict.sop_instance_uids) == {i.sop_instance_uid for i in series.instances}


CTIMAGE = "codecs/cornerstone3d/CTImage.dcm"
LOSSLESS = {
    "1.2.840.10008.1.2": "LittleEndianImplicitTransferSyntax",
    "1.2.840.10008.1.2.1": "LittleEndianExplicitTransferSyntax",
    "1.2.840.10008.1.2.5": "RLELosslessTransferSyntax",
    "1.2.840.10008.1.2.4.57": "JPEGProcess14TransferSyntax",
    "1.2.840.10008.1.2.4.70": "JPEGProcess14SV1TransferSyntax",
    "1.2.840.10008.1.2.4.80": "JPEGLSLosslessTransferSyntax",
    "1.2.840.10008.1.2.4.90": "JPEG2000LosslessOnlyTransferSyntax",
}


def stacked(path: Path, folder: Path, images: int = 3) -> Volume:
    """One image, at several places, as a series; its pixels stay as they are coded."""
    slices = [restamped(path, str(number)) for number in range(images)]
    for number, ds in enumerate(slices):
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, float(z) + 5 * number]
    return assemble(inspect(saved(slices, folder)))


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_lossless_transfer_syntax_gives_the_same_hu(tmp_path: Path, syntax: str):
    volume = stacked(shared_data(f"{CTIMAGE}_{LOSSLESS[syntax]}_{syntax}.dcm"), tmp_path)
    ds = dcmread(shared_data(CTIMAGE))
    expected = ds.pixel_array.astype(np.int32) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
    assert np.array_equal(volume.voxels[1], expected)


def test_a_codestream_that_crashes_its_decoder_refuses_its_series_and_nothing_else(tmp_path: Path):
    path = shared_data(f"{CTIMAGE}_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm")
    slices = [restamped(path, str(number)) for number in range(3)]
    for number, ds in enumerate(slices):
        ds.ImagePositionPatient = [0, 0, 5 * number]
    pixels = bytearray(slices[1].PixelData)
    pixels[pixels.index(b"\xff\xd8") + 24] = 0xFF  # 16 bits of precision become 255: gdcm 3.0 crashes
    slices[1].PixelData = bytes(pixels)
    with pytest.raises(UnusableSeries, match="cannot be decoded") as caught:
        assemble(inspect(saved(slices, tmp_path)))
    verdict = caught.value.verdicts[0]
    assert isinstance(verdict, Verdict)
    assert slices[1].SOPInstanceUID in verdict.sop_instance_uids


def test_big_endian_gives_the_same_hu(tmp_path: Path):
    path = shared_data(f"{CTIMAGE}_BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm")
    volume = stacked(path, tmp_path)
    assert np.array_equal(volume.voxels[0], stacked(shared_data(CTIMAGE), tmp_path_of(tmp_path)).voxels[0])


def tmp_path_of(folder: Path) -> Path:
    other = folder.with_name(f"{folder.name}-other")
    other.mkdir()
    return other


@pytest.mark.parametrize(
    ("name", "most"),
    [("JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81", 1), ("JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91", 5)],
)
def test_nearly_lossless_syntaxes_differ_by_a_few_hu(tmp_path: Path, name: str, most: int):
    volume = stacked(shared_data(f"{CTIMAGE}_{name}.dcm"), tmp_path)
    expected = stacked(shared_data(CTIMAGE), tmp_path_of(tmp_path)).voxels.astype(np.int32)
    assert 0 < np.abs(volume.voxels - expected).max() <= most


@pytest.mark.parametrize("image", ["CT1", "CT2"])
def test_the_nema_images_agree_across_their_lossless_codecs(tmp_path: Path, image: str):
    folder = shared_data("codecs/nema-wg04")
    volumes: dict[str, NDArray[np.generic]] = {}
    for codec in ("RLE", "JPLL", "JLSL", "J2KR"):
        (tmp_path / codec).mkdir()
        volumes[codec] = stacked(folder / codec / f"{image}_{codec}", tmp_path / codec).voxels
    assert all(np.array_equal(volumes["RLE"], voxels) for voxels in volumes.values())
    assert volumes["RLE"].min() < -900


MULTI_FRAME = "codecs/dicomparser-multiframe/encapsulated/multi-frame"


@pytest.mark.parametrize(
    "name",
    [
        "fragmented_no_bot_jpeg_lossless.57",
        "fragmented_no_bot_jpeg_lossless.70",
        "fragmented_no_bot_jpeg_ls.80",
        "not_fragmented_bot_jpeg_ls.80",
        "not_fragmented_no_bot_jpeg_ls.80",
        "not_fragmented_bot_rle",
        "not_fragmented_no_bot_rle",
    ],
)
def test_frames_of_an_enhanced_ct_are_found_however_they_are_cut_into_fragments(tmp_path: Path, name: str):
    coded = two_instances(shared_data(f"{MULTI_FRAME}/CT0012.{name}.dcm"), tmp_path)
    plain = two_instances(shared_data(f"{MULTI_FRAME}/CT0012.explicit_little_endian.dcm"), tmp_path_of(tmp_path))
    assert coded.geometry.shape == (4, 512, 512)
    assert [source.frame_number for source in coded.sources] == [2, 1, 2, 1]  # their normal points to the feet
    assert np.array_equal(coded.voxels, plain.voxels)
    assert not np.array_equal(coded.voxels[0], coded.voxels[1])


def two_instances(path: Path, folder: Path) -> Volume:
    """Two instances of two frames 10 mm apart, one on top of the other."""
    lower, upper = restamped(path, "lower"), restamped(path, "upper")
    for frame in upper.PerFrameFunctionalGroupsSequence:
        x, y, z = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [x, y, float(z) + 20]
    return assemble(inspect(saved([lower, upper], folder)))


def test_no_object_of_others_is_taken_for_a_volume_or_stops_the_gate():
    found = series_from_paths([shared_data("objects"), shared_data("codecs")])
    usable: list[tuple[str, int]] = []
    for series in found.series:
        try:
            inspection = inspect(series)
        except UnusableSeries:
            continue
        usable.append((inspection.modality, len(inspection.slices)))
    assert len(found.series) > 20
    assert all(modality in ("CT", "MR") and slices >= 3 for modality, slices in usable)
