"""Files that are damaged, foreign or hostile: each is named, none is decoded on trust."""

import struct
import zlib
from pathlib import Path

import pytest

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import assemble
from dicomnode.errors import ConfigError, Unavailable, UnusableSeries
from dicomnode.imaging import Finding, Policy, Series
from tests.assembly_cases import ct_slices, enhanced, refusal, series_of


def damaged(series: Series, number: int, content: bytes) -> Series:
    """The series after the file of one instance was overwritten."""
    series.instances[number].path.write_bytes(content)
    return series


def test_a_cut_file_is_refused_with_the_bytes_expected_and_found(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    whole = series.instances[2].path.read_bytes()
    verdict = refusal(damaged(series, 2, whole[:-7]))[Finding.TRUNCATED_PIXELS]
    assert "expected 40 bytes of pixels, found 33" in verdict.sentence
    assert verdict.sop_instance_uids == (series.instances[2].sop_instance_uid,)


def test_an_instance_without_pixels_is_refused(tmp_path: Path):
    slices = ct_slices()
    del slices[1].PixelData
    assert "found none" in refusal(series_of(slices, tmp_path))[Finding.TRUNCATED_PIXELS].sentence


def test_a_file_that_is_no_dicom_is_refused_or_set_aside(tmp_path: Path):
    slices = ct_slices()
    series = series_of(slices, tmp_path)
    last = next(n for n, i in enumerate(series.instances) if i.sop_instance_uid == slices[-1].SOPInstanceUID)
    damaged(series, last, b"GIF89a" * 100)
    assert "1 of 6 instances cannot be read" in refusal(series)[Finding.NOT_DICOM].sentence
    assert inspect(series, {Finding.NOT_DICOM: Policy.REPAIR}).geometry.shape[0] == 5


@pytest.mark.parametrize("length", [140, 300, 600])
def test_a_file_cut_in_its_header_is_refused(tmp_path: Path, length: int):
    series = series_of(ct_slices(), tmp_path)
    whole = series.instances[2].path.read_bytes()
    verdicts = refusal(damaged(series, 2, whole[:length]))
    concerned = {uid for verdict in verdicts.values() for uid in verdict.sop_instance_uids}
    assert series.instances[2].sop_instance_uid in concerned


def test_a_position_in_words_is_refused(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    whole = series.instances[0].path.read_bytes()
    assert b"-101.25\\" in whole
    verdicts = refusal(damaged(series, 0, whole.replace(b"-101.25\\", b"sevenfo\\")))
    assert Finding.UNREADABLE_HEADER in verdicts


def test_decimal_strings_with_leading_zeros_and_exponents_are_numbers(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    for instance in series.instances:
        content = instance.path.read_bytes()
        assert b"-101.25\\" in content
        length = struct.unpack_from("<H", content, content.index(b"\x20\x00\x32\x00DS") + 6)[0]
        start = content.index(b"\x20\x00\x32\x00DS") + 8
        words = content[start : start + length].replace(b"-101.25", b"-001.012500E+02")
        words += b" " * (len(words) % 2)
        header = content[: start - 2] + struct.pack("<H", len(words))
        instance.path.write_bytes(header + words + content[start + length :])
    assert inspect(series).geometry.affine[0, 3] == -101.25


def test_a_deflated_file_is_refused_without_inflating_it(tmp_path: Path):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = bomb.compress(bytes(64 << 20)) + bomb.flush()
    series = series_of(ct_slices(), tmp_path)
    whole = series.instances[0].path.read_bytes()
    syntax, deflated = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    meta = whole[: whole.index(syntax) + len(syntax)]
    assert syntax in meta
    meta = meta.replace(struct.pack("<H", len(syntax)) + syntax, struct.pack("<H", len(deflated)) + deflated)
    length = struct.unpack_from("<I", meta, 140)[0] + len(deflated) - len(syntax)
    damaged(series, 0, meta[:140] + struct.pack("<I", length) + meta[144:] + content)
    verdict = refusal(series)[Finding.UNSUPPORTED_TRANSFER_SYNTAX]
    assert "Deflated" in verdict.sentence


def test_a_file_that_holds_another_instance_than_the_index_says_is_refused(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    other = series.instances[3].path.read_bytes()
    verdict = refusal(damaged(series, 2, other))[Finding.UNREADABLE_HEADER]
    assert verdict.sop_instance_uids == (series.instances[2].sop_instance_uid,)


def test_a_file_of_another_series_than_the_index_says_is_refused(tmp_path: Path):
    slices = ct_slices()
    series = series_of(slices, tmp_path)
    slices[0].SeriesInstanceUID = "1.2.3"
    uid = str(slices[0].SOPInstanceUID)
    path = next(instance.path for instance in series.instances if instance.sop_instance_uid == uid)
    slices[0].save_as(path)
    assert refusal(series)[Finding.MIXED_SERIES].sop_instance_uids == (uid,)


def test_a_damaged_sequence_is_damage_and_not_a_file_that_may_be_back_later(tmp_path: Path):
    series = series_of([enhanced(ct_slices(), range(6))], tmp_path)
    content = bytearray(series.instances[0].path.read_bytes())
    length = content.index(b"\x20\x00\x16\x91SQ") + 8  # of the Plane Orientation Sequence: two bytes too long
    content[length] += 2
    assert "OSError" in refusal(damaged(series, 0, bytes(content)))[Finding.UNREADABLE_HEADER].sentence


def test_a_file_that_is_gone_may_be_back_later(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    series.instances[0].path.unlink()
    with pytest.raises(Unavailable):
        inspect(series)


def test_a_file_cut_after_the_gate_has_seen_it_is_named(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    inspection = inspect(series)
    damaged(series, 2, series.instances[2].path.read_bytes()[:-7])
    with pytest.raises(UnusableSeries, match="expected 40 bytes of pixels, found 33"):
        assemble(inspection)


def test_offline_every_file_is_in_a_series_or_named_with_its_reason(tmp_path: Path):
    series_of(ct_slices(), tmp_path / "series")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    found = series_from_paths([tmp_path, tmp_path / "absent", tmp_path / "series" / "slice-0001.dcm"])
    assert [len(series.instances) for series in found.series] == [6]
    reasons = {rejected.path.name: rejected.reason for rejected in found.rejected}
    assert set(reasons) == {"notes.txt", "empty", "absent"}
    assert "DICM" in reasons["notes.txt"]
    assert "No such file" in reasons["absent"]


def test_offline_an_instance_without_a_series_uid_is_named(tmp_path: Path):
    slices = ct_slices()
    slices[0].SeriesInstanceUID = ""
    slices[0].save_as(tmp_path / "one.dcm", enforce_file_format=True)
    found = series_from_paths([tmp_path])
    assert found.series == ()
    assert found.rejected[0].reason == "expected a valid SeriesInstanceUID in the file, found none"


@pytest.mark.parametrize(
    ("finding", "policy"),
    [
        (Finding.CONFLICTING_INSTANCE, Policy.REPAIR),
        (Finding.MIXED_PATIENTS, Policy.WARN),
        (Finding.GANTRY_TILT, Policy.WARN),
        (Finding.MISSING_SLICES, Policy.REPAIR),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_a_configuration_error(tmp_path: Path, finding: Finding, policy: Policy):
    series = series_of(ct_slices(), tmp_path)
    with pytest.raises(ConfigError, match=rf'{finding}: expected .*"refuse".*, found "{policy}"'):
        inspect(series, {finding: policy})


def test_every_finding_has_a_default_policy_and_may_be_refused(tmp_path: Path):
    series = series_of(ct_slices(), tmp_path)
    assert inspect(series, dict.fromkeys(Finding, Policy.REFUSE)).verdicts == ()
