"""Stored pixels -> HU: signs, bits, rescaling, padding, byte order, codecs, and what cannot be decoded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.assembly.decode_pool import CodedSlice, DecodingLimits, decode_slices
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import CT_PADDING_HU, assemble
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Finding, Verdict, Volume
from tests.assembly_cases import SHAPE, Change, changed, ct_slices, enhanced, refusal, series_in, series_of, speckle

HU = speckle()


def assembled(slices: Sequence[FileDataset], folder: Path) -> Volume:
    return assemble(inspect(series_of(slices, folder)))


def store(values: NDArray[np.int64], ds: FileDataset, dtype: str = "<i2") -> None:
    """Write other stored values into a slice."""
    ds.PixelData = values.astype(dtype).tobytes()
    ds.PixelRepresentation = int(np.dtype(dtype).kind == "i")


def stored(ds: FileDataset) -> NDArray[np.int64]:
    return np.frombuffer(ds.PixelData, "<i2").reshape(SHAPE[1:]).astype(np.int64)


def make_unsigned(ds: FileDataset) -> None:
    store(stored(ds), ds, "<u2")


def make_unsigned_12_bit_with_an_overlay_above(ds: FileDataset) -> None:
    store(stored(ds) | 0xA000, ds, "<u2")
    ds.BitsStored, ds.HighBit = 12, 11


def make_signed_13_bit_without_sign_extension(ds: FileDataset) -> None:
    values = stored(ds) + int(ds.RescaleIntercept)
    store(values & 0x1FFF, ds)
    ds.RescaleIntercept, ds.BitsStored, ds.HighBit = "0", 13, 12


def make_high_bit_15(ds: FileDataset) -> None:
    store(stored(ds) << 4, ds, "<u2")
    ds.BitsStored, ds.HighBit = 12, 15


def make_halved(ds: FileDataset) -> None:
    store(stored(ds) * 2 + 2048, ds)
    ds.RescaleSlope, ds.RescaleIntercept = "0.5", "-2048"


def make_negative_slope(ds: FileDataset) -> None:
    store(-stored(ds), ds)
    ds.RescaleSlope = "-1"


def make_implicit(ds: FileDataset) -> None:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def make_monochrome1(ds: FileDataset) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


@pytest.mark.parametrize(
    "change",
    [
        make_unsigned,
        make_unsigned_12_bit_with_an_overlay_above,
        make_signed_13_bit_without_sign_extension,
        make_high_bit_15,
        make_negative_slope,
        make_implicit,
        make_monochrome1,
    ],
)
def test_the_same_hu_come_out_however_they_are_stored(tmp_path: Path, change: Change):
    volume = assembled(changed(change), tmp_path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, HU)


def test_big_endian_pixels_are_turned_round(tmp_path: Path):
    for number, ds in enumerate(ct_slices()):
        ds.PixelData = stored(ds).astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dcmwrite(tmp_path / f"{number}.dcm", ds, enforce_file_format=True)
    assert np.array_equal(assemble(inspect(series_in(tmp_path))).voxels, HU)


def test_each_slice_is_rescaled_by_its_own_slope_and_intercept(tmp_path: Path):
    slices = ct_slices()
    for number, ds in enumerate(slices):
        store(stored(ds) + int(ds.RescaleIntercept) - 100 * number, ds)
        ds.RescaleIntercept = str(100 * number)
    assert np.array_equal(assembled(slices, tmp_path).voxels, HU)


def test_hu_that_int16_cannot_hold_make_the_whole_volume_float32(tmp_path: Path):
    slices = changed(make_halved, 3)
    volume = assembled(slices, tmp_path)
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, HU)


def test_a_slope_that_is_no_integer_is_applied_exactly(tmp_path: Path):
    slices = changed(lambda ds: setattr(ds, "RescaleSlope", "1.0002441"))
    volume = assembled(slices, tmp_path)
    expected = (HU.astype(np.float64) + 1024) * 1.0002441 - 1024
    assert volume.voxels.dtype == np.float32
    assert np.abs(volume.voxels - expected).max() < 1e-3


def test_unsigned_values_beyond_int16_are_kept(tmp_path: Path):
    slices = ct_slices()
    store(np.full(SHAPE[1:], 60_000), slices[2], "<u2")
    volume = assembled(slices, tmp_path)
    assert np.all(volume.voxels[2] == 60_000 - 1024)
    assert np.array_equal(volume.voxels[3], HU[3])


@pytest.mark.parametrize(("representation", "padding"), [("<i2", -2000), ("<u2", 63536)])
def test_padding_becomes_air_as_signed_value_or_as_its_word(tmp_path: Path, representation: str, padding: int):
    slices = ct_slices()
    for ds in slices:
        values = stored(ds)
        values[0, :2] = padding
        store(values, ds, representation)
        ds.add_new(0x00280120, "SS" if representation == "<i2" else "US", padding)
    voxels = assembled(slices, tmp_path).voxels
    expected = HU.copy()
    expected[:, 0, :2] = CT_PADDING_HU
    assert np.array_equal(voxels, expected)


def test_every_value_up_to_the_padding_range_limit_becomes_air(tmp_path: Path):
    slices = ct_slices()
    for ds in slices:
        values = stored(ds)
        values[0, :3] = (-2000, -1990, -1980)
        store(values, ds)
        ds.add_new(0x00280120, "SS", -2000)
        ds.add_new(0x00280121, "SS", -1990)
    voxels = assembled(slices, tmp_path).voxels
    assert voxels[0, 0, :3].tolist() == [CT_PADDING_HU, CT_PADDING_HU, -1980 - 1024]


def test_a_padding_value_that_the_stored_bits_cannot_hold_does_not_hide_tissue(tmp_path: Path):
    # 63536 cut to 12 bits is 2096: a plausible stored value of bone.
    slices = ct_slices()
    for ds in slices:
        values = stored(ds)
        values[0, 0], values[0, 1] = 63536, 2096
        store(values, ds, "<u2")
        ds.BitsStored, ds.HighBit = 12, 11
        ds.add_new(0x00280120, "US", 63536)
    voxels = assembled(slices, tmp_path).voxels
    assert voxels[0, 0, :2].tolist() == [CT_PADDING_HU, 2096 - 1024]


def test_eight_bit_pixels_are_read(tmp_path: Path):
    slices = ct_slices()
    values = np.arange(20).reshape(SHAPE[1:])
    for ds in slices:
        store(values * 12, ds, "<u1")
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    voxels = assembled(slices, tmp_path).voxels
    assert np.array_equal(voxels[5], values * 12 - 1024)


def test_frames_of_an_enhanced_instance_come_out_in_order(tmp_path: Path):
    assert np.array_equal(assembled([enhanced(ct_slices(), (2, 0, 1, 5, 3, 4))], tmp_path).voxels, HU)


def compress(ds: FileDataset, syntax: UID) -> None:
    """Write the slice's pixels in a compressed transfer syntax, under the same SOP Instance UID."""
    if syntax == JPEG2000Lossless:
        frame = encode_array(np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns))
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)


def larger_slices() -> list[FileDataset]:
    return ct_slices(voxels=speckle((6, 40, 32)))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_compressed_series_gives_the_same_hu(tmp_path: Path, syntax: UID):
    slices = changed(lambda ds: compress(ds, syntax), slices=larger_slices())
    volume = assembled(slices, tmp_path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, speckle((6, 40, 32)))


def test_compressed_and_uncompressed_slices_may_stand_in_one_series(tmp_path: Path):
    slices = changed(lambda ds: compress(ds, JPEGLSLossless), 1, 4, slices=larger_slices())
    assert np.array_equal(assembled(slices, tmp_path).voxels, speckle((6, 40, 32)))


def undecodable(slices: Sequence[FileDataset], folder: Path) -> Verdict:
    with pytest.raises(UnusableSeries) as caught:
        assembled(slices, folder)
    verdict = caught.value.verdicts[0]
    assert isinstance(verdict, Verdict)
    assert verdict.finding is Finding.UNDECODABLE_PIXELS
    return verdict


def recode(ds: FileDataset, codestream: bytes) -> None:
    ds.PixelData = encapsulate([codestream])


def codestream_of(ds: FileDataset) -> bytes:
    return bytes(ds.PixelData[16:])  # behind the empty offset table and the item's header


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_slice_that_no_decoder_reads_is_refused_and_named(tmp_path: Path, syntax: UID):
    slices = changed(lambda ds: compress(ds, syntax), slices=larger_slices())
    recode(slices[3], codestream_of(slices[3])[:90])
    verdict = undecodable(slices, tmp_path)
    assert verdict.sop_instance_uids == (str(slices[3].SOPInstanceUID),)
    assert "1 of 6 compressed slices cannot be decoded" in verdict.sentence


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_of_another_matrix_is_refused_before_it_fills_memory(tmp_path: Path, syntax: UID):
    slices = changed(lambda ds: compress(ds, syntax), slices=larger_slices())
    code = bytearray(codestream_of(slices[3]))
    if syntax == JPEG2000Lossless:
        size = code.index(b"\xff\x51")
        code[size + 6 : size + 14] = (30_000).to_bytes(4, "big") * 2  # Xsiz, Ysiz (ISO 15444-1 A.5.1)
        code[size + 22 : size + 30] = (30_000).to_bytes(4, "big") * 2  # tiles as large
    else:
        frame = code.index(b"\xff\xf7")
        code[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2  # lines, samples per line (ISO 14495-1 C.2.2)
    recode(slices[3], bytes(code))
    assert undecodable(slices, tmp_path).sop_instance_uids == (str(slices[3].SOPInstanceUID),)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (DecodingLimits(base_memory_bytes=1 << 20, memory_bytes_per_pixel=0), "MemoryError|exit code"),
        (DecodingLimits(start_seconds=0.01, seconds_per_frame=0), "did not end in time"),
    ],
)
def test_a_decoder_that_dies_or_hangs_takes_nothing_with_it(tmp_path: Path, limits: DecodingLimits, says: str):
    slices = ct_slices(voxels=speckle((3, 512, 512)))
    inspection = inspect(series_of(changed(lambda ds: compress(ds, JPEGLSLossless), slices=slices), tmp_path))
    coded = [CodedSlice(header, 2 * 512 * 512 * number) for number, header in enumerate(inspection.slices)]
    with (tmp_path / "output").open("wb") as output, pytest.raises(UnusableSeries, match=says):
        decode_slices(coded, output.fileno(), limits)


def test_compressed_pixels_that_end_before_the_file_says_are_refused_by_the_gate(tmp_path: Path):
    slices = changed(lambda ds: compress(ds, JPEGLSLossless), slices=larger_slices())
    series = series_of(slices, tmp_path)
    path = series.instances[1].path
    path.write_bytes(path.read_bytes()[:-40])
    verdict = refusal(series)[Finding.TRUNCATED_PIXELS]
    assert verdict.sop_instance_uids == (series.instances[1].sop_instance_uid,)


def test_thirty_two_bit_pixels_are_refused(tmp_path: Path):
    def widen(ds: FileDataset) -> None:
        store(stored(ds), ds, "<i4")
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31

    verdict = refusal(series_of(changed(widen), tmp_path))[Finding.UNDECODABLE_PIXELS]
    assert "expected 8 or 16 bits allocated, found 32 of 32" in verdict.sentence
