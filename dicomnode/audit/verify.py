"""Is the audit log what was written? Finds edited, removed, reordered, inserted records and a cut tail."""

import fcntl
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicomnode.audit.chain import EMPTY, LOCK_NAME, LOG_NAME, AuditHead, Link, line_sha256, parse_link, read_head
from dicomnode.audit.record import AuditEvent
from dicomnode.errors import Unavailable

_NAMED_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found; `torn_bytes` of an unfinished last record are a crash's trace, not a problem."""

    records: int
    head: AuditHead
    problems: tuple[str, ...]
    torn_bytes: int

    @property
    def is_intact(self) -> bool:
        """Whether nothing speaks against the log."""
        return not self.problems


def verify(folder: Path, known_heads: Sequence[AuditHead] = ()) -> Verification:
    """Check every record against the one before, the end against the head file and against heads kept elsewhere.

    Whoever can write the folder can also write a new chain and a new head: only `known_heads`, which left
    the machine or went to another store, show that. Writers are not held up.

    Raises:
        Unavailable: the folder cannot be read.
    """
    try:
        with _writers_waiting(folder):
            size = _size(folder / LOG_NAME)
            head, problem = _own_head(folder)
        return _verify(folder, size, [*known_heads, *([head] if head else [])], problem)
    except OSError as error:
        raise Unavailable(f"{folder}: the audit log cannot be read ({error.strerror})") from error


def _verify(folder: Path, size: int, heads: Sequence[AuditHead], problem: str) -> Verification:
    walk = _Walk({head.records for head in heads})
    torn_bytes = 0
    for line in _lines(folder / LOG_NAME, size):
        if line.endswith(b"\n"):
            walk.step(line[:-1])
        else:
            torn_bytes = len(line)
    problems = [*walk.problems, *([problem] if problem else []), *_head_problems(walk, heads)]
    if not heads and not problem and walk.count > 1:
        problems.append(f"expected a head file beside {walk.count} records, found none")
    return Verification(walk.count, walk.end, tuple(problems), torn_bytes)


class _Walk:
    """Goes along the chain; after a break it goes on from what it found, so that each break is named once."""

    def __init__(self, wanted: set[int]) -> None:
        self.count = 0
        self.end = EMPTY
        self.problems: list[str] = []
        self.digests = {0: EMPTY.sha256}
        self._wanted = wanted

    def step(self, line: bytes) -> None:
        self.count += 1
        try:
            link = parse_link(line)
        except ValueError as error:
            self._note(f"line {self.count}: {error}")
            link = Link(self.end.records + 1, self.end.sha256, "")
        self._compare(link)
        self.end = AuditHead(link.number, line_sha256(line))
        if self.count in self._wanted:
            self.digests[self.count] = self.end.sha256

    def _compare(self, link: Link) -> None:
        if link.number != self.end.records + 1:
            self._note(f"line {self.count}: expected record {self.end.records + 1}, found record {link.number}")
        elif link.previous != self.end.sha256:
            self._note(
                f"line {self.count}: record {link.number} does not follow from the line before, which was changed"
            )
        if link.event == AuditEvent.AUDIT_ALARM:
            self._note(f"record {link.number} is an alarm: a writer found the log's end not where its head said")

    def _note(self, problem: str) -> None:
        if len(self.problems) < _NAMED_PROBLEMS:
            self.problems.append(problem)


def _head_problems(walk: _Walk, heads: Sequence[AuditHead]) -> Iterator[str]:
    for head in heads:
        if head.records > walk.count:
            yield f"expected at least {head.records} records, as a head says, found {walk.count}: the end was cut off"
        elif walk.digests.get(head.records) != head.sha256:
            yield f"record {head.records} is not the one that a head vouches for"


def _own_head(folder: Path) -> tuple[AuditHead | None, str]:
    try:
        return read_head(folder), ""
    except ValueError as error:
        return None, str(error)


def _lines(path: Path, size: int) -> Iterator[bytes]:
    if size == 0:
        return
    read = 0
    with path.open("rb") as file:
        while read < size:
            line = file.readline()[: size - read]
            read += len(line)
            yield line


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _writers_waiting(folder: Path) -> Generator[None]:
    """Keep writers out for the moment; a log without a lock file (a copy) has none."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
