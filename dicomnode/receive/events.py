"""What the listener tells the rest of the node, and when."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dicomnode.ledger.records import CommitmentReport, ReceivedInstance
from dicomnode.log import Log

_log = Log("receive")


class Outcome(StrEnum):
    """How an association ended; only a release says that the peer has sent what it wanted to send."""

    RELEASED = "released"
    ABORTED = "aborted"  # by the peer
    LOST = "lost"  # the connection broke
    SILENT = "silent"  # nothing came for limits.idle_timeout_s
    BROKEN = "broken"  # the peer broke the protocol or a limit; we aborted


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """One association that is over, and what it brought."""

    association: int
    calling_ae_title: str
    host: str
    outcome: Outcome
    detail: str
    series_instance_uids: frozenset[str]  # every series it touched
    instances: int  # acknowledged with success, the same content again included
    refused: int  # answered with a failure status


@dataclass(frozen=True, slots=True)
class RejectedCall:
    """Somebody who did not get an association: for the audit trail."""

    calling_ae_title: str
    called_ae_title: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class Events:
    """Whom the listener tells; called from many threads at once, each in the order of its own association.

    None of them can hold up or undo an acknowledgement: `on_received` is called after it, and when it raises, the
    instance stays on disk, where `Spool.walk` finds it. Only `on_commitment` is part of the answer: when it raises,
    the archive is told that its report was not processed.
    """

    on_received: Callable[[ReceivedInstance, int], None]  # the second is the association's number
    on_association_end: Callable[[AssociationEnd], None]
    on_commitment: Callable[[CommitmentReport], None]
    on_rejected: Callable[[RejectedCall], None]

    def received(self, instance: ReceivedInstance, association: int) -> None:
        """An instance is durable and acknowledged."""
        _tell("index lags behind the spool", lambda: self.on_received(instance, association))

    def association_ended(self, end: AssociationEnd) -> None:
        """An association that was accepted is over."""
        _tell("association end not taken note of", lambda: self.on_association_end(end))

    def rejected(self, call: RejectedCall) -> None:
        """A call was not accepted."""
        _tell("rejected call not taken note of", lambda: self.on_rejected(call))

    def commitment(self, report: CommitmentReport) -> bool:
        """An archive reports on a commitment; says whether the node took note of it."""
        return _tell("commitment report not taken note of", lambda: self.on_commitment(report))


def _tell(failure: str, call: Callable[[], None]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001 - the C-STORE handler's own: whatever the index does, the listener goes on
        _log.error(failure, traceback=True)
        return False
    return True
