"""Appending to the audit log: one writer at a time, on disk before it returns, whole after any crash."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicomnode.audit.chain import (
    EMPTY,
    HEAD_NAME,
    LOCK_NAME,
    LOG_NAME,
    AuditHead,
    encode_head,
    line_sha256,
    parse_link,
    read_head,
)
from dicomnode.audit.record import AuditEvent, AuditOutcome, AuditRecord, encode_record
from dicomnode.errors import Unavailable

_TAIL_BYTES = 16384


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The log of one node, shared by its processes.

    A line is written and synced before the head file that names it is replaced: after a crash the head may
    lag by one record and the log may end in a torn line, which the next writer sets aside and records. A
    head that the log does not reach is another matter and is recorded as an alarm.
    """

    folder: Path

    def append(self, record: AuditRecord) -> AuditHead:
        """Write one record; it is on disk, and the head returned vouches for it.

        Raises:
            Unavailable: the disk is full or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            with _alone(self.folder), _opened(self.folder) as log:
                _recover(self.folder, log, record)
                return _append(self.folder, log, record)
        except OSError as error:
            raise Unavailable(f"{self.folder}: the audit log cannot be written ({error.strerror})") from error

    def head(self) -> AuditHead:
        """How far the log goes now.

        Raises:
            Unavailable: the folder cannot be read or written.
        """
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            with _alone(self.folder), _opened(self.folder) as log:
                return _end(log)
        except OSError as error:
            raise Unavailable(f"{self.folder}: the audit log cannot be read ({error.strerror})") from error


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the log against other processes and other threads; the kernel lets go when we die."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(folder: Path) -> Generator[int]:
    path = folder / LOG_NAME
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if is_new:
            _sync_folder(folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _append(folder: Path, log: int, record: AuditRecord) -> AuditHead:
    end = _end(log)
    line = encode_record(record, end.records + 1, end.sha256)
    _write_all(log, line + b"\n")
    os.fsync(log)
    head = AuditHead(end.records + 1, line_sha256(line))
    _replace_head(folder, head)
    return head


def _recover(folder: Path, log: int, record: AuditRecord) -> None:
    """Set a torn last line aside, and say so; say so too when the log does not reach its head."""
    torn = _torn_tail(log)
    alarm = _alarm(folder, log)
    if torn:
        digest = line_sha256(torn)
        _write_new(folder / f"torn-{digest[:16]}.bin", torn)
        os.ftruncate(log, os.fstat(log).st_size - len(torn))
        os.fsync(log)
        detail = f"{len(torn)} bytes of an unfinished record set aside, SHA-256 {digest}"
        _append(folder, log, _own(record, AuditEvent.TORN_TAIL_RECOVERED, AuditOutcome.MINOR_FAILURE, detail))
    if alarm:
        _append(folder, log, _own(record, AuditEvent.AUDIT_ALARM, AuditOutcome.MAJOR_FAILURE, alarm))


def _own(cause: AuditRecord, event: AuditEvent, outcome: AuditOutcome, detail: str) -> AuditRecord:
    return AuditRecord(cause.at, event, cause.role, outcome, detail=detail)


def _alarm(folder: Path, log: int) -> str:
    """Why the log's end cannot be what the last writer left; empty when it can."""
    line = _last_line(log)
    try:
        head = read_head(folder)
        last = parse_link(line) if line else None
    except ValueError as error:
        return f"the log's end or its head is damaged: {error}"
    if last is None:
        return "" if head is None else f"the head names {head.records} records, the log is empty"
    before = AuditHead(last.number - 1, last.previous)  # the head if its writer died between line and head
    if head in {AuditHead(last.number, line_sha256(line)), before} or (head is None and before == EMPTY):
        return ""
    named = "no records" if head is None else f"{head.records} records (SHA-256 {head.sha256})"
    return f"the head names {named}, the log ends with record {last.number} (SHA-256 {line_sha256(line)})"


def _end(log: int) -> AuditHead:
    """Number and digest of the last whole line; of a damaged one its place in the file."""
    line = _last_line(log)
    if not line:
        return EMPTY
    try:
        return AuditHead(parse_link(line).number, line_sha256(line))
    except ValueError:
        return AuditHead(_count_lines(log), line_sha256(line))


def _count_lines(log: int) -> int:
    with os.fdopen(os.dup(log), "rb") as file:
        file.seek(0)
        return sum(1 for line in file if line.endswith(b"\n"))


def _last_line(log: int) -> bytes:
    size = os.fstat(log).st_size
    span = _TAIL_BYTES
    while True:
        start = max(0, size - span)
        lines = os.pread(log, size - start, start).split(b"\n")
        if len(lines) > 2 or start == 0:  # the last piece is torn or empty, the first may be cut
            return lines[-2] if len(lines) > 1 else b""
        span *= 2


def _torn_tail(log: int) -> bytes:
    size = os.fstat(log).st_size
    span = _TAIL_BYTES
    while True:
        start = max(0, size - span)
        _, end_of_line, tail = os.pread(log, size - start, start).rpartition(b"\n")
        if end_of_line or start == 0:
            return tail
        span *= 2


def _replace_head(folder: Path, head: AuditHead) -> None:
    temporary = folder / f"{HEAD_NAME}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        _write_all(descriptor, encode_head(head))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(folder / HEAD_NAME)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
