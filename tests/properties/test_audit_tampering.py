"""Whatever is done to the bytes of an audit log that was written to its end, verification finds it."""

import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.audit import AuditEvent, AuditLog, AuditRecord, verify
from dicomnode.audit.chain import HEAD_NAME, LOG_NAME

RECORDS = 12
EVENTS = list(AuditEvent)[:18]


@dataclass(frozen=True)
class Written:
    folder: Path
    log: bytes
    head: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.log.splitlines(keepends=True)

    def problems_with(self, log: bytes) -> tuple[str, ...]:
        (self.folder / LOG_NAME).write_bytes(log)
        (self.folder / HEAD_NAME).write_bytes(self.head)
        return verify(self.folder).problems


@pytest.fixture(scope="module")
def written() -> Generator[Written]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for number in range(RECORDS):
            record = AuditRecord(
                start + timedelta(seconds=number),
                EVENTS[number % len(EVENTS)],
                "work",
                series_instance_uid=f"1.2.{number}",
                detail="x" * (number * 7 % 30),
            )
            AuditLog(folder).append(record)
        yield Written(folder, (folder / LOG_NAME).read_bytes(), (folder / HEAD_NAME).read_bytes())


numbers = st.integers(0, RECORDS - 1)


def test_the_log_as_written_has_no_problems(written: Written) -> None:
    assert written.problems_with(written.log) == ()


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(written: Written, place: int, flip: int) -> None:
    changed = bytearray(written.log)
    changed[place % len(changed)] ^= flip
    assert written.problems_with(bytes(changed))


def test_every_changed_newline_and_every_changed_digit_of_the_last_record_is_found(written: Written) -> None:
    last = len(written.log) - len(written.lines[-1])
    places = [i for i, byte in enumerate(written.log) if byte == ord("\n") or i >= last]
    for place in places:
        changed = bytearray(written.log)
        changed[place] ^= 1
        assert written.problems_with(bytes(changed)), place


@settings(max_examples=60, deadline=None)
@given(number=numbers)
def test_any_removed_record_is_found(written: Written, number: int) -> None:
    rest = [line for n, line in enumerate(written.lines) if n != number]
    assert written.problems_with(b"".join(rest))


@settings(max_examples=60, deadline=None)
@given(first=numbers, second=numbers)
def test_any_two_swapped_records_are_found(written: Written, first: int, second: int) -> None:
    swapped = written.lines
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert bool(written.problems_with(b"".join(swapped))) == (first != second)


@settings(max_examples=60, deadline=None)
@given(source=numbers, place=st.integers(0, RECORDS))
def test_any_duplicated_record_is_found_wherever_it_is_put(written: Written, source: int, place: int) -> None:
    more = written.lines
    more.insert(place, written.lines[source])
    assert written.problems_with(b"".join(more))


@settings(max_examples=200, deadline=None)
@given(length=st.integers(0, 10**9))
def test_any_truncation_is_found(written: Written, length: int) -> None:
    assert written.problems_with(written.log[: length % len(written.log)])


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 10**9), inserted=st.binary(min_size=1, max_size=40))
def test_any_insertion_before_the_end_is_found(written: Written, place: int, inserted: bytes) -> None:
    at = place % len(written.log)
    assert written.problems_with(written.log[:at] + inserted + written.log[at:])


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_head_is_found(written: Written, place: int, flip: int) -> None:
    head = bytearray(written.head)
    head[place % len(head)] ^= flip
    assert Written(written.folder, written.log, bytes(head)).problems_with(written.log)
