"""The book of what was ordered: one model for one version of one series, and how the work stands."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicomnode.errors import ResultMismatch
from dicomnode.ledger.database import Database
from dicomnode.ledger.records import Order, OrderState, Result, Rung, Step
from dicomnode.ledger.tables import deliveries, orders, results, rungs, series_versions, steps

Row = Any  # one row of a query, columns as attributes


class Ordered:
    """Orders, their steps and the results they made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def place(self, order: Order, at: datetime) -> None:
        """Enter an order; placing it again changes nothing."""
        with self._database.begin() as db:
            if db.execute(sa.select(orders.c.order_id).where(orders.c.order_id == order.order_id)).first():
                return
            db.execute(
                orders.insert().values(
                    order_id=order.order_id,
                    version_id=order.version_id,
                    route=order.route,
                    model=order.model,
                    results=json.dumps(order.results),
                    destinations=json.dumps(order.destinations),
                    priority=order.priority,
                    state=OrderState.WAITING,
                    detail="",
                    created_at=at,
                    updated_at=at,
                )
            )

    def order(self, order_id: str) -> Order:
        """One order.

        Raises:
            LookupError: no such order.
        """
        with self._database.begin() as db:
            row = db.execute(sa.select(orders).where(orders.c.order_id == order_id)).first()
        if row is None:
            raise LookupError(f"expected an order, found none with the id {order_id}")
        return _order(row)

    def orders(self, state: OrderState | None = None, limit: int = 100) -> list[Order]:
        """The latest orders first, optionally in one state."""
        query = sa.select(orders).order_by(orders.c.created_at.desc()).limit(limit)
        if state is not None:
            query = query.where(orders.c.state == state)
        with self._database.begin() as db:
            return [_order(row) for row in db.execute(query)]

    def unfinished(self, before: datetime) -> list[Order]:
        """Orders that wait or run and that nothing has happened to since a moment."""
        states = [OrderState.WAITING, OrderState.RUNNING]
        query = sa.select(orders).where(orders.c.state.in_(states), orders.c.updated_at < before)
        with self._database.begin() as db:
            return [_order(row) for row in db.execute(query)]

    def orders_of(self, version_id: str) -> list[Order]:
        """The orders of one version of a series."""
        with self._database.begin() as db:
            return [_order(r) for r in db.execute(sa.select(orders).where(orders.c.version_id == version_id))]

    def replaced_by(self, order_id: str) -> list[str]:
        """The orders of the same route for earlier versions of the same series, the latest first."""
        this_order, this, earlier = orders.alias(), series_versions.alias(), series_versions.alias()
        query = (
            sa.select(orders.c.order_id)
            .join(earlier, earlier.c.version_id == orders.c.version_id)
            .join(this, this.c.series_instance_uid == earlier.c.series_instance_uid)
            .join(this_order, this_order.c.version_id == this.c.version_id)
            .where(this_order.c.order_id == order_id, orders.c.route == this_order.c.route)
            .where(earlier.c.number < this.c.number)
            .order_by(earlier.c.number.desc())
        )
        with self._database.begin() as db:
            return list(db.scalars(query))

    def set_state(self, order_id: str, state: OrderState, detail: str, at: datetime) -> None:
        """Move an order to a state, with a sentence for people."""
        self._update(order_id, state=state, detail=detail, updated_at=at)

    def settle(self, order_id: str, at: datetime) -> OrderState:
        """Draw the order's state from its deliveries: done, parked, or still on their way."""
        query = (
            sa.select(deliveries.c.rung, deliveries.c.goal, deliveries.c.parked, deliveries.c.destination)
            .join(results, results.c.sop_instance_uid == deliveries.c.sop_instance_uid)
            .where(results.c.order_id == order_id)
        )
        with self._database.begin() as db:
            state, detail = _standing(list(db.execute(query)))
            of_order = orders.c.order_id == order_id
            db.execute(orders.update().where(of_order).values(state=state, detail=detail, updated_at=at))
        return state

    def count_start(self, order_id: str, at: datetime) -> int:
        """Count, before a dangerous step begins, that it begins; returns how often it has begun without ending."""
        with self._database.begin() as db:
            db.execute(
                orders.update()
                .where(orders.c.order_id == order_id)
                .values(starts=orders.c.starts + 1, state=OrderState.RUNNING, updated_at=at)
            )
            return db.execute(sa.select(orders.c.starts).where(orders.c.order_id == order_id)).scalar_one()

    def forget_starts(self, order_id: str) -> None:
        """The step ended, well or with a named error: its worker lived."""
        self._update(order_id, starts=0)

    def start_again(self, order_id: str, at: datetime) -> Order:
        """Open a parked order for another attempt."""
        with self._database.begin() as db:
            db.execute(
                orders.update()
                .where(orders.c.order_id == order_id)
                .values(state=OrderState.WAITING, detail="", attempt=orders.c.attempt + 1, starts=0, updated_at=at)
            )
        return self.order(order_id)

    def record_step(self, order_id: str, step: Step) -> None:
        """Keep what one step took and reports; a step that ran twice is kept twice, as it happened."""
        with self._database.begin() as db:
            db.execute(orders.update().where(orders.c.order_id == order_id).values(starts=0))
            db.execute(
                steps.insert().values(
                    order_id=order_id, name=step.name, at=step.at, seconds=step.seconds, detail=step.detail
                )
            )

    def steps_of(self, order_id: str) -> list[Step]:
        """The steps an order has taken, in order."""
        query = sa.select(steps).where(steps.c.order_id == order_id).order_by(steps.c.id)
        with self._database.begin() as db:
            return [Step(r.name, r.at, r.seconds, r.detail) for r in db.execute(query)]

    def record_results(self, made: Sequence[Result], goals: dict[str, Rung], at: datetime) -> None:
        """Enter checked results and one delivery per destination, at the bottom rung."""
        with self._database.begin() as db:
            for result in made:
                _enter_result(db, result, at)
                for destination, goal in goals.items():
                    _open_delivery(db, result.sop_instance_uid, destination, goal, at)

    def result(self, sop_instance_uid: str) -> Result:
        """One result.

        Raises:
            LookupError: no such result.
        """
        with self._database.begin() as db:
            row = db.execute(_result(sop_instance_uid)).first()
        if row is None:
            raise LookupError(f"expected a result, found none with the SOP Instance UID {sop_instance_uid}")
        return _to_result(row)

    def results_of(self, order_id: str) -> list[Result]:
        """The results of one order."""
        with self._database.begin() as db:
            return [_to_result(r) for r in db.execute(sa.select(results).where(results.c.order_id == order_id))]

    def finished_before(self, moment: datetime) -> list[Result]:
        """Results whose every delivery reached its goal and that were made before `moment`, not purged yet."""
        unfinished = sa.select(deliveries.c.sop_instance_uid).where(deliveries.c.rung < deliveries.c.goal)
        query = sa.select(results).where(
            results.c.created_at < moment,
            results.c.purged_at.is_(None),
            results.c.sop_instance_uid.not_in(unfinished),
        )
        with self._database.begin() as db:
            return [_to_result(row) for row in db.execute(query)]

    def set_purged(self, sop_instance_uid: str, at: datetime) -> None:
        """Record that a result's file left the spool; that it was made and delivered stays on record."""
        of_result = results.c.sop_instance_uid == sop_instance_uid
        with self._database.begin() as db:
            db.execute(results.update().where(of_result).values(purged_at=at))

    def _update(self, order_id: str, **values: object) -> None:
        with self._database.begin() as db:
            db.execute(orders.update().where(orders.c.order_id == order_id).values(**values))


_RESULT_COLUMNS = ("sop_instance_uid", "sop_class_uid", "study_instance_uid", "order_id", "kind", "sha256")


def _standing(rows: Sequence[Row]) -> tuple[OrderState, str]:
    unfinished = [r for r in rows if r.rung < r.goal]
    if not unfinished:
        return OrderState.DONE, f"{len(rows)} deliveries reached their goal"
    if all(r.parked for r in unfinished):
        names = ", ".join(sorted({r.destination for r in unfinished}))
        return OrderState.PARKED, f"deliveries to {names} are parked"
    return OrderState.DELIVERING, f"{len(rows) - len(unfinished)} of {len(rows)} deliveries arrived"


def order_id_of(version_id: str, route: str) -> str:
    """A short name: one route orders one thing for one version of a series, however often it is asked."""
    return hashlib.sha256(f"{version_id} {route}".encode()).hexdigest()[:12]


def _enter_result(db: sa.Connection, result: Result, at: datetime) -> None:
    values = {c: getattr(result, c) for c in _RESULT_COLUMNS} | {"path": str(result.path)}
    known = db.execute(_result(result.sop_instance_uid)).first()
    if known is None:
        db.execute(results.insert().values(**values, created_at=at))
        return
    of_result = deliveries.c.sop_instance_uid == result.sop_instance_uid
    accepted = db.execute(sa.select(deliveries.c.rung).where(of_result, deliveries.c.rung >= Rung.ACCEPTED)).first()
    if known.sha256 != result.sha256 and accepted is not None:
        raise ResultMismatch(
            f"expected the bytes {known.sha256[:16]}... that a destination accepted under this UID, found others "
            f"({result.sha256[:16]}...): the node or its hardware changed since"
        )
    this = results.c.sop_instance_uid == result.sop_instance_uid
    db.execute(results.update().where(this).values(path=values["path"], sha256=result.sha256))


def _open_delivery(db: sa.Connection, sop_instance_uid: str, destination: str, goal: Rung, at: datetime) -> None:
    there = sa.select(deliveries.c.rung).where(
        deliveries.c.sop_instance_uid == sop_instance_uid, deliveries.c.destination == destination
    )
    if db.execute(there).first() is not None:
        return
    names = {"sop_instance_uid": sop_instance_uid, "destination": destination}
    db.execute(deliveries.insert().values(**names, rung=Rung.ENCODED, goal=goal, since=at, detail=""))
    db.execute(rungs.insert().values(**names, rung=Rung.ENCODED, at=at, detail="encoded and checked"))


def _result(sop_instance_uid: str) -> sa.Select[Any]:
    return sa.select(results).where(results.c.sop_instance_uid == sop_instance_uid)


def _to_result(row: Row) -> Result:
    return Result(**{c: getattr(row, c) for c in _RESULT_COLUMNS}, path=Path(row.path))


def _order(row: Row) -> Order:
    return Order(
        order_id=row.order_id,
        version_id=row.version_id,
        route=row.route,
        model=row.model,
        results=tuple(json.loads(row.results)),
        destinations=tuple(json.loads(row.destinations)),
        priority=row.priority,
        state=OrderState(row.state),
        detail=row.detail,
        attempt=row.attempt,
    )
