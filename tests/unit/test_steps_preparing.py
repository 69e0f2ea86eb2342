"""Slices are decoded ahead in a thread of its own: it outlives what fails, tidies by the clock, and leaves nothing."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.assembly.prepared import PreparedSlices
from dicomnode.ledger import Ledger
from dicomnode.steps import preparing as module
from dicomnode.steps.preparing import TIDY, Preparing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", tmp_path)
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def cache(tmp_path: Path) -> PreparedSlices:
    return PreparedSlices(tmp_path / "prepared")


class Clock:
    """Stands still, and raises what it was given, once each."""

    def __init__(self, *failures: BaseException) -> None:
        self.at, self.asked, self._failures = NOW, 0, list(failures)

    def __call__(self) -> datetime:
        self.asked += 1
        if self._failures:
            raise self._failures.pop()
        return self.at


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def old_file(cache: PreparedSlices) -> Path:
    cache.folder.mkdir(exist_ok=True)
    path = cache.folder / "0.part"
    path.write_bytes(b"")
    os.utime(path, (1, 1))
    return path


def test_what_is_old_is_removed_by_the_clock_however_few_turns_were_taken(cache: PreparedSlices, ledger: Ledger):
    clock = Clock()
    with Preparing(ledger.received, cache, clock).going_on():
        until(lambda: clock.asked > 1)  # tidied for the first time
        left = old_file(cache)
        asked = clock.asked
        until(lambda: clock.asked > asked + 2)
        assert left.exists()
        clock.at += TIDY + timedelta(seconds=1)
        until(lambda: not left.exists())


def test_it_goes_on_after_memory_was_short(
    cache: PreparedSlices, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    left, clock = old_file(cache), Clock(MemoryError())
    with caplog.at_level(logging.WARNING), Preparing(ledger.received, cache, clock).going_on():
        until(lambda: not left.exists())
    assert [record.message for record in caplog.records] == ["slices could not be decoded ahead"]
    assert vars(caplog.records[0])["fields"] == {"why": "MemoryError"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_ends_it_and_is_in_the_log(cache: PreparedSlices, ledger: Ledger, caplog: pytest.LogCaptureFixture):
    with Preparing(ledger.received, cache, Clock(ZeroDivisionError())).going_on():
        until(lambda: bool(caplog.records))
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "slices are decoded ahead no more")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_nothing_stays_behind_when_the_node_stops(cache: PreparedSlices, ledger: Ledger):
    with Preparing(ledger.received, cache, Clock()).going_on():
        cache.folder.mkdir(exist_ok=True)
        (cache.folder / "0.words").write_bytes(b"pixels")
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_was_never_made_is_empty(cache: PreparedSlices):
    cache.forget_all()
    assert not cache.folder.exists()
