"""What the ledger hands out: the rows of the node's life as frozen values."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path

from dicomnode.imaging import Series


class Rung(IntEnum):
    """How far a result has come at one destination; only ever rises."""

    ENCODED = 0  # checked and on our disk
    SENT = 1  # all bytes are out, no answer yet
    ACCEPTED = 2  # the destination answered success for the instance
    COMMITTED = 3  # storage commitment reported success (PS3.4 annex J)
    RETRIEVABLE = 4  # read back, hash equal


class OrderState(StrEnum):
    """Where an order stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DELIVERING = "delivering"  # results are made, deliveries are on their way
    DONE = "done"  # every delivery reached its last rung
    PARKED = "parked"  # needs a person: `detail` says why, `dicomnode retry ID` starts it again


class SeriesState(StrEnum):
    """Where one version of a series stands."""

    COMPLETE = "complete"  # handed to routing
    ROUTED = "routed"  # orders exist
    UNMATCHED = "unmatched"  # no route wants it: an outcome, not an error
    REFUSED = "refused"  # its headers cannot be routed; `detail` says why


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One line of the spool's index: what the listener knows of an instance without decoding it."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    path: Path  # relative to the spool
    sha256: str
    size_bytes: int
    received_at: datetime
    calling_ae_title: str


@dataclass(frozen=True, slots=True)
class OpenSeries:
    """A series with instances that no version contains yet."""

    series_instance_uid: str
    study_instance_uid: str
    instances: int  # all of them, also those of earlier versions
    last_received_at: datetime
    calling_ae_title: str  # of the last sender


@dataclass(frozen=True, slots=True)
class SeriesVersion:
    """The instances a series had when it was found complete; late slices make the next version."""

    version_id: str
    number: int  # 1, 2, ...
    series: Series
    study_instance_uid: str
    completed_at: datetime
    evidence: str  # why it counted as complete
    state: SeriesState
    detail: str


@dataclass(frozen=True, slots=True)
class Order:
    """Routing's answer: one model for one version of one series."""

    order_id: str
    version_id: str
    route: str
    model: str
    results: tuple[str, ...]
    destinations: tuple[str, ...]
    priority: int
    state: OrderState
    detail: str
    attempt: int  # 1, and one more for each `retry`


@dataclass(frozen=True, slots=True)
class Result:
    """One DICOM object made for an order, checked and on disk."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    order_id: str
    kind: str
    path: Path  # relative to the spool
    sha256: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result on its way to one destination."""

    sop_instance_uid: str
    destination: str
    rung: Rung
    goal: Rung
    failures: int  # in a row
    last_failed_at: datetime | None
    since: datetime
    detail: str
    parked: bool
    round: int  # 1, and one more for each `retry`


class CommitmentOutcome(StrEnum):
    """What an archive has said about a commitment request."""

    PENDING = "pending"
    COMMITTED = "committed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What an archive reports about one commitment request (PS3.4 J.3.3): which instances it keeps, which not."""

    transaction_uid: str
    committed: tuple[str, ...]  # SOP Instance UIDs
    failed: tuple[tuple[str, int], ...]  # SOP Instance UID, failure reason (PS3.3 C.14.1.1)


@dataclass(frozen=True, slots=True)
class Commitment:
    """The last commitment request for one delivery, and what has come of it."""

    transaction_uid: str
    asked_at: datetime
    outcome: CommitmentOutcome
    failure_reason: int | None  # PS3.3 C.14.1.1
    detail: str


@dataclass(frozen=True, slots=True)
class Reported:
    """What a commitment report meant for one of our deliveries."""

    sop_instance_uid: str
    destination: str
    outcome: CommitmentOutcome
    detail: str


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step of an order: how long it took and what it reports."""

    name: str
    at: datetime
    seconds: float
    detail: str  # JSON
