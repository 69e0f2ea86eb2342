"""Where every step leaves its trace: the audit log, the ledger's list of steps, one line in the log."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dicomnode.audit import AuditLog, AuditRecord
from dicomnode.ledger import Ledger, Step
from dicomnode.log import Log

log = Log("steps")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records for one role."""

    role: str
    ledger: Ledger
    audit: AuditLog
    clock: Callable[[], datetime] = now

    def audited(self, record: AuditRecord) -> None:
        """Append an audit record and anchor the log's new head in the ledger, where a cut tail shows.

        Raises:
            Unavailable: the record could not be written; what it describes must not be taken as done.
        """
        head = self.audit.append(record)
        self.ledger.anchor_audit_head(head.records, head.sha256, record.at)

    @contextmanager
    def timed(self, order_id: str, name: str) -> Generator[dict[str, Any]]:
        """Time a step of an order; what is put into the yielded dict is kept with it when the step succeeds."""
        detail: dict[str, Any] = {}
        began = time.perf_counter()
        yield detail
        seconds = time.perf_counter() - began
        step = Step(name, self.clock(), round(seconds, 4), json.dumps(detail, default=str))
        self.ledger.ordered.record_step(order_id, step)
        log.info("step done", order=order_id, step=name, seconds=round(seconds, 3), detail=detail)
