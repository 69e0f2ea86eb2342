"""The book of what was delivered: the rung each result has reached at each destination, and when."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dicomnode.ledger.database import Database
from dicomnode.ledger.records import Commitment, CommitmentOutcome, CommitmentReport, Delivery, Reported, Rung
from dicomnode.ledger.tables import commitments, deliveries, results, rungs

Row = Any  # one row of a query, columns as attributes


class Delivered:
    """Deliveries and the storage commitments asked for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def delivery(self, sop_instance_uid: str, destination: str) -> Delivery:
        """One delivery.

        Raises:
            LookupError: no such delivery.
        """
        with self._database.begin() as db:
            row = db.execute(sa.select(deliveries).where(*_key(sop_instance_uid, destination))).first()
        if row is None:
            raise LookupError(f"expected a delivery of {sop_instance_uid} to {destination}, found none")
        return _delivery(row)

    def deliveries_of(self, order_id: str) -> list[Delivery]:
        """The deliveries of an order's results."""
        query = (
            sa.select(deliveries)
            .join(results, results.c.sop_instance_uid == deliveries.c.sop_instance_uid)
            .where(results.c.order_id == order_id)
        )
        with self._database.begin() as db:
            return [_delivery(row) for row in db.execute(query)]

    def unfinished(self, before: datetime) -> list[Delivery]:
        """Deliveries opened before a moment that have not reached their goal and are not parked."""
        query = sa.select(deliveries).where(
            deliveries.c.rung < deliveries.c.goal, deliveries.c.parked.is_(False), deliveries.c.since < before
        )
        with self._database.begin() as db:
            return [_delivery(row) for row in db.execute(query)]

    def raise_rung(self, sop_instance_uid: str, destination: str, rung: Rung, at: datetime, detail: str) -> None:
        """Record that a delivery has come up to a rung; a rung never sinks, what happened is kept."""
        where = _key(sop_instance_uid, destination)
        with self._database.begin() as db:
            higher = deliveries.update().where(*where, deliveries.c.rung < rung).values(rung=rung, detail=detail)
            if db.execute(higher).rowcount:
                names = {"sop_instance_uid": sop_instance_uid, "destination": destination}
                db.execute(rungs.insert().values(**names, rung=rung, at=at, detail=detail))

    def send_again(self, sop_instance_uid: str, destination: str, at: datetime, detail: str) -> None:
        """Put a delivery back to the bottom: the archive says it does not have what it accepted."""
        names = {"sop_instance_uid": sop_instance_uid, "destination": destination}
        with self._database.begin() as db:
            db.execute(
                deliveries.update().where(*_key(sop_instance_uid, destination)).values(rung=Rung.ENCODED, detail=detail)
            )
            db.execute(rungs.insert().values(**names, rung=Rung.ENCODED, at=at, detail=detail))

    def note_failure(self, sop_instance_uid: str, destination: str, at: datetime, detail: str) -> None:
        """Count a try that failed and keep why."""
        with self._database.begin() as db:
            db.execute(
                deliveries.update()
                .where(*_key(sop_instance_uid, destination))
                .values(failures=deliveries.c.failures + 1, last_failed_at=at, detail=detail)
            )

    def note_success(self, sop_instance_uid: str, destination: str) -> None:
        """Forget earlier failures: the destination answers again."""
        with self._database.begin() as db:
            db.execute(deliveries.update().where(*_key(sop_instance_uid, destination)).values(failures=0))

    def park(self, sop_instance_uid: str, destination: str, detail: str) -> None:
        """Stop trying until a person says otherwise."""
        with self._database.begin() as db:
            db.execute(
                deliveries.update().where(*_key(sop_instance_uid, destination)).values(parked=True, detail=detail)
            )

    def start_again(self, sop_instance_uid: str, destination: str, at: datetime) -> Delivery:
        """Open a parked delivery for another round."""
        with self._database.begin() as db:
            db.execute(
                deliveries.update()
                .where(*_key(sop_instance_uid, destination))
                .values(
                    parked=False, failures=0, last_failed_at=None, round=deliveries.c.round + 1, since=at, detail=""
                )
            )
        return self.delivery(sop_instance_uid, destination)

    def history(self, sop_instance_uid: str) -> list[tuple[str, Rung, datetime, str]]:
        """Every rung a result has reached: destination, rung, time, sentence."""
        query = sa.select(rungs).where(rungs.c.sop_instance_uid == sop_instance_uid).order_by(rungs.c.id)
        with self._database.begin() as db:
            return [(r.destination, Rung(r.rung), r.at, r.detail) for r in db.execute(query)]

    def ask_commitment(self, transaction_uid: str, sop_instance_uid: str, destination: str, at: datetime) -> None:
        """Record a commitment request before it is sent: its report may come before the answer to it.

        Until `note_answered` it counts as failed, so that one a crash kept from being sent is not waited for.
        """
        with self._database.begin() as db:
            db.execute(
                commitments.insert().values(
                    transaction_uid=transaction_uid,
                    sop_instance_uid=sop_instance_uid,
                    destination=destination,
                    asked_at=at,
                    outcome=CommitmentOutcome.PENDING,
                    failure_reason=NOT_NAMED,
                    detail="asked, not answered yet",
                )
            )

    def note_answered(self, transaction_uid: str) -> None:
        """The archive has taken the request: from now on its report is waited for."""
        pending = (commitments.c.transaction_uid == transaction_uid) & (
            commitments.c.outcome == CommitmentOutcome.PENDING
        )
        with self._database.begin() as db:
            db.execute(commitments.update().where(pending).values(failure_reason=None, detail="asked"))

    def commitment(self, sop_instance_uid: str, destination: str) -> Commitment | None:
        """The last commitment request for a delivery, if any."""
        query = (
            sa.select(commitments)
            .where(commitments.c.sop_instance_uid == sop_instance_uid, commitments.c.destination == destination)
            .order_by(commitments.c.asked_at.desc())
            .limit(1)
        )
        with self._database.begin() as db:
            row = db.execute(query).first()
        if row is None:
            return None
        outcome = CommitmentOutcome(row.outcome)
        return Commitment(row.transaction_uid, row.asked_at, outcome, row.failure_reason, row.detail)

    def record_report(self, report: CommitmentReport, at: datetime) -> Reported | None:
        """Enter an archive's report, and the rung it lifts the delivery to; None: no request of ours."""
        of_transaction = commitments.c.transaction_uid == report.transaction_uid
        with self._database.begin() as db:
            row = db.execute(sa.select(commitments).where(of_transaction)).first()
            if row is None:
                return None
            outcome, reason, detail = _outcome(report, row.sop_instance_uid)
            found = {"outcome": outcome, "failure_reason": reason, "detail": detail, "reported_at": at}
            db.execute(commitments.update().where(of_transaction).values(**found))
        reported = Reported(row.sop_instance_uid, row.destination, outcome, detail)
        if outcome is CommitmentOutcome.COMMITTED:
            self.raise_rung(row.sop_instance_uid, row.destination, Rung.COMMITTED, at, detail)
        return reported


def _outcome(report: CommitmentReport, sop_instance_uid: str) -> tuple[CommitmentOutcome, int | None, str]:
    reasons = dict(report.failed)
    if sop_instance_uid in reasons:
        reason = reasons[sop_instance_uid]
        return CommitmentOutcome.FAILED, reason, f"the archive reports failure reason {reason:#06x}"
    if sop_instance_uid in report.committed:
        return CommitmentOutcome.COMMITTED, None, "the archive has taken it over"
    return CommitmentOutcome.FAILED, NOT_NAMED, "the archive's report does not name the instance"


NOT_NAMED = 0x0110  # PS3.3 C.14.1.1 "processing failure": what an incomplete report amounts to


def _key(sop_instance_uid: str, destination: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return deliveries.c.sop_instance_uid == sop_instance_uid, deliveries.c.destination == destination


def _delivery(row: Row) -> Delivery:
    return Delivery(
        sop_instance_uid=row.sop_instance_uid,
        destination=row.destination,
        rung=Rung(row.rung),
        goal=Rung(row.goal),
        failures=row.failures,
        last_failed_at=row.last_failed_at,
        since=row.since,
        detail=row.detail,
        parked=row.parked,
        round=row.round,
    )
