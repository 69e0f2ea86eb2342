"""The role `listen`: instances onto disk, series to completion, complete series onto the queue."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from dicomnode.audit import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.config import Config, Destination
from dicomnode.destinations import Archive
from dicomnode.errors import NodeError, Unavailable
from dicomnode.ledger import CommitmentReport, Ledger, OrderState, ReceivedInstance
from dicomnode.log import Log
from dicomnode.receive import AssociationEnd, Completed, CompletionTracker, Events, Listener, RejectedCall, Spool
from dicomnode.steps.delivering import enter_report
from dicomnode.steps.recorder import Recorder
from dicomnode.work import Job, Queue, WorkClient, delivery_job, route_job, segment_job

log = Log("listen")

TICK_S = 0.1
CHORE_PAUSE_S = 1.0
HOUSEKEEPING_S = 30.0
ORPHANED_AFTER_S = 60.0  # what waits for longer than this must have a job on a queue
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
class _Chore:
    """Something to do again and again; that it fails once concerns no other."""

    work: Callable[[], None]
    every_s: float
    next_s: float = 0.0

    def do_when_due(self) -> None:
        if time.monotonic() < self.next_s:
            return
        try:
            self.work()
            self.next_s = time.monotonic() + self.every_s
        except NodeError as error:
            self.next_s = time.monotonic() + max(self.every_s / 10, CHORE_PAUSE_S)
            log.warning("a chore failed and is tried again", chore=self.work.__name__, why=str(error))


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
    _started_at: datetime = field(init=False)
    _started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.indexer = Indexer(self.ledger)
        self._started_at, self._started_s = self.recorder.clock(), time.monotonic()
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
        """Do what is due; whatever is away, receiving goes on: the spool needs neither ledger nor queue."""
        chores = [
            _Chore(self._index_and_complete, 0.0),
            _Chore(self._reopen, HOUSEKEEPING_S),
            _Chore(self._housekeep, HOUSEKEEPING_S),
            _Chore(self._purge, PURGE_S),
        ]
        while not stop.wait(TICK_S):
            for chore in chores:
                chore.do_when_due()

    def _index_and_complete(self) -> None:
        at = self._steady()  # before the flush: what comes during it is neither indexed nor counted as at rest
        self.indexer.flush()
        due = self.tracker.due(at)
        for number, completed in enumerate(due):
            try:
                self._close(completed)
            except NodeError:
                for waiting in due[number:]:  # `_reopen` takes them up again
                    log.warning("series could not be closed now", series=waiting.series_instance_uid)
                raise

    def _reopen(self) -> None:
        """Take up open series that the tracker does not know: closing one of them failed, or it came meanwhile."""
        self.tracker.reopen(self.ledger.received.open_series(), self._steady())

    def _steady(self) -> datetime:
        """The time since the start that no correction of the clock moves."""
        return self._started_at + timedelta(seconds=time.monotonic() - self._started_s)

    def _events(self) -> Events:
        return Events(
            on_received=self._on_received,
            on_association_end=self._on_association_end,
            on_commitment=self._on_commitment,
            on_rejected=self._on_rejected,
        )

    def _on_received(self, instance: ReceivedInstance, association: int) -> None:
        self.indexer.add(instance)
        self.tracker.received(replace(instance, received_at=self._steady()), association)

    def _on_association_end(self, end: AssociationEnd) -> None:
        at = self.recorder.clock()
        self.tracker.association_ended(end, self._steady())
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
        self._reopen()
        log.info("index reconciled", known=len(known), added=len(found), open_series=self.tracker.waiting())

    def _close(self, completed: Completed) -> None:
        version = self.ledger.received.close_series(
            completed.series_instance_uid, self.recorder.clock(), completed.evidence
        )
        if version is None:
            return  # the same instances again
        self.recorder.audited(
            AuditRecord(
                at=self.recorder.clock(),
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
        """Set aside what the engine gave up on; queue again whatever should have a job and has none."""
        for job_id, why in self.work.lost(Queue.SEGMENT):
            self._park_lost(job_id, why)
        before = self.recorder.clock() - timedelta(seconds=ORPHANED_AFTER_S)
        again = self.recorder.clock().isoformat()
        routing = {job_id.split("/")[1] for job_id in self.work.live(Queue.ROUTE)}
        for version_id in set(self.ledger.received.unrouted(before)) - routing:
            self._queue_again(route_job(version_id, again))
        segmenting = {job_id.split("/")[1] for job_id in self.work.live(Queue.SEGMENT)}
        for order in self.ledger.ordered.unfinished(before):
            if order.order_id not in segmenting:
                self._queue_again(segment_job(order.order_id, order.attempt, order.priority, again=again))
        # Far beyond any turn there was: a turn that is known already would not be taken again.
        turn = int(self.recorder.clock().timestamp())
        delivering = {tuple(job_id.split("/")[1:3]) for job_id in self.work.live(Queue.DELIVER)}
        for d in self.ledger.delivered.unfinished(before):
            if (d.sop_instance_uid, d.destination) not in delivering:
                self._queue_again(delivery_job(d.sop_instance_uid, d.destination, (d.round, turn)))

    def _queue_again(self, job: Job) -> None:
        log.warning("job was missing, queued again", job=job.job_id)
        self.work.enqueue(job)

    def _park_lost(self, job_id: str, why: str) -> None:
        kind, name, attempt = job_id.split("/")[:3]
        if kind != Queue.SEGMENT:
            return
        try:
            order = self.ledger.ordered.order(name)
        except LookupError:  # of a ledger that was lost
            return
        if order.state in {OrderState.WAITING, OrderState.RUNNING} and attempt == str(order.attempt):
            sentence = (
                f"the durable engine gave up on it ({why.lower()}); see the worker's log, then 'dicomnode retry ID'"
            )
            at = self.recorder.clock()
            outcome = AuditOutcome.SERIOUS_FAILURE
            self.recorder.audited(
                AuditRecord(
                    at, AuditEvent.PARKED, self.recorder.role, outcome, order_id=order.order_id, detail=sentence
                )
            )
            self.ledger.ordered.set_state(name, OrderState.PARKED, sentence, at)

    def _purge(self) -> None:
        """Remove instances and results whose time in the spool is over; the ledger keeps what they were."""
        at = self.recorder.clock()
        before = at - timedelta(days=self.config.retention.received_days)
        parked = at - timedelta(days=self.config.retention.parked_days)
        for series_uid, paths in self.ledger.received.closed_before(before, parked):
            self._remove(paths)
            self.ledger.received.set_purged(series_uid, at)
            self._audit_purge(series_uid, len(paths), "received instances")
        results_before = at - timedelta(days=self.config.retention.results_days)
        for result in self.ledger.ordered.finished_before(results_before):
            self._remove([result.path])
            self.ledger.ordered.set_purged(result.sop_instance_uid, at)
            self._audit_purge("", 1, f"result {result.sop_instance_uid}")

    def _remove(self, paths: list[Path]) -> None:
        try:
            for path in paths:
                (self.spool.root / path).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"the spool cannot be purged: {error.strerror}") from error

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
