"""A listener for tests: on a free port, with everything that it told."""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset

from dicomnode.config import Config, parse_config
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from dicomnode.ledger.records import CommitmentReport, ReceivedInstance
from dicomnode.receive import AssociationEnd, Events, Listener, RejectedCall, Spool
from tests.raw_sender import StoredFile, read_file

SENDER: Mapping[str, object] = {"name": "archive", "ae_title": "SENDER", "host": "127.0.0.1", "port": 4242}


def listening_config(folder: Path, peer: Mapping[str, object] | None = None, **limits: float) -> Config:
    """A node called NODE with one peer called SENDER; limits as given."""
    document = {
        "node": {"ae_title": "NODE", "data_dir": str(folder)},
        "peers": [{**SENDER, **(peer or {})}],
        "limits": {"min_free_bytes": 0} | limits,
    }
    return parse_config(document, "test")


@dataclass
class Told:
    """What the listener told, in the order in which it came."""

    received: list[ReceivedInstance] = field(default_factory=list[ReceivedInstance])
    associations: list[int] = field(default_factory=list[int])  # one per received instance
    ended: list[AssociationEnd] = field(default_factory=list[AssociationEnd])
    reports: list[CommitmentReport] = field(default_factory=list[CommitmentReport])
    rejected: list[RejectedCall] = field(default_factory=list[RejectedCall])
    index_is_down: bool = False

    def events(self) -> Events:
        """Callbacks that write down what they are told."""
        return Events(self._on_received, self.ended.append, self._on_report, self.rejected.append)

    def _on_received(self, instance: ReceivedInstance, association: int) -> None:
        self._fail_when_down()
        self.received.append(instance)
        self.associations.append(association)

    def _on_report(self, report: CommitmentReport) -> None:
        self._fail_when_down()
        self.reports.append(report)

    def _fail_when_down(self) -> None:
        if self.index_is_down:
            raise ConnectionRefusedError("the database is down")


@dataclass
class Node:
    """A running listener."""

    listener: Listener
    spool: Spool
    told: Told

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listener.port

    def kept(self) -> list[Path]:
        """Every acknowledged file, absolute."""
        return sorted(self.spool.root.glob("series/*/*"))

    def half_received(self) -> list[Path]:
        """What is left in the incoming folder."""
        return sorted(self.spool.root.glob("incoming/*"))

    def wait_for_end(self, associations: int = 1) -> AssociationEnd:
        """Wait until so many associations have ended; returns the last."""
        wait_until(lambda: len(self.told.ended) >= associations, "an association to end")
        return self.told.ended[-1]

    def wait_for_threads(self) -> None:
        """Wait until no connection has a thread any more."""
        wait_until(lambda: not connection_threads(), "connections to be closed")


@contextmanager
def listening(config: Config, *, min_free_bytes: int = 0) -> Generator[Node]:
    """A listener of that configuration on a free port, stopped at the end."""
    told = Told()
    spool = Spool(config.node.spool_dir, min_free_bytes)
    listener = Listener(config, spool, told.events(), port=0)
    listener.start()
    try:
        yield Node(listener, spool, told)
    finally:
        listener.stop(grace_s=0.2)


def connection_threads() -> list[threading.Thread]:
    """Threads that serve a connection (named a1, a2, ...)."""
    return [t for t in threading.enumerate() if t.name[:1] == "a" and t.name[1:].isdigit()]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Poll until the condition holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.005)


def ct_data_sets(seed: str, slices: int = 3, pixels: int = 32) -> list[FileDataset]:
    """A small CT series with noise in it."""
    voxels = np.random.default_rng(len(seed)).integers(-1000, 1000, (slices, pixels, pixels)).astype(np.int16)
    affine = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    identity = SeriesIdentity(seed)
    return build_ct_slices(voxels, Geometry(affine, voxels.shape, identity.frame_of_reference_uid), identity)


def ct_files(folder: Path, seed: str, slices: int = 3, pixels: int = 32) -> list[StoredFile]:
    """`ct_data_sets`, written and read back as what a sender needs."""
    return [read_file(path) for path in write_series(ct_data_sets(seed, slices, pixels), folder / seed)]
