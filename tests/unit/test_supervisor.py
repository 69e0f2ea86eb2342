"""The supervisor: roles that die are started again, a wrong configuration is not, a stop stops all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0

# `serve` with stand-ins for the three roles: each writes its process id and waits, or ends as a file tells it.
PROGRAM = """
import pathlib, sys
from dicomnode import supervisor
folder = pathlib.Path(sys.argv[1])
supervisor.FIRST_PAUSE_S = 0.05
role = "import os, pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[2]); name = sys.argv[1];"
role += "signal.signal(signal.SIGTERM, lambda *_: (open(folder / 'stopped', 'a').write(name + chr(10)), os._exit(0)));"
role += "from dicomnode.supervisor import die_with_parent; die_with_parent(int(sys.argv[3]));"
role += "open(folder / name, 'a').write(str(os.getpid()) + chr(10));"
role += "code = folder / (name + '-exit'); sys.exit(int(code.read_text())) if code.exists() else time.sleep(60)"
def start(self, name):
    import os, subprocess
    return subprocess.Popen([sys.executable, "-c", role, name, str(folder), str(os.getpid())])
supervisor.Supervisor._start = start
sys.exit(supervisor.Supervisor(folder / "node.toml").run())
"""


class Serving:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=REPOSITORY)

    def pids(self, role: str) -> list[int]:
        path = self.folder / role
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    started = Serving(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_role_that_is_killed_is_started_again_and_the_others_are_left_alone(serving: Serving):
    serving.wait_for(lambda: all(serving.pids(r) for r in ("listen", "work", "deliver")))
    os.kill(serving.pids("work")[0], signal.SIGKILL)
    serving.wait_for(lambda: len(serving.pids("work")) == 2)
    assert len(serving.pids("listen")) == len(serving.pids("deliver")) == 1


def test_a_stop_ends_every_role_politely_and_the_exit_code_is_0(serving: Serving):
    serving.wait_for(lambda: all(serving.pids(r) for r in ("listen", "work", "deliver")))
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(DEADLINE_S) == 0
    assert sorted((serving.folder / "stopped").read_text().split()) == ["deliver", "listen", "work"]


def test_a_role_that_finds_the_configuration_wrong_ends_the_node_with_exit_code_2(tmp_path: Path):
    (tmp_path / "work-exit").write_text("2")
    serving = Serving(tmp_path)
    assert serving.process.wait(DEADLINE_S) == 2
    assert len(serving.pids("work")) == 1


def test_roles_do_not_outlive_a_supervisor_that_was_killed(serving: Serving):
    serving.wait_for(lambda: all(serving.pids(r) for r in ("listen", "work", "deliver")))
    serving.process.kill()
    serving.wait_for(lambda: not any(is_alive(serving.pids(r)[0]) for r in ("listen", "work", "deliver")))


def test_a_configuration_that_breaks_later_keeps_one_role_down_and_stops_no_other(serving: Serving):
    serving.wait_for(lambda: all(serving.pids(r) for r in ("listen", "work", "deliver")))
    (serving.folder / "work-exit").write_text("2")
    os.kill(serving.pids("work")[0], signal.SIGKILL)
    serving.wait_for(lambda: len(serving.pids("work")) >= 3)
    assert serving.process.poll() is None
    (serving.folder / "work-exit").unlink()
    serving.wait_for(lambda: is_alive(serving.pids("work")[-1]) and len(serving.pids("work")) >= 4)
    assert len(serving.pids("listen")) == 1


def test_a_role_whose_supervisor_died_before_it_was_ready_ends_at_once():
    done = subprocess.run(
        [sys.executable, "-c", "from dicomnode.supervisor import die_with_parent; die_with_parent(1 << 22)"],
        cwd=REPOSITORY,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == -signal.SIGTERM
