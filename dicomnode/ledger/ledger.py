"""Opens the ledger's database and hands out its three books."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from dicomnode.errors import Unavailable
from dicomnode.ledger.delivered import Delivered
from dicomnode.ledger.ordered import Ordered
from dicomnode.ledger.received import Received
from dicomnode.ledger.tables import audit_heads, metadata

SQLITE_BUSY_S = 60


class Ledger:
    """One database, three books: what was received, what was ordered, what was delivered.

    Every method is one transaction and idempotent, because a step of the pipeline may run twice. Several
    processes hold a ledger on the same database at once.
    """

    def __init__(self, database_url: str, spool_dir: Path) -> None:
        self._engine = _engine(database_url)
        self.received = Received(self._engine, spool_dir)
        self.ordered = Ordered(self._engine)
        self.delivered = Delivered(self._engine)

    def prepare(self) -> None:
        """Create the tables that are not there yet.

        Raises:
            Unavailable: the database cannot be reached or written.
        """
        try:
            metadata.create_all(self._engine)
        except OperationalError as error:
            raise Unavailable(f"the ledger database cannot be opened: {error.orig}; check node.database") from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def anchor_audit_head(self, size: int, digest: str, at: datetime) -> None:
        """Remember the audit log's head outside its folder, so that a cut tail shows."""
        with self._engine.begin() as db:
            known = db.execute(sa.select(audit_heads.c.size).where(audit_heads.c.size == size)).first()
            if known is None:
                db.execute(audit_heads.insert().values(size=size, hash=digest, at=at))

    def last_audit_head(self) -> tuple[int, str] | None:
        """The longest anchored head of the audit log: how many records, and their hash."""
        query = sa.select(audit_heads.c.size, audit_heads.c.hash).order_by(audit_heads.c.size.desc()).limit(1)
        with self._engine.connect() as db:
            row = db.execute(query).first()
        return None if row is None else (int(row.size), str(row.hash))


def _engine(database_url: str) -> sa.Engine:
    if not database_url.startswith("sqlite"):
        return sa.create_engine(database_url, pool_pre_ping=True)
    if database := sa.make_url(database_url).database:
        os.makedirs(Path(database).parent, mode=0o750, exist_ok=True)  # noqa: PTH103  mkdir has no mode for parents
    engine = sa.create_engine(database_url, connect_args={"timeout": SQLITE_BUSY_S})

    def configure(connection: Any, _record: object) -> None:
        # WAL lets the roles read while one of them writes; FULL keeps a commit through a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", configure)
    return engine
