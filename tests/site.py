"""A node as on a hospital's machine: its roles as processes of their own, to be killed at will."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dicomnode.config import Config, Destination, Peer, parse_config
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.destinations import Archive
from dicomnode.errors import NodeError
from dicomnode.imaging import Geometry
from dicomnode.ledger import Ledger, Order, OrderState
from dicomnode.supervisor import ROLES
from dicomnode.training.phantoms import build_torso_ct

AE_TITLE = "DICOMNODE"
READY_S = 90.0

NODE_TOML = """\
[node]
ae_title = "{ae_title}"
port = {port}
data_dir = "data"

[[peers]]
name = "pacs"
ae_title = "{archive_ae_title}"
host = "127.0.0.1"
port = {archive_port}

[[destinations]]
name = "pacs"
peer = "pacs"
timeout_s = 10
first_retry_s = 1
last_retry_s = 5

[[routes]]
name = "torso"
match = {{ Modality = "CT", number_of_instances = {{ min = 3 }} }}
model = "torso"
destinations = ["pacs"]

[completion]
association_end_s = 1
quiet_period_s = 5

[limits]
min_free_bytes = 100000000
"""

Launch = Callable[[Sequence[str], Path], "subprocess.Popen[bytes]"]


class Site:
    """One node; roles are started and killed one by one. The archive is somebody else's."""

    def __init__(
        self, folder: Path, port: int, archive: tuple[str, int], launch: Launch | None = None, extra: str = ""
    ) -> None:
        self.folder = folder
        self.port = port
        self.config_path = folder / "node.toml"
        self._launch = launch or _launch
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        values = {"ae_title": AE_TITLE, "port": port, "archive_ae_title": archive[0], "archive_port": archive[1]}
        self.config_path.write_text(NODE_TOML.format(**values) + extra)
        (folder / "data").mkdir(exist_ok=True)
        self.ledger = Ledger(f"sqlite:///{folder / 'data' / 'ledger.sqlite'}", folder / "data" / "spool")
        self.ledger.prepare()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for role in list(self._processes):
            self.stop(role)
        self.ledger.close()

    @property
    def audit_dir(self) -> Path:
        return self.folder / "data" / "audit"

    def log(self, role: str) -> str:
        path = self.folder / f"{role}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *roles: str) -> None:
        """Start roles (all of them if none is named) and wait until each is ready."""
        before = {role: self._readiness(role) for role in roles or ROLES}
        for role in before:
            command = [sys.executable, "-m", "dicomnode", "run", role, "--config", str(self.config_path)]
            self._processes[role] = self._launch(command, self.folder / f"{role}.log")
        for role, times in before.items():
            self.wait_for(lambda r=role, n=times: self._readiness(r) > n, READY_S, role)

    def _readiness(self, role: str) -> int:
        """How often the role has said that it can be used."""
        return self.log(role).count('"event": "listening"' if role == "listen" else '"event": "role ready"')

    def kill(self, role: str) -> None:
        """kill -9."""
        process = self._processes.pop(role)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, role: str) -> None:
        process = self._processes.pop(role)
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 120.0, role: str = "work") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s in vain; {role}'s log:\n{self.log(role)[-3000:]}"
            time.sleep(0.02)

    def orders(self) -> list[Order]:
        return self.ledger.ordered.orders()

    def steps(self, order: Order) -> list[str]:
        return [s.name for s in self.ledger.ordered.steps_of(order.order_id)]

    def wait_for_step(self, name: str) -> None:
        """Wait until some order has finished the step."""
        self.wait_for(lambda: any(name in self.steps(order) for order in self.orders()))

    def wait_until_done(self, orders: int = 1, timeout_s: float = 180.0) -> list[Order]:
        def done() -> bool:
            found = self.orders()
            parked = [o for o in found if o.state is OrderState.PARKED]
            assert not parked, f"{parked[0].detail}\n{self.log('work')[-3000:]}"
            return len([o for o in found if o.state is OrderState.DONE]) >= orders

        self.wait_for(done, timeout_s)
        return self.orders()

    def send(self, paths: Sequence[Path], calling_ae_title: str) -> None:
        """Send as the archive does; everything is acknowledged when this returns."""
        peer = Peer(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.port)
        for answer in Archive(Destination(name="node", peer="node", timeout_s=10), peer, calling_ae_title).send(paths):
            if not answer.kept:
                raise NodeError(answer.sentence)

    def config(self) -> Config:
        return parse_config({"node": {"data_dir": str(self.folder / "data")}}, "test")


def torso_series(folder: Path, seed: int = 1, spacing_mm: tuple[float, float, float] = (6.0, 3.0, 3.0)) -> list[Path]:
    """A small procedural torso CT as a series of files."""
    voxels_hu, _labels = build_torso_ct(seed, spacing_mm)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = (*spacing_mm, 1.0)
    affine[:3, 3] = (-200.0, -150.0, -250.0)
    identity = SeriesIdentity(f"site {seed}")
    geometry = Geometry(affine, voxels_hu.shape, identity.frame_of_reference_uid)
    return write_series(build_ct_slices(voxels_hu, geometry, identity), folder)


def _launch(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as sink:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
