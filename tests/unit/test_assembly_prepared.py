"""Slices that are decoded while a series still comes in: the volume never differs, whatever happens to the cache."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from dicomnode.assembly.gate import inspect
from dicomnode.assembly.prepared import PreparedBounds, PreparedSlices
from dicomnode.assembly.volume import assemble
from dicomnode.errors import Unavailable, UnusableSeries
from dicomnode.imaging import Instance, Series
from dicomnode.ledger import Ledger, ReceivedInstance
from dicomnode.steps.preparing import WORTH_IT, Preparing
from tests.assembly_cases import changed, ct_slices, enhanced, series_of, speckle
from tests.unit.test_assembly_volume import codestream_of, compress, recode

HU = speckle((6, 40, 32))
SLICE_BYTES = 32 + 2 * 40 * 32  # digest and words
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def cache(tmp_path: Path) -> PreparedSlices:
    return PreparedSlices(tmp_path / "prepared")


def compressed(folder: Path, syntax: UID = JPEGLSLossless, slices: int = 6) -> Series:
    made = changed(lambda ds: compress(ds, syntax), slices=ct_slices(voxels=speckle((slices, 40, 32))))
    return series_of(made, folder / "series")


def ruin_codestreams(series: Series) -> None:
    """From now on only who has the slices already can give them."""
    for instance in series.instances:
        whole = bytearray(instance.path.read_bytes())
        start = max(whole.find(b"\xff\x4f\xff\x51"), whole.find(b"\xff\xd8\xff\xf7"))  # JPEG 2000; JPEG-LS
        whole[start : start + 60] = bytes(60)
        instance.path.write_bytes(whole)


def kept(cache: PreparedSlices) -> list[Path]:
    return sorted(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_volume_from_slices_decoded_ahead_is_the_same_and_needs_no_decoder(
    tmp_path: Path, cache: PreparedSlices, syntax: UID
):
    series = compressed(tmp_path, syntax)
    assert cache.prepare(series.instances) == 6
    ruin_codestreams(series)
    inspection = inspect(series)
    assert np.array_equal(assemble(inspection, cache).voxels, HU)
    with pytest.raises(UnusableSeries):
        assemble(inspection)


def test_what_was_not_decoded_ahead_is_decoded_in_time(tmp_path: Path, cache: PreparedSlices):
    series = compressed(tmp_path)
    cache.prepare(series.instances[:2])
    assert np.array_equal(assemble(inspect(series), cache).voxels, HU)


def flip_a_bit(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def cut_off_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def take_the_words_of_another_slice(path: Path) -> None:
    other = next(found for found in sorted(path.parent.iterdir()) if found != path)
    path.write_bytes(other.read_bytes())


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage", [flip_a_bit, cut_off_the_end, empty, take_the_words_of_another_slice, become_a_folder, Path.unlink]
)
def test_a_damaged_cache_changes_no_voxel(tmp_path: Path, cache: PreparedSlices, damage: Callable[[Path], None]):
    series = compressed(tmp_path)
    cache.prepare(series.instances)
    for path in kept(cache)[:3]:
        damage(path)
    assert np.array_equal(assemble(inspect(series), cache).voxels, HU)


def test_an_instance_with_other_content_under_the_same_uid_is_not_served_the_old_slice(
    tmp_path: Path, cache: PreparedSlices
):
    cache.prepare(compressed(tmp_path).instances)
    other = changed(lambda ds: compress(ds, JPEGLSLossless), slices=ct_slices(voxels=speckle((6, 40, 32), seed=2)))
    volume = assemble(inspect(series_of(other, tmp_path / "other")), cache)
    assert np.array_equal(volume.voxels, speckle((6, 40, 32), seed=2))


def test_a_damaged_slice_leaves_its_batch_to_the_verdict_of_the_series(tmp_path: Path, cache: PreparedSlices):
    slices = changed(lambda ds: compress(ds, JPEGLSLossless), slices=ct_slices(voxels=HU))
    recode(slices[3], codestream_of(slices[3])[:90])
    series = series_of(slices, tmp_path / "series")
    assert cache.prepare(series.instances) == 0
    with pytest.raises(UnusableSeries, match="1 of 6 compressed slices cannot be decoded"):
        assemble(inspect(series), cache)


def test_what_has_no_compressed_slices_is_left_alone(tmp_path: Path, cache: PreparedSlices):
    plain = series_of(ct_slices(voxels=HU), tmp_path / "plain")
    multi_frame = series_of([enhanced(ct_slices(voxels=HU), range(6))], tmp_path / "enhanced")
    lost = replace(plain.instances[0], path=tmp_path / "lost.dcm")
    assert cache.prepare([*plain.instances, *multi_frame.instances, lost]) == 0


def test_the_cache_stays_within_its_bytes_and_the_oldest_go(tmp_path: Path):
    series = compressed(tmp_path)
    cache = PreparedSlices(tmp_path / "prepared", PreparedBounds(max_bytes=4 * SLICE_BYTES))
    for instance in series.instances:
        assert cache.prepare([instance]) == 1
        assert sum(path.stat().st_size for path in kept(cache)) <= 4 * SLICE_BYTES
    assert [cache.has(instance) for instance in series.instances] == [False, False, True, True, True, True]
    assert np.array_equal(assemble(inspect(series), cache).voxels, HU)


def test_a_batch_larger_than_the_cache_is_not_begun(tmp_path: Path):
    cache = PreparedSlices(tmp_path / "prepared", PreparedBounds(max_bytes=4 * SLICE_BYTES))
    assert cache.prepare(compressed(tmp_path).instances) == 0


def test_old_slices_and_those_half_written_by_a_killed_process_are_removed(tmp_path: Path, cache: PreparedSlices):
    cache.prepare(compressed(tmp_path).instances)
    half = cache.folder / "half.part"
    half.write_bytes(b"half")
    *old, young = kept(cache)
    for path in [*old, half]:
        os.utime(path, (0, 0))
    cache.forget_old()
    assert kept(cache) == ([young] if young != half else [])


def test_a_disk_that_is_nearly_full_is_left_to_what_comes_in(tmp_path: Path):
    cache = PreparedSlices(tmp_path / "prepared", PreparedBounds(min_free_bytes=1 << 60))
    assert cache.prepare(compressed(tmp_path).instances) == 0
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written_says_where(tmp_path: Path):
    (tmp_path / "prepared").write_text("in the way")
    with pytest.raises(Unavailable, match="prepared: cannot be used"):
        PreparedSlices(tmp_path / "prepared").prepare(compressed(tmp_path).instances)


def test_no_batch_begins_while_a_series_is_being_assembled(tmp_path: Path, cache: PreparedSlices):
    series = compressed(tmp_path)
    with cache.at_rest():
        assert cache.prepare(series.instances) is None
    assert cache.prepare(series.instances) == 6


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", tmp_path)
    opened.prepare()
    yield opened
    opened.close()


def arrive(ledger: Ledger, instances: tuple[Instance, ...], at: datetime) -> None:
    ledger.received.index([_received(instance, at) for instance in instances])


def _received(instance: Instance, at: datetime) -> ReceivedInstance:
    return ReceivedInstance(
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        series_instance_uid=instance.series_instance_uid,
        study_instance_uid=instance.study_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        path=instance.path,
        sha256=instance.sha256,
        size_bytes=instance.size_bytes,
        received_at=at,
        calling_ae_title="PACS",
    )


def test_slices_are_decoded_when_many_have_come_or_no_more_come(tmp_path: Path, cache: PreparedSlices, ledger: Ledger):
    series = compressed(tmp_path, slices=WORTH_IT + 4)
    time = [NOW]
    preparing = Preparing(ledger.received, cache, lambda: time[0])
    arrive(ledger, series.instances[: WORTH_IT - 1], NOW)
    assert preparing.turn() == 0  # a few, and more are coming
    arrive(ledger, series.instances[WORTH_IT - 1 : WORTH_IT], NOW)
    assert preparing.turn() == WORTH_IT
    arrive(ledger, series.instances[WORTH_IT:], NOW)
    assert preparing.turn() == 0
    time[0] += timedelta(seconds=0.5)
    assert preparing.turn() == 4
    assert all(map(cache.has, series.instances))
    assert preparing.turn() == 0


def test_a_series_that_is_complete_or_uncompressed_is_not_decoded_ahead(
    tmp_path: Path, cache: PreparedSlices, ledger: Ledger
):
    series, plain = compressed(tmp_path), series_of(ct_slices(voxels=HU), tmp_path / "plain")
    arrive(ledger, series.instances, NOW)
    ledger.received.close_series(series.series_instance_uid, NOW, "test")
    arrive(ledger, tuple(replace(i, series_instance_uid="1.2.3") for i in plain.instances), NOW)
    later = NOW + timedelta(seconds=1)
    assert Preparing(ledger.received, cache, lambda: later).turn() == 0


def test_damaged_slices_are_tried_once(tmp_path: Path, cache: PreparedSlices, ledger: Ledger):
    slices = changed(lambda ds: compress(ds, JPEGLSLossless), slices=ct_slices(voxels=HU))
    recode(slices[3], codestream_of(slices[3])[:90])
    series = series_of(slices, tmp_path / "series")
    arrive(ledger, series.instances, NOW)
    preparing = Preparing(ledger.received, cache, lambda: NOW + timedelta(seconds=1))
    assert preparing.turn() == 0
    assert ledger.received.arriving([str(JPEGLSLossless)], NOW, 10) != []
    compressed(tmp_path)  # the same files, undamaged now: whoever tried again would find them good
    assert preparing.turn() == 0
    assert not any(map(cache.has, series.instances))
