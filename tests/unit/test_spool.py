"""The spool: what is kept, under which name, and what survives which failure."""

import errno
import fcntl
import hashlib
import os
import resource
import threading
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from dicomnode.errors import Refused, Unavailable
from dicomnode.ledger.records import ReceivedInstance
from dicomnode.receive import Spool
from dicomnode.receive.part10 import FileMeta
from dicomnode.receive.spool import refusal_of
from tests.listening import ct_data_sets, ct_files
from tests.raw_sender import StoredFile

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", min_free_bytes=0)
    spool.prepare()
    return spool


def file_of(tmp_path: Path) -> StoredFile:
    return ct_files(tmp_path, "one", slices=1)[0]


def keep(spool: Spool, file: StoredFile, fragment_bytes: int = 1000) -> ReceivedInstance:
    incoming = spool.begin(FileMeta(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid))
    for start in range(0, len(file.data_set), fragment_bytes):
        incoming.write(memoryview(file.data_set)[start : start + fragment_bytes])
    return incoming.keep(NOON, "SENDER")


def files_in(spool: Spool) -> list[Path]:
    return sorted(p.relative_to(spool.root) for p in spool.root.rglob("*") if p.is_file())


def test_the_file_is_a_dicom_file_with_the_data_set_as_it_came(spool: Spool, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    kept = keep(spool, file)
    raw = (spool.root / kept.path).read_bytes()
    assert raw.startswith(bytes(128) + b"DICM")
    assert raw.endswith(file.data_set)
    assert (kept.size_bytes, kept.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    read = dcmread(BytesIO(raw))
    assert isinstance(read, FileDataset)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == kept.sop_instance_uid
    assert read.file_meta.MediaStorageSOPClassUID == read.SOPClassUID == kept.sop_class_uid
    assert read.file_meta.TransferSyntaxUID == kept.transfer_syntax_uid
    assert (read.SeriesInstanceUID, read.StudyInstanceUID) == (kept.series_instance_uid, kept.study_instance_uid)
    assert (kept.received_at, kept.calling_ae_title) == (NOON, "SENDER")


def test_the_name_is_made_of_digests_only(spool: Spool, tmp_path: Path) -> None:
    kept = keep(spool, file_of(tmp_path))
    series = hashlib.sha256(kept.series_instance_uid.encode()).hexdigest()[:32]
    instance = hashlib.sha256(kept.sop_instance_uid.encode()).hexdigest()[:32]
    assert kept.path == Path(f"series/{series}/{instance}-{kept.sha256[:16]}.dcm")
    assert files_in(spool) == [kept.path]


def test_the_same_content_again_is_the_same_file_however_it_was_cut(spool: Spool, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    assert keep(spool, file, fragment_bytes=1) == keep(spool, file, fragment_bytes=1 << 20)
    assert len(files_in(spool)) == 1


def test_other_content_under_the_same_uid_is_kept_beside_the_first(spool: Spool, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    first = keep(spool, file)
    second = keep(spool, replace(file, data_set=file.data_set[:-1] + b"\x55"))
    assert first.sop_instance_uid == second.sop_instance_uid
    assert files_in(spool) == sorted([first.path, second.path])


def test_many_receivers_of_the_same_series_at_once_keep_every_instance(spool: Spool, tmp_path: Path) -> None:
    files = ct_files(tmp_path, "parallel", slices=12, pixels=8)
    threads = [threading.Thread(target=lambda: [keep(spool, f) for f in files]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files_in(spool)) == 12
    assert {i.sop_instance_uid for i in spool.walk()} == {f.sop_instance_uid for f in files}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"SOPInstanceUID": "1.2.3.4"}, 0xA900),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
        ({"SeriesInstanceUID": "../../evil"}, 0xC000),
        ({"StudyInstanceUID": ""}, 0xC000),
    ],
)
def test_a_data_set_that_is_not_what_was_announced_leaves_nothing(
    spool: Spool, tmp_path: Path, change: dict[str, str], status: int
) -> None:
    file = file_of(tmp_path)
    ds = ct_data_sets("one", slices=1)[0]
    for keyword, value in change.items():
        ds.add_new(keyword, "UI", value) if value.count("/") == 0 else _set_raw(ds, keyword, value)
    with pytest.raises(Refused) as refused:
        keep(spool, replace(file, data_set=_data_set_bytes(ds)))
    assert refused.value.status == status
    assert files_in(spool) == []


def _set_raw(ds: FileDataset, keyword: str, value: str) -> None:
    ds.add_new(keyword, "LO", value)  # a UI of pydicom would not take it; the bytes get UI below


def _data_set_bytes(ds: FileDataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    raw = buffer.getvalue()
    return raw[144 + int.from_bytes(raw[140:144], "little") :].replace(b"\x20\x00\x0e\x00LO", b"\x20\x00\x0e\x00UI")


@pytest.mark.parametrize("length", [0, 7, 200])
def test_a_data_set_cut_before_its_uids_leaves_nothing(spool: Spool, tmp_path: Path, length: int) -> None:
    file = file_of(tmp_path)
    with pytest.raises(Refused) as refused:
        keep(spool, replace(file, data_set=file.data_set[:length]))
    assert refused.value.status == 0xC000
    assert files_in(spool) == []


@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "", "1.2.3;rm", "1" * 65, "1..2"])
def test_a_command_with_a_uid_that_is_none_is_refused_before_a_byte_is_written(spool: Spool, uid: str) -> None:
    with pytest.raises(Refused) as refused:
        spool.begin(FileMeta("1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1"))
    assert refused.value.status == 0xC000
    assert files_in(spool) == []


def test_below_the_watermark_it_refuses_and_above_it_recovers_alone(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    disk = os.statvfs(tmp_path)
    more_than_there_is = Spool(tmp_path / "spool", min_free_bytes=disk.f_blocks * disk.f_frsize + 1)
    more_than_there_is.prepare()
    with pytest.raises(Refused) as refused:
        keep(more_than_there_is, file_of(tmp_path))
    assert refused.value.status == 0xA700
    assert files_in(more_than_there_is) == []
    assert keep(Spool(tmp_path / "spool", min_free_bytes=0), file_of(tmp_path)).size_bytes > 0


def test_a_write_that_the_disk_refuses_leaves_nothing_and_the_next_instance_is_kept(
    spool: Spool, tmp_path: Path
) -> None:
    """A file size limit stands in for the full disk: the write fails half-way through an instance."""
    large, small = ct_files(tmp_path, "large", 1, 512)[0], file_of(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Refused) as refused:
            keep(spool, large, fragment_bytes=65536)
        assert refused.value.status == 0xA700
        assert files_in(spool) == []
        assert keep(spool, small).sop_instance_uid == small.sop_instance_uid
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert keep(spool, large).sop_instance_uid == large.sop_instance_uid


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, 0xA700), (errno.EDQUOT, 0xA700), (errno.EIO, 0x0110), (errno.EROFS, 0x0110)],
)
def test_a_full_disk_is_out_of_resources_and_a_broken_one_a_failure(number: int, status: int) -> None:
    assert refusal_of(OSError(number, os.strerror(number))).status == status


def test_a_start_removes_what_a_killed_listener_left_and_not_what_another_is_receiving(
    spool: Spool, tmp_path: Path
) -> None:
    file = file_of(tmp_path)
    incoming = spool.begin(FileMeta(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid))
    abandoned = spool.root / "incoming" / "abandoned.part"
    abandoned.write_bytes(b"half")
    assert spool.prepare() == 1
    assert not abandoned.exists()
    incoming.write(memoryview(file.data_set))
    assert incoming.keep(NOON, "SENDER").sop_instance_uid == file.sop_instance_uid


def test_a_spool_that_cannot_be_made_is_unavailable_now(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match="expected to write"):
        Spool(tmp_path / "file" / "spool", 0).prepare()


def test_a_walk_reads_back_what_was_kept_but_the_sender(spool: Spool, tmp_path: Path) -> None:
    kept = [keep(spool, file) for file in ct_files(tmp_path, "walk", slices=3)]
    found = list(spool.walk())
    assert {replace(i, received_at=NOON, calling_ae_title="SENDER").path: i.sha256 for i in found} == {
        i.path: i.sha256 for i in kept
    }
    stripped = [replace(i, received_at=NOON, calling_ae_title="") for i in found]
    assert sorted(stripped, key=lambda i: i.path) == sorted(
        (replace(i, calling_ae_title="") for i in kept), key=lambda i: i.path
    )


def test_a_walk_leaves_out_what_is_known(spool: Spool, tmp_path: Path) -> None:
    first, second = (keep(spool, file) for file in ct_files(tmp_path, "known", slices=2))
    assert [i.path for i in spool.walk({first.path})] == [second.path]


@pytest.mark.parametrize("harm", ["cut", "flip", "foreign"])
def test_a_walk_does_not_offer_a_file_that_is_not_what_its_name_says(spool: Spool, tmp_path: Path, harm: str) -> None:
    whole, harmed = (keep(spool, file) for file in ct_files(tmp_path, "harm", slices=2))
    path = spool.root / harmed.path
    raw = path.read_bytes()
    path.write_bytes({"cut": raw[:-9], "flip": raw[:-1] + bytes([raw[-1] ^ 1]), "foreign": b"something else"}[harm])
    assert [i.path for i in spool.walk()] == [whole.path]
    assert path.exists()


def test_a_series_folder_that_was_purged_is_made_again(spool: Spool, tmp_path: Path) -> None:
    first, second = ct_files(tmp_path, "purge", slices=2)
    kept = spool.root / keep(spool, first).path
    kept.unlink()
    kept.parent.rmdir()
    assert (spool.root / keep(spool, second).path).exists()


def test_an_instance_that_is_discarded_leaves_nothing_and_frees_its_lock(spool: Spool, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    incoming = spool.begin(FileMeta(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid))
    (part,) = (spool.root / "incoming").iterdir()
    with part.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    incoming.discard()
    incoming.discard()
    assert files_in(spool) == []
