"""A listener in a process of its own: killed at any instant, measured for memory, inspected for imports."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode.receive import Spool
from tests.listening import ct_files, wait_until
from tests.raw_sender import RawSender, StoredFile

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Process:
    """A listener as a process."""

    popen: subprocess.Popen[str]
    port: int

    def memory_bytes(self, name: str) -> int:
        """VmRSS or VmHWM of the process."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))

    def kill(self) -> None:
        """kill -9."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()


@contextmanager
def listener_process(folder: Path) -> Generator[Process]:
    command = [sys.executable, "-m", "tests.processes.listen", str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as popen:
        assert popen.stdout
        try:
            yield Process(popen, int(popen.stdout.readline()))
        finally:
            popen.kill()


def send_until_killed(port: int, files: list[StoredFile], acknowledged: list[str]) -> None:
    try:
        with RawSender(port) as sender:
            sender.associate()
            for file in files:
                if sender.store(file) != 0:
                    return
                acknowledged.append(file.sop_instance_uid)
    except OSError:
        return


@pytest.mark.parametrize("after", [1, 7, 20])
def test_what_was_acknowledged_before_a_kill_is_whole_and_what_was_not_does_not_count(
    tmp_path: Path, after: int
) -> None:
    series = [ct_files(tmp_path, f"kill{n}", slices=60, pixels=128) for n in range(2)]
    acknowledged: list[str] = []
    with listener_process(tmp_path) as process:
        threads = [
            threading.Thread(target=send_until_killed, args=(process.port, files, acknowledged)) for files in series
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) >= after, "some instances to be acknowledged")
        process.kill()
        for thread in threads:
            thread.join()
    spool = Spool(tmp_path / "spool", 0)
    spool.prepare()
    kept = {i.sop_instance_uid: i for i in spool.walk()}
    sent = {f.sop_instance_uid: f for files in series for f in files}
    assert len(acknowledged) < len(sent)
    assert set(acknowledged) <= kept.keys() <= sent.keys()
    for uid, instance in kept.items():
        raw = (spool.root / instance.path).read_bytes()
        assert raw.endswith(sent[uid].data_set)
        assert hashlib.sha256(raw).hexdigest() == instance.sha256
    assert list((spool.root / "incoming").iterdir()) == []
    assert len(kept) == len(list((spool.root / "series").glob("*/*")))


def test_after_a_kill_the_rest_of_the_series_comes_in_and_nothing_is_there_twice(tmp_path: Path) -> None:
    files = ct_files(tmp_path, "again", slices=40, pixels=64)
    acknowledged: list[str] = []
    with listener_process(tmp_path) as process:
        thread = threading.Thread(target=send_until_killed, args=(process.port, files, acknowledged))
        thread.start()
        wait_until(lambda: len(acknowledged) >= 5, "some instances to be acknowledged")
        process.kill()
        thread.join()
    with listener_process(tmp_path) as process:
        send_until_killed(process.port, files, acknowledged := [])
        assert len(acknowledged) == 40
    assert sorted(i.sop_instance_uid for i in Spool(tmp_path / "spool", 0).walk()) == sorted(acknowledged)


def test_memory_stays_constant_however_much_comes(tmp_path: Path) -> None:
    """400 MB in all, of which one instance has 100 MB."""
    slices = ct_files(tmp_path, "memory", slices=4, pixels=512)
    large = _enlarged(slices[0], 100 << 20)
    with listener_process(tmp_path) as process, RawSender(process.port) as sender:
        sender.associate()
        assert sender.store(slices[1]) == 0
        before = process.memory_bytes("VmRSS")
        for file in _until_300_mb(slices):
            assert sender.store(file) == 0
        assert sender.store(large) == 0
        sender.release()
        grown = process.memory_bytes("VmHWM") - before
    assert grown < 8 << 20


def _until_300_mb(slices: list[StoredFile]) -> Iterator[StoredFile]:
    total = 0
    while total < 300_000_000:
        for file in slices:
            total += len(file.data_set)
            yield file


def _enlarged(file: StoredFile, size_bytes: int) -> StoredFile:
    """The same instance with a pixel data element of that size."""
    head = file.data_set[: file.data_set.index(b"\xe0\x7f\x10\x00OW")]
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + size_bytes.to_bytes(4, "little") + bytes(size_bytes)
    return StoredFile(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid, head + pixels)


def test_the_listener_imports_nothing_that_decodes_or_computes() -> None:
    program = "import sys, dicomnode.receive; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert "dicomnode" in loaded
    assert loaded.isdisjoint({"torch", "SimpleITK", "highdicom", "monai", "pydicom", "pynetdicom", "PIL", "scipy"})
