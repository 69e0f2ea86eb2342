"""What every destination can do, and what it says about each instance that it was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from dicomnode.ledger.records import CommitmentReport, Rung


class Outcome(Enum):
    """What became of one instance at a destination."""

    STORED = "stored"
    STORED_WITH_WARNING = "stored with a warning"  # kept, but elements were coerced or discarded
    OUT_OF_RESOURCES = "out of resources"  # may be taken later
    REFUSED = "refused"  # will not be taken as it is
    UNANSWERED = "unanswered"  # sent several times, never answered


@dataclass(frozen=True, slots=True)
class Stored:
    """A destination's answer for one instance; `status` is None where no status was given."""

    sop_instance_uid: str
    outcome: Outcome
    status: int | None
    sentence: str

    @property
    def kept(self) -> bool:
        """Whether the destination says that it has the instance."""
        return self.outcome in {Outcome.STORED, Outcome.STORED_WITH_WARNING}


class DestinationPort(Protocol):
    """Where results go. Every call ends within a bounded time and may be repeated without harm."""

    @property
    def store_reaches(self) -> Rung:
        """The rung that `store` proves when it returns."""
        ...

    @property
    def goal(self) -> Rung:
        """The rung at which a delivery to this destination is finished."""
        ...

    def store(self, paths: Sequence[Path]) -> tuple[Stored, ...]:
        """Hand over every file; answers are in the order of `paths` and all of them are `kept`.

        Raises:
            Unavailable: not reached, not answered, or out of resources; the same call may succeed later.
            DestinationRefused: it answered no; names the instance and the status.
        """
        ...

    def request_commitment(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], wait_s: float
    ) -> CommitmentReport | None:
        """Ask it to take responsibility for instances, given as (SOP Class UID, SOP Instance UID).

        None: the request was accepted and no report came within `wait_s`; it may come to our listener.

        Raises:
            Unavailable: not reached or not answered.
            DestinationRefused: it takes no such requests.
        """
        ...
