"""The role `listen` around the listener: index behind the disk, completion, the queue, housekeeping, purge."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.audit import AuditLog
from dicomnode.config import Config, Destination, Peer, parse_config
from dicomnode.destinations import Archive
from dicomnode.errors import Unavailable
from dicomnode.ledger import Ledger, Order, OrderState, Result, Rung, SeriesState
from dicomnode.listening import Listening
from dicomnode.receive import Spool
from dicomnode.steps.recorder import Recorder, now
from dicomnode.work import Queue, WorkClient, prepare
from tests.listening import wait_until
from tests.site import torso_series


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Role:
    """The role in a thread, with its ledger."""

    def __init__(self, folder: Path, ahead: timedelta = timedelta(), **completion: float) -> None:
        self.config: Config = parse_config(
            {
                "node": {"ae_title": "NODE", "port": free_port(), "data_dir": str(folder)},
                "peers": [{"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 9}],
                "limits": {"min_free_bytes": 0},
                "completion": {"association_end_s": 0.3, "quiet_period_s": 30} | completion,
                "retention": {"received_days": 10, "results_days": 10},
            },
            "test",
        )
        prepare(self.config.node.work_database_url, folder)
        self.ledger = Ledger(self.config.node.database_url, self.config.node.spool_dir)
        self.ledger.prepare()
        self.work = WorkClient(self.config.node.work_database_url)
        self._ahead = ahead
        self._stop = threading.Event()

    def clock(self) -> datetime:
        return now() + self._ahead

    @contextmanager
    def running(self) -> Generator[None]:
        recorder = Recorder("listen", self.ledger, AuditLog(self.config.node.audit_dir), self.clock)
        spool = Spool(self.config.node.spool_dir, 0)
        role = Listening(self.config, self.ledger, recorder, self.work, spool)
        thread = threading.Thread(target=role.run, args=(self._stop,))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(20)
            assert not thread.is_alive()
            self._stop.clear()

    def send(self, paths: list[Path]) -> None:
        peer = Peer(name="node", ae_title="NODE", host="127.0.0.1", port=self.config.node.port)
        wait_until(lambda: _answers(self.config.node.port), "the listener")
        answers = Archive(Destination(name="node", peer="node", timeout_s=5), peer, "ARCHIVE").send(paths)
        assert all(a.kept for a in answers)

    def files(self) -> list[Path]:
        return sorted(self.config.node.spool_dir.glob("series/*/*.dcm"))

    def audited(self) -> str:
        return (self.config.node.audit_dir / "audit.jsonl").read_text()

    def close(self) -> None:
        self.work.close()
        self.ledger.close()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def small_series(folder: Path, seed: int = 1) -> list[Path]:
    return torso_series(folder, seed, spacing_mm=(60.0, 12.0, 12.0))


def test_a_released_association_completes_its_series_and_the_job_is_queued_once(tmp_path: Path):
    role = Role(tmp_path / "node")
    paths = small_series(tmp_path / "series")
    with role.running():
        role.send(paths)
        wait_until(lambda: role.ledger.received.versions(), "a version")
        role.send(paths)  # the same instances again
    [version] = role.ledger.received.versions()
    assert version["instances"] == len(paths)
    assert "was released" in str(version["evidence"])
    assert role.work.live(Queue.ROUTE) == [f"route/{version['version_id']}"]
    role.close()


def test_what_was_acknowledged_and_never_indexed_is_found_on_the_disk_at_the_next_start(tmp_path: Path):
    role = Role(tmp_path / "node", quiet_period_s=0.5)
    paths = small_series(tmp_path / "series")
    with role.running():
        role.send(paths)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / "node" / name).unlink(missing_ok=True)
    role.close()
    again = Role(tmp_path / "node", quiet_period_s=0.5)
    with again.running():
        wait_until(lambda: again.ledger.received.versions(), "a version")
    [version] = again.ledger.received.versions()
    assert version["instances"] == len(paths)
    assert "found open in the index" in str(version["evidence"])
    again.close()


def test_what_lost_its_job_is_queued_again_by_housekeeping(tmp_path: Path):
    """The queue's file is gone: a version not routed, an order not begun, a delivery not made."""
    role = Role(tmp_path / "node")
    with role.running():
        role.send(small_series(tmp_path / "series"))
        wait_until(lambda: role.ledger.received.versions(), "a version")
    version_id = str(role.ledger.received.versions()[0]["version_id"])
    for order_id in ("o1", "o2"):
        role.ledger.ordered.place(
            Order(order_id, version_id, order_id, "torso", ("seg",), ("pacs",), 1, OrderState.WAITING, "", 1), now()
        )
    made = Result("1.2.9", "1.2.8", "1.2.7", "o2", "seg", Path("r.dcm"), "b" * 64)
    role.ledger.ordered.record_results([made], {"pacs": Rung.ACCEPTED}, now())
    role.ledger.ordered.set_state("o2", OrderState.DELIVERING, "", now())
    for name in ("work.sqlite", "work.sqlite-wal", "work.sqlite-shm"):
        (tmp_path / "node" / name).unlink(missing_ok=True)
    role.close()
    again = Role(tmp_path / "node", ahead=timedelta(minutes=2))
    with again.running():
        wait_until(lambda: again.work.live(Queue.DELIVER), "the delivery's job")
    assert [job.split("/")[:2] for job in again.work.live(Queue.ROUTE)] == [["route", version_id]]
    assert [job.split("/")[:2] for job in again.work.live(Queue.SEGMENT)] == [["segment", "o1"]]
    assert [job.split("/")[:3] for job in again.work.live(Queue.DELIVER)] == [["deliver", "1.2.9", "pacs"]]
    again.close()


def test_a_stranger_is_rejected_and_that_is_on_record(tmp_path: Path):
    role = Role(tmp_path / "node")
    with role.running():
        wait_until(lambda: _answers(role.config.node.port), "the listener")
        peer = Peer(name="node", ae_title="NODE", host="127.0.0.1", port=role.config.node.port)
        stranger = Archive(Destination(name="node", peer="node", timeout_s=2), peer, "STRANGER")
        with pytest.raises(Unavailable):
            stranger.echo()
        wait_until(lambda: "association rejected" in role.audited(), "the record")
    assert '"peer":"STRANGER"' in role.audited()
    role.close()


def test_instances_leave_when_their_time_is_over_and_their_story_stays(tmp_path: Path):
    role = Role(tmp_path / "node")
    paths = small_series(tmp_path / "series")
    with role.running():
        role.send(paths)
        wait_until(lambda: role.ledger.received.versions(), "a version")
    [version] = role.ledger.received.versions()
    assert len(role.files()) == len(paths)
    role.ledger.received.set_routed(str(version["version_id"]), SeriesState.UNMATCHED, "", "")
    role.close()
    later = Role(tmp_path / "node", ahead=timedelta(days=11))
    with later.running():
        wait_until(lambda: not later.files(), "the purge")
        wait_until(lambda: '"event":"purged"' in later.audited(), "the record")
    [version] = later.ledger.received.versions()
    assert version["purged_at"] is not None
    later.close()


def test_an_order_the_durable_engine_gave_up_on_is_parked_not_forgotten(tmp_path: Path):
    role = Role(tmp_path / "node")
    paths = small_series(tmp_path / "series")
    with role.running():
        role.send(paths)
        wait_until(lambda: role.ledger.received.versions(), "a version")
        version_id = str(role.ledger.received.versions()[0]["version_id"])
    order = Order("o1", version_id, "r", "torso", ("seg",), (), 1, OrderState.WAITING, "", 1)
    role.ledger.ordered.place(order, now())
    _give_up(role, "segment/o1/1/0")
    with role.running():
        wait_until(lambda: role.ledger.ordered.order("o1").state is OrderState.PARKED, "the order to be parked")
    assert "gave up" in role.ledger.ordered.order("o1").detail
    role.close()


def _give_up(role: Role, job_id: str) -> None:
    """Leave a job in the state in which the engine leaves a poison one."""
    import sqlite3

    from dicomnode.work import segment_job

    role.work.enqueue(segment_job("o1", 1, 100))
    with sqlite3.connect(role.config.node.data_dir / "work.sqlite") as db:
        statement = "UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHERE workflow_uuid = ?"
        assert db.execute(statement, (job_id,)).rowcount == 1
