"""Step `deliver`: one result one rung up at one destination; what comes next is decided by a pure rule."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.audit import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.config import Config
from dicomnode.destinations import (
    AskCommitment,
    DestinationPort,
    Finished,
    GiveUp,
    Patience,
    Progress,
    Store,
    WaitUntil,
    next_step,
    open_destination,
)
from dicomnode.errors import DestinationRefused, NodeError, ResultMismatch, Unavailable
from dicomnode.imaging import derived_uid
from dicomnode.ledger import CommitmentOutcome, CommitmentReport, Delivery, Ledger, Result, Rung
from dicomnode.log import Log
from dicomnode.pipeline import Shipment
from dicomnode.steps.recorder import Recorder

log = Log("deliver")

SAME_ASSOCIATION_WAIT_S = 1.0  # most archives report on a new association; few report within the same one
SHORTEST_LOOK_S = 2.0
LONGEST_LOOK_S = 300.0


@dataclass(frozen=True, slots=True)
class Delivering:
    """Brings results to where they belong."""

    config: Config
    ledger: Ledger
    recorder: Recorder
    spool_dir: Path

    def deliver(self, shipment: Shipment) -> float | None:
        """Do the one thing that is due for a delivery; seconds until the next look, None when there is no more."""
        result = self.ledger.ordered.result(shipment.sop_instance_uid)
        delivery = self.ledger.delivered.delivery(shipment.sop_instance_uid, shipment.destination)
        if delivery.parked or delivery.round != shipment.round:
            return None
        try:
            return self._advance(result, delivery)
        except NodeError as error:
            return self._failed(result, delivery, error)

    def _advance(self, result: Result, delivery: Delivery) -> float | None:
        at = self.recorder.clock()
        patience = Patience.of(self.config.destination(delivery.destination))
        match next_step(self._progress(delivery), patience, at):
            case Finished():
                self.ledger.ordered.settle(result.order_id, at)
                return None
            case GiveUp(sentence):
                self._park(result, delivery, sentence)
                return None
            case WaitUntil(moment):
                return self._next_look_s(delivery, moment, at)
            case Store():
                return self._store(result, delivery)
            case AskCommitment():
                return self._ask(result, delivery)

    def _progress(self, delivery: Delivery) -> Progress:
        asked = self.ledger.delivered.commitment(delivery.sop_instance_uid, delivery.destination)
        current = asked if delivery.rung >= Rung.ACCEPTED else None
        return Progress(
            sop_instance_uid=delivery.sop_instance_uid,
            rung=delivery.rung,
            goal=delivery.goal,
            since=delivery.since,
            failures=delivery.failures,
            last_failed_at=delivery.last_failed_at,
            asked_at=current.asked_at if current else None,
            failure_reason=current.failure_reason if current else None,
        )

    def _next_look_s(self, delivery: Delivery, moment: datetime, at: datetime) -> float:
        """A failure report may come before `moment`: look again after as long as has passed, within bounds."""
        asked = self.ledger.delivered.commitment(delivery.sop_instance_uid, delivery.destination)
        passed_s = (at - asked.asked_at).total_seconds() if asked else LONGEST_LOOK_S
        return min((moment - at).total_seconds(), max(SHORTEST_LOOK_S, min(LONGEST_LOOK_S, passed_s)))

    def _store(self, result: Result, delivery: Delivery) -> float | None:
        port = open_destination(self.config, delivery.destination)
        if delivery.rung >= Rung.ACCEPTED:
            self.ledger.delivered.send_again(*_key(delivery), self.recorder.clock(), "the archive does not have it")
        [stored] = port.store([self._intact(result)])
        at = self.recorder.clock()
        # On record before it counts: a delivery whose record cannot be written is stored again, which changes nothing.
        self._audit(result, delivery, AuditEvent.SENT, stored.sentence)
        self.ledger.delivered.raise_rung(*_key(delivery), port.store_reaches, at, stored.sentence)
        if port.store_reaches >= delivery.goal:
            self.ledger.delivered.note_success(*_key(delivery))
            self.ledger.ordered.settle(result.order_id, at)
            return None
        return self._ask(result, delivery, port)

    def _intact(self, result: Result) -> Path:
        """The result's file, whose bytes are still those that were checked."""
        path = self.spool_dir / result.path
        found = file_sha256(path)
        if not found:
            expected = f"expected the result's file {result.path} in the spool, found none"
            raise ResultMismatch(f"{expected}; 'dicomnode retry' makes it again")
        if found != result.sha256:
            raise ResultMismatch(
                f"expected the result {result.path} with SHA-256 {result.sha256[:16]}..., found {found[:16]}...: "
                "it was altered after it was checked and is not sent"
            )
        return path

    def _ask(self, result: Result, delivery: Delivery, port: DestinationPort | None = None) -> float | None:
        at = self.recorder.clock()
        port = port or open_destination(self.config, delivery.destination)
        transaction_uid = derived_uid(*_key(delivery), at.isoformat())
        self.ledger.delivered.ask_commitment(transaction_uid, *_key(delivery), at)
        references = [(result.sop_class_uid, result.sop_instance_uid)]
        report = port.request_commitment(transaction_uid, references, SAME_ASSOCIATION_WAIT_S)
        self.ledger.delivered.note_answered(transaction_uid)
        if report is not None:
            enter_report(self.recorder, report)
        if self.ledger.delivered.delivery(*_key(delivery)).rung >= delivery.goal:
            return None
        return SHORTEST_LOOK_S

    def _failed(self, result: Result, delivery: Delivery, error: NodeError) -> float | None:
        log.warning("delivery failed", result=result.sop_instance_uid, destination=delivery.destination, why=str(error))
        at = self.recorder.clock()
        self.ledger.delivered.note_failure(*_key(delivery), at, str(error))
        if isinstance(error, DestinationRefused) or not error.retryable:
            self._park(result, delivery, str(error))
            return None
        step = next_step(
            self._progress(self.ledger.delivered.delivery(*_key(delivery))),
            Patience.of(self.config.destination(delivery.destination)),
            at,
        )
        return max(0.0, (step.at - at).total_seconds()) if isinstance(step, WaitUntil) else SHORTEST_LOOK_S

    def _park(self, result: Result, delivery: Delivery, sentence: str) -> None:
        at = self.recorder.clock()
        self.ledger.delivered.park(*_key(delivery), sentence)
        self.ledger.ordered.settle(result.order_id, at)
        self._audit(result, delivery, AuditEvent.PARKED, sentence, AuditOutcome.SERIOUS_FAILURE)

    def _audit(
        self,
        result: Result,
        delivery: Delivery,
        event: AuditEvent,
        detail: str,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
    ) -> None:
        self.recorder.audited(_record(self.recorder, result, delivery.destination, event, detail, outcome))


def enter_report(recorder: Recorder, report: CommitmentReport) -> None:
    """Enter an archive's commitment report, whichever way it came, and draw the order's state from it."""
    at = recorder.clock()
    reported = recorder.ledger.delivered.record_report(report, at)
    if reported is None:
        log.warning("commitment report for no request of ours", transaction=report.transaction_uid)
        return
    key = (reported.sop_instance_uid, reported.destination)
    if reported.outcome is CommitmentOutcome.COMMITTED:
        recorder.ledger.delivered.note_success(*key)
    else:  # counted, so that an archive that says no again and again is asked less and less often
        recorder.ledger.delivered.note_failure(*key, at, reported.detail)
    result = recorder.ledger.ordered.result(reported.sop_instance_uid)
    recorder.ledger.ordered.settle(result.order_id, at)
    good = reported.outcome is CommitmentOutcome.COMMITTED
    outcome = AuditOutcome.SUCCESS if good else AuditOutcome.SERIOUS_FAILURE
    recorder.audited(_record(recorder, result, reported.destination, AuditEvent.COMMITTED, reported.detail, outcome))


def file_sha256(path: Path) -> str:
    """The digest of a result's file; empty when it is not there.

    Raises:
        Unavailable: it is there and cannot be read now.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Unavailable(f"the result {path.name} cannot be read: {error.strerror}") from error


def _record(
    recorder: Recorder, result: Result, destination: str, event: AuditEvent, detail: str, outcome: AuditOutcome
) -> AuditRecord:
    return AuditRecord(
        at=recorder.clock(),
        event=event,
        role=recorder.role,
        outcome=outcome,
        study_instance_uid=result.study_instance_uid,
        sop_instance_uids=(result.sop_instance_uid,),
        instances=1,
        result_sha256=result.sha256,
        order_id=result.order_id,
        peer=destination,
        detail=detail,
    )


def _key(delivery: Delivery) -> tuple[str, str]:
    return delivery.sop_instance_uid, delivery.destination
