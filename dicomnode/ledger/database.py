"""The ledger's connection: transactions whose failures are ours."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from dicomnode.errors import Unavailable

SQLITE_BUSY_S = 60


class Database:
    """SQLite in a file, or PostgreSQL; the same statements for both."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)

    @contextmanager
    def begin(self) -> Generator[sa.Connection]:
        """One transaction, committed at the end.

        Raises:
            Unavailable: the database is away, locked for long, or its disk is full.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, NoConnection) as error:
            reason = error.orig if isinstance(error, DBAPIError) else "no connection is free"
            raise Unavailable(f"the ledger's database does not answer: {reason}; check node.database") from error

    def create(self, metadata: sa.MetaData) -> None:
        """Create the tables that are not there yet.

        Raises:
            Unavailable: as `begin`.
        """
        with self.begin() as connection:
            metadata.create_all(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    if database := sa.make_url(url).database:
        os.makedirs(Path(database).parent, mode=0o750, exist_ok=True)  # noqa: PTH103  mkdir has no mode for parents
    engine = sa.create_engine(url, connect_args={"timeout": SQLITE_BUSY_S})

    def configure(connection: Any, _record: object) -> None:
        # WAL lets the roles read while one of them writes; FULL keeps a commit through a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def take_the_lock_first(connection: sa.Connection) -> None:
        # A transaction that reads and then writes fails at once when another wrote in between (SQLITE_BUSY_SNAPSHOT);
        # one that takes the write lock at its beginning waits its turn.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", take_the_lock_first)
    return engine
