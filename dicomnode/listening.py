"""The role `listen`: instances onto disk, series to completion, complete series onto the queue."""

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from dicomnode.audit import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.config import Config, Destination
from dicomnode.destinations import Archive
from dicomnode.errors import NodeError
from dicomnode.ledger import CommitmentReport, Ledger, OrderState, ReceivedInstance
from dicomnode.log import Log
from dicomnode.receive import AssociationEnd, Completed, CompletionTracker, Events, Listener, RejectedCall, Spool
from dicomnode.steps.delivering import enter_report
from dicomnode.steps.recorder import Recorder
from dicomnode.work import Queue, WorkClient, route_job

log = Log("listen")

TICK_S = 0.1
HOUSEKEEPING_S = 60.0
PURGE_S = 3600.0
COUNT_TIMEOUT_S = 5.0


class Indexer:
    """Enters received instances into the ledger in batches, behind the acknowledgement."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[ReceivedInstance] = []
        self._lock = threading.Lock()

    def add(self, instance: ReceivedInstance) -> None:
        """Take an instance into the next batch."""
        with self._lock:
            self._waiting.append(instance)

    def flush(self) -> None:
        """Enter what is waiting; what could not be entered stays waiting, the spool has it in any case."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._ledger.received.index(batch)
        except BaseException:
            with self._lock:
                self._waiting = batch + self._waiting
            raise


@dataclass(slots=True)
class Listening:
    """One listener with its index and its completion rules, until told to stop."""

    config: Config
    ledger: Ledger
    recorder: Recorder
    work: WorkClient
    spool: Spool
    indexer: Indexer = field(init=False)
    tracker: CompletionTracker = field(init=False)

    def __post_init__(self) -> None:
        self.indexer = Indexer(self.ledger)
        asks = any(p.query_count for p in self.config.peers)
        counts = self._count_at_peer if asks else None
        self.tracker = CompletionTracker(self.config.completion, counts, self.ledger.received.count_held)

    def run(self, stop: threading.Event) -> None:
        """Reconcile the index with the disk, then receive until `stop` is set."""
        listener = Listener(self.config, self.spool, self._events())
        self.spool.prepare()
        self._reconcile()
        listener.start()
        try:
            self._loop(stop)
        finally:
            listener.stop()
            self.indexer.flush()

    def _loop(self, stop: threading.Event) -> None:
        next_housekeeping = next_purge = 0.0
        while not stop.wait(TICK_S):
            try:
                self.indexer.flush()
                for completed in self.tracker.due(self.recorder.clock()):
                    self._close(completed)
                if time.monotonic() >= next_housekeeping:
                    self._housekeep()
                    next_housekeeping = time.monotonic() + HOUSEKEEPING_S
                if time.monotonic() >= next_purge:
                    self._purge()
                    next_purge = time.monotonic() + PURGE_S
            except NodeError as error:
                log.warning("will be tried again", why=str(error))
                self.tracker.reopen(self.ledger.received.open_series(), self.recorder.clock())

    def _events(self) -> Events:
        return Events(
            on_received=self._on_received,
            on_association_end=self._on_association_end,
            on_commitment=self._on_commitment,
            on_rejected=self._on_rejected,
        )

    def _on_received(self, instance: ReceivedInstance, association: int) -> None:
        self.indexer.add(instance)
        self.tracker.received(instance, association)

    def _on_association_end(self, end: AssociationEnd) -> None:
        at = self.recorder.clock()
        self.tracker.association_ended(end, at)
        if end.instances or end.refused:
            self.recorder.audited(
                AuditRecord(
                    at=at,
                    event=AuditEvent.SERIES_RECEIVED,
                    role=self.recorder.role,
                    outcome=AuditOutcome.MINOR_FAILURE if end.refused else AuditOutcome.SUCCESS,
                    series_instance_uid=min(end.series_instance_uids, default=""),
                    instances=end.instances,
                    peer=end.calling_ae_title,
                    detail=f"from {end.host}, {len(end.series_instance_uids)} series, {end.refused} instances refused, "
                    f"association {end.outcome} {end.detail}".strip(),
                )
            )

    def _on_commitment(self, report: CommitmentReport) -> None:
        enter_report(self.recorder, report)

    def _on_rejected(self, call: RejectedCall) -> None:
        self.recorder.audited(
            AuditRecord(
                at=self.recorder.clock(),
                event=AuditEvent.ASSOCIATION_REJECTED,
                role=self.recorder.role,
                outcome=AuditOutcome.MINOR_FAILURE,
                peer=call.calling_ae_title,
                detail=f"from {call.host} to {call.called_ae_title!r}: {call.reason}",
            )
        )

    def _reconcile(self) -> None:
        """The spool is the journal: enter what an earlier listener acknowledged and did not come to index."""
        known = self.ledger.received.known_paths()
        found = list(self.spool.walk(known))
        self.ledger.received.index(found)
        self.tracker.reopen(self.ledger.received.open_series(), self.recorder.clock())
        log.info("index reconciled", known=len(known), added=len(found), open_series=self.tracker.waiting())

    def _close(self, completed: Completed) -> None:
        version = self.ledger.received.close_series(completed.series_instance_uid, completed.at, completed.evidence)
        if version is None:
            return  # the same instances again
        self.recorder.audited(
            AuditRecord(
                at=completed.at,
                event=AuditEvent.SERIES_COMPLETED,
                role=self.recorder.role,
                study_instance_uid=version.study_instance_uid,
                series_instance_uid=completed.series_instance_uid,
                instances=len(version.series.instances),
                instances_sha256=version.series.content,
                detail=f"version {version.number}: {completed.evidence}",
            )
        )
        self.work.enqueue(route_job(version.version_id))
        log.info("series complete", version=version.version_id, number=version.number, evidence=completed.evidence)

    def _housekeep(self) -> None:
        """Enqueue again what a crash kept from the queue, and set aside what the engine gave up on."""
        for version_id in self.ledger.received.unrouted():
            self.work.enqueue(route_job(version_id))
        for job_id, why in self.work.lost(Queue.SEGMENT):
            self._park_lost(job_id, why)

    def _park_lost(self, job_id: str, why: str) -> None:
        kind, name, attempt = job_id.split("/")[:3]
        if kind != Queue.SEGMENT:
            return
        order = self.ledger.ordered.order(name)
        if order.state in {OrderState.WAITING, OrderState.RUNNING} and attempt == str(order.attempt):
            sentence = (
                f"the durable engine gave up on it ({why.lower()}); see the worker's log, then 'dicomnode retry ID'"
            )
            self.ledger.ordered.set_state(name, OrderState.PARKED, sentence, self.recorder.clock())

    def _purge(self) -> None:
        """Remove instances and results whose time in the spool is over; the ledger keeps what they were."""
        at = self.recorder.clock()
        before = at - timedelta(days=self.config.retention.received_days)
        for series_uid, paths in self.ledger.received.closed_before(before):
            self._remove(paths)
            self.ledger.received.set_purged(series_uid, at)
            self._audit_purge(series_uid, len(paths), "received instances")
        results_before = at - timedelta(days=self.config.retention.results_days)
        for result in self.ledger.ordered.finished_before(results_before):
            self._remove([result.path])
            self.ledger.ordered.set_purged(result.sop_instance_uid, at)
            self._audit_purge("", 1, f"result {result.sop_instance_uid}")

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            (self.spool.root / path).unlink(missing_ok=True)

    def _audit_purge(self, series_uid: str, instances: int, what: str) -> None:
        self.recorder.audited(
            AuditRecord(
                at=self.recorder.clock(),
                event=AuditEvent.PURGED,
                role=self.recorder.role,
                series_instance_uid=series_uid,
                instances=instances,
                detail=f"retention time over: {what}",
            )
        )

    def _count_at_peer(self, ae_title: str, study_uid: str, series_uid: str) -> int | None:
        peer = next((p for p in self.config.peers if p.ae_title == ae_title and p.query_count), None)
        if peer is None:
            return None
        destination = Destination(name="count", peer=peer.name, timeout_s=COUNT_TIMEOUT_S)
        try:
            return Archive(destination, peer, self.config.node.ae_title).count_instances(study_uid, series_uid)
        except NodeError as error:
            log.warning("the peer could not be asked for its count", peer=peer.name, why=str(error))
            return None
