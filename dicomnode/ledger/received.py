"""The book of what came: instances, and the versions of the series they make up."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicomnode.imaging import Instance, Series
from dicomnode.ledger.database import Database
from dicomnode.ledger.records import OpenSeries, OrderState, ReceivedInstance, SeriesState, SeriesVersion
from dicomnode.ledger.tables import instances, orders, series_versions

Row = Any  # one row of a query, columns as attributes


class Received:
    """Instances as the spool has them, and series as they were found complete."""

    def __init__(self, database: Database, spool_dir: Path) -> None:
        self._database = database
        self._spool_dir = spool_dir

    def index(self, batch: Sequence[ReceivedInstance]) -> None:
        """Enter instances that are on disk; entering one again changes nothing."""
        for start in range(0, len(batch), BATCH):
            with self._database.begin() as db:
                _index(db, batch[start : start + BATCH])

    def known_paths(self) -> set[Path]:
        """Every spool path in the index that was not purged, for reconciling it with the disk."""
        with self._database.begin() as db:
            return {Path(p) for p in db.scalars(sa.select(instances.c.path).where(instances.c.purged_at.is_(None)))}

    def open_series(self) -> list[OpenSeries]:
        """Every series with instances that no version contains yet."""
        waiting = sa.select(instances.c.series_instance_uid).where(instances.c.version.is_(None)).distinct()
        query = (
            sa.select(
                instances.c.series_instance_uid,
                sa.func.min(instances.c.study_instance_uid).label("study_instance_uid"),
                sa.func.count(sa.distinct(instances.c.sop_instance_uid)).label("instances"),
                sa.func.max(instances.c.received_at).label("last_received_at"),
                sa.func.max(instances.c.calling_ae_title).label("calling_ae_title"),
            )
            .where(instances.c.series_instance_uid.in_(waiting))
            .group_by(instances.c.series_instance_uid)
        )
        with self._database.begin() as db:
            return [OpenSeries(**row) for row in db.execute(query).mappings()]

    def arriving(
        self, transfer_syntaxes: Iterable[str], since: datetime, limit: int
    ) -> list[tuple[Instance, datetime]]:
        """The latest instances in these encodings that no version contains yet, and when each came, in that order."""
        query = (
            sa.select(instances)
            .where(instances.c.version.is_(None), instances.c.purged_at.is_(None), instances.c.received_at >= since)
            .where(instances.c.transfer_syntax_uid.in_(sorted(transfer_syntaxes)))
            .order_by(instances.c.received_at.desc())
            .limit(limit)
        )
        with self._database.begin() as db:
            return [(self._instance(row), row.received_at) for row in db.execute(query)][::-1]

    def count_held(self, series_instance_uid: str) -> int:
        """How many distinct instances of a series are here, those of earlier versions included."""
        of_series = instances.c.series_instance_uid == series_instance_uid
        query = sa.select(sa.func.count(sa.distinct(instances.c.sop_instance_uid))).where(of_series)
        with self._database.begin() as db:
            return int(db.execute(query).scalar_one())

    def close_series(self, series_instance_uid: str, at: datetime, evidence: str) -> SeriesVersion | None:
        """Make all instances of a series its next version; None when nothing new came since the last one."""
        with self._database.begin() as db:
            rows = db.execute(_instances_of(series_instance_uid).where(instances.c.purged_at.is_(None))).all()
            if not any(row.version is None for row in rows):
                return None
            earlier = sa.select(sa.func.max(series_versions.c.number)).where(
                series_versions.c.series_instance_uid == series_instance_uid
            )
            number = 1 + (db.execute(earlier).scalar_one() or 0)
            series = self._series(series_instance_uid, rows)
            version_id = version_id_of(series)
            if _come_again(db, version_id, at):
                return None
            db.execute(
                instances.update()
                .where(instances.c.series_instance_uid == series_instance_uid, instances.c.version.is_(None))
                .values(version=number)
            )
            db.execute(
                series_versions.insert().values(
                    version_id=version_id,
                    series_instance_uid=series_instance_uid,
                    study_instance_uid=rows[0].study_instance_uid,
                    number=number,
                    content=series.content,
                    instances=len(rows),
                    completed_at=at,
                    last_seen_at=at,
                    evidence=evidence,
                    state=SeriesState.COMPLETE,
                    detail="",
                    patient_key="",
                )
            )
        return self.version(version_id)

    def version(self, version_id: str) -> SeriesVersion:
        """One version of a series with its instances.

        Raises:
            LookupError: no such version.
        """
        with self._database.begin() as db:
            row = db.execute(sa.select(series_versions).where(series_versions.c.version_id == version_id)).first()
            if row is None:
                raise LookupError(f"expected a series version, found none with the id {version_id}")
            query = _instances_of(row.series_instance_uid).where(instances.c.version <= row.number)
            if row.purged_at is None:  # what was purged before this version is not part of it
                query = query.where(instances.c.purged_at.is_(None))
            members = db.execute(query).all()
        return _version(row, self._series(row.series_instance_uid, members))

    def versions(self, where: "VersionFilter | None" = None, limit: int = 100) -> list["VersionSummary"]:
        """The latest versions first, optionally of one study, series or patient key."""
        query = sa.select(series_versions).order_by(series_versions.c.completed_at.desc()).limit(limit)
        for column, value in (where or {}).items():
            query = query.where(series_versions.c[column] == value)
        with self._database.begin() as db:
            return [_summary(row) for row in db.execute(query)]

    def unrouted(self, before: datetime) -> list[str]:
        """Ids of versions that were complete before a moment and that routing has not answered yet."""
        query = sa.select(series_versions.c.version_id).where(
            series_versions.c.state == SeriesState.COMPLETE, series_versions.c.completed_at < before
        )
        with self._database.begin() as db:
            return list(db.scalars(query))

    def set_routed(self, version_id: str, state: SeriesState, detail: str, patient_key: str) -> None:
        """Record routing's answer and the pseudonym under which the patient's studies are found again."""
        with self._database.begin() as db:
            db.execute(
                series_versions.update()
                .where(series_versions.c.version_id == version_id)
                .values(state=state, detail=detail, patient_key=patient_key)
            )

    def closed_before(self, moment: datetime, parked: datetime) -> list[tuple[str, list[Path]]]:
        """Series that nobody waits for: completed before `moment`, with a parked order before `parked`.

        Returns their UIDs and spool paths.
        """
        uid = series_versions.c.series_instance_uid
        unfinished = (
            sa.select(uid)
            .outerjoin(orders, orders.c.version_id == series_versions.c.version_id)
            .where(
                (series_versions.c.state == SeriesState.COMPLETE)
                | orders.c.state.in_([OrderState.WAITING, OrderState.RUNNING, OrderState.DELIVERING])
                | ((orders.c.state == OrderState.PARKED) & (orders.c.updated_at >= parked))
            )
        )
        still_open = sa.select(instances.c.series_instance_uid).where(instances.c.version.is_(None))
        query = (
            sa.select(uid)
            .where(uid.not_in(unfinished), uid.not_in(still_open))
            .group_by(uid)
            .having(sa.func.max(series_versions.c.last_seen_at) < moment)
            .having(sa.func.count(series_versions.c.purged_at) < sa.func.count())
        )
        with self._database.begin() as db:
            return [(u, [Path(m.path) for m in db.execute(_instances_of(u))]) for u in list(db.scalars(query))]

    def set_purged(self, series_instance_uid: str, at: datetime) -> None:
        """Record that a series' instances left the spool; its versions stay on record."""
        with self._database.begin() as db:
            for table in (series_versions, instances):
                unpurged = (table.c.series_instance_uid == series_instance_uid) & table.c.purged_at.is_(None)
                db.execute(table.update().where(unpurged).values(purged_at=at))

    def _series(self, uid: str, rows: Iterable[Row]) -> Series:
        return Series(uid, tuple(self._instance(row) for row in rows))

    def _instance(self, row: Row) -> Instance:
        return Instance(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            study_instance_uid=row.study_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            path=self._spool_dir / row.path,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
        )


VersionFilter = dict[str, str]  # column -> value
VersionSummary = dict[str, object]  # a row for people: `dicomnode series`


BATCH = 500  # rows at once: databases bound the number of parameters of a statement


def _index(db: sa.Connection, batch: Sequence[ReceivedInstance]) -> None:
    rows = {str(i.path): asdict(i) | {"path": str(i.path)} for i in batch}
    known = set(db.scalars(sa.select(instances.c.path).where(instances.c.path.in_(rows))))
    new = [row for path, row in rows.items() if path not in known]
    if new:
        db.execute(instances.insert(), new)
    # What was purged and came again is there again, and opens its series.
    revived = instances.c.path.in_(known) & instances.c.purged_at.is_not(None)
    db.execute(instances.update().where(revived).values(purged_at=None, version=None))


def _come_again(db: sa.Connection, version_id: str, at: datetime) -> bool:
    """Whether a version with just this content was there before the purge; then it is there again, and no new one."""
    this = series_versions.c.version_id == version_id
    row = db.execute(sa.select(series_versions).where(this)).first()
    if row is None:
        return False
    db.execute(series_versions.update().where(this).values(purged_at=None, last_seen_at=at))
    of_series = instances.c.series_instance_uid == row.series_instance_uid
    db.execute(instances.update().where(of_series, instances.c.version.is_(None)).values(version=row.number))
    return True


def version_id_of(series: Series) -> str:
    """A short name of one content of one series: the same instances always have the same version id."""
    return hashlib.sha256(f"{series.series_instance_uid} {series.content}".encode()).hexdigest()[:16]


def _instances_of(series_instance_uid: str) -> sa.Select[Any]:
    return sa.select(instances).where(instances.c.series_instance_uid == series_instance_uid)


def _version(row: Row, series: Series) -> SeriesVersion:
    return SeriesVersion(
        version_id=row.version_id,
        number=row.number,
        series=series,
        study_instance_uid=row.study_instance_uid,
        completed_at=row.completed_at,
        evidence=row.evidence,
        state=SeriesState(row.state),
        detail=row.detail,
    )


def _summary(row: Row) -> VersionSummary:
    names = ("version_id", "series_instance_uid", "study_instance_uid", "number", "instances", "completed_at")
    return {name: getattr(row, name) for name in (*names, "evidence", "state", "detail", "purged_at")}
