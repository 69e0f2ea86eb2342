"""Opens the ledger's database and hands out its three books."""

from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from dicomnode.ledger.database import Database
from dicomnode.ledger.delivered import Delivered
from dicomnode.ledger.ordered import Ordered
from dicomnode.ledger.received import Received
from dicomnode.ledger.tables import audit_heads, metadata


class Ledger:
    """One database, three books: what was received, what was ordered, what was delivered.

    Every method is one transaction and idempotent, because a step of the pipeline may run twice. Several
    processes hold a ledger on the same database at once. All raise Unavailable while the database is away.
    """

    def __init__(self, database_url: str, spool_dir: Path) -> None:
        self._database = Database(database_url)
        self.received = Received(self._database, spool_dir)
        self.ordered = Ordered(self._database)
        self.delivered = Delivered(self._database)

    def prepare(self) -> None:
        """Create the tables that are not there yet."""
        self._database.create(metadata)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def anchor_audit_head(self, size: int, digest: str, at: datetime) -> None:
        """Remember the audit log's head outside its folder, so that a cut tail shows."""
        with self._database.begin() as db:
            known = db.execute(sa.select(audit_heads.c.size).where(audit_heads.c.size == size)).first()
            if known is None:
                db.execute(audit_heads.insert().values(size=size, hash=digest, at=at))

    def last_audit_head(self) -> tuple[int, str] | None:
        """The longest anchored head of the audit log: how many records, and their hash."""
        query = sa.select(audit_heads.c.size, audit_heads.c.hash).order_by(audit_heads.c.size.desc()).limit(1)
        with self._database.begin() as db:
            row = db.execute(query).first()
        return None if row is None else (int(row.size), str(row.hash))
