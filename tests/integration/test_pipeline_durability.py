"""The page of flow under fire: its process is killed inside each step, and everything is still done once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.work import WorkClient, prepare, route_job

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0


class Role:
    """The process that serves the queues, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self.process = self._start()
        self.client = WorkClient(f"sqlite:///{folder / 'work.sqlite'}")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.processes.pipeline_role", str(self.folder)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        self.starts += 1
        self.wait_for(lambda: self.lines("up") >= self.starts)
        return process

    def lines(self, *beginning: str) -> int:
        log = self.folder / "log"
        wanted = " ".join(beginning)
        written = log.read_text().splitlines() if log.exists() else []
        return sum(1 for line in written if line == wanted or line.startswith(wanted + " "))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def hold(self, step: str) -> None:
        (self.folder / f"hold-{step}").touch()

    def let_go(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink()

    def kill_and_start(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def role(tmp_path: Path) -> Iterator[Role]:
    prepare(f"sqlite:///{tmp_path / 'work.sqlite'}", tmp_path)
    started = Role(tmp_path)
    yield started
    started.end()


@pytest.mark.parametrize("killed_in", ["assemble", "infer", "encode", "check", "ship", "deliver"])
def test_a_role_killed_inside_a_step_resumes_there_and_repeats_nothing_before_it(role: Role, killed_in: str):
    role.hold(killed_in)
    role.client.enqueue(route_job("a"))
    role.wait_for(lambda: role.lines("began", killed_in) == 1)
    role.kill_and_start()
    role.let_go(killed_in)
    role.wait_for(lambda: role.lines("delivered", "result-of-order-a") == 1)
    for step in ("assemble", "infer", "encode", "check", "ship"):
        assert role.lines(step, "order-a") == 1


def test_the_same_series_enqueued_twice_is_segmented_once(role: Role):
    for name in ("a", "a", "b", "a"):
        role.client.enqueue(route_job(name))
    role.wait_for(lambda: role.lines("delivered") == 2)
    assert role.lines("infer", "order-a") == 1
    assert role.lines("infer", "order-b") == 1


def test_an_unusable_series_parks_with_its_numbers_and_the_others_go_on(role: Role):
    for name in ("gap", "b"):
        role.client.enqueue(route_job(name))
    role.wait_for(lambda: role.lines("delivered", "result-of-order-b") == 1)
    role.wait_for(lambda: role.lines("parked", "order-gap") == 1)
    assert role.lines("parked order-gap missing_slices: expected slices every 3.0 mm, found a gap of 7.0 mm") == 1


def test_a_defect_of_ours_parks_its_order_and_says_that_it_is_one(role: Role):
    role.client.enqueue(route_job("defect"))
    role.wait_for(lambda: role.lines("parked", "order-defect", "unexpected", "ZeroDivisionError:") == 1)


def test_what_is_unavailable_for_now_is_tried_again_without_a_person(role: Role):
    (role.folder / "gpu_full").touch()
    role.client.enqueue(route_job("busy"))
    role.wait_for(lambda: role.lines("postponed", "order-busy") >= 2)
    (role.folder / "gpu_full").unlink()
    role.wait_for(lambda: role.lines("delivered", "result-of-order-busy") == 1)
    assert role.lines("parked") == 0


def test_an_archive_that_is_away_delays_its_deliveries_and_nothing_else(role: Role):
    (role.folder / "pacs_down").touch()
    role.client.enqueue(route_job("a"))
    role.wait_for(lambda: role.lines("down") >= 2)
    role.client.enqueue(route_job("b"))
    role.wait_for(lambda: role.lines("ship", "order-b") == 1)
    role.kill_and_start()
    (role.folder / "pacs_down").unlink()
    role.wait_for(lambda: role.lines("delivered") == 2)
    assert role.lines("infer", "order-a") == 1


def test_a_series_whose_headers_cannot_be_routed_is_refused_and_the_others_go_on(role: Role):
    for name in ("unreadable", "b"):
        role.client.enqueue(route_job(name))
    role.wait_for(lambda: role.lines("delivered", "result-of-order-b") == 1)
    role.wait_for(lambda: role.lines("refused", "unreadable", "the header is damaged") == 1)
