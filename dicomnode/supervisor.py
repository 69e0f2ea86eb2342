"""`dicomnode serve`: all roles of a small site as child processes, each started again when it dies."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dicomnode.log import Log

ROLES = ("listen", "work", "deliver")
FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 60.0
HEALTHY_AFTER_S = 60.0  # a role that lived this long starts again at once
STOP_S = 30.0
CONFIG_EXIT_CODE = 2

log = Log("supervisor")


@dataclass(slots=True)
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    started_at: float
    starts: int = 1
    deaths: int = 0
    next_start: float | None = None  # set while it is down


@dataclass(slots=True)
class Supervisor:
    """Keeps the roles of one node running until it is told to stop."""

    config_path: Path
    roles: Sequence[str] = ROLES
    _children: list[_Child] = field(default_factory=list["_Child"])
    _stopping: bool = False

    def run(self) -> int:
        """Start every role, start the dead again with growing pauses, stop all on SIGTERM or SIGINT.

        Returns the exit code: 0 after a requested stop, 2 when a role finds the configuration unusable at its first
        start.
        """
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)
        self._children = [_Child(role, self._start(role), time.monotonic()) for role in self.roles]
        code = 0
        while not self._stopping and code == 0:
            code = max((self._look_after(child) for child in self._children), default=0)
            time.sleep(0.1)
        self._stop_all()
        return code

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dicomnode", "run", role, "--config", str(self.config_path)]
        command += ["--parent", str(os.getpid())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        log.info("role started", child=role, pid=process.pid)
        return process

    def _look_after(self, child: _Child) -> int:
        now = time.monotonic()
        if child.next_start is not None:
            if now >= child.next_start:
                child.process, child.started_at, child.next_start = self._start(child.role), now, None
                child.starts += 1
            return 0
        code = child.process.poll()
        if code is None:
            return 0
        if code == CONFIG_EXIT_CODE and child.starts == 1:
            return code  # wrong from the beginning; later it is an edit half done, and the other roles go on
        child.deaths = 0 if now - child.started_at > HEALTHY_AFTER_S else child.deaths + 1
        pause_s = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, child.deaths - 1)) if child.deaths else 0.0
        child.next_start = now + pause_s
        log.error("role died", child=child.role, exit_code=code, starts_again_in_s=pause_s)
        return 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _stop_all(self) -> None:
        """Ask all to finish, then end what does not."""
        running = [c.process for c in self._children if c.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # its work is durable: the next start takes it up


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when the supervisor is gone, however it went (Linux prctl 1)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before the call
        os.kill(os.getpid(), signal.SIGTERM)
