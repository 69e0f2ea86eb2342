"""What a delivery does next: a pure rule over its rung, its clock and what the destination has said."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from dicomnode.config import Destination
from dicomnode.ledger.records import Rung

# PS3.3 C.14.1.1: what an archive says about an instance that it does not commit.
_NO_SUCH_INSTANCE = 0x0112  # it is not there (any more): store it again
_HOPELESS = {
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
}
_JITTER = 0.2  # of a pause, up or down, so that a day's deliveries do not all return at once


@dataclass(frozen=True, slots=True)
class Store:
    """Hand the instance to the destination now."""


@dataclass(frozen=True, slots=True)
class AskCommitment:
    """Send a storage commitment request now, with a new transaction UID."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before `at`; a commitment report may come earlier."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Finished:
    """The goal is reached."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Park the delivery; a person decides."""

    sentence: str


Step = Store | AskCommitment | WaitUntil | Finished | GiveUp


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a destination is waited for."""

    first_retry_s: float
    last_retry_s: float
    commitment_wait_s: float
    give_up_after: timedelta

    @classmethod
    def of(cls, destination: Destination) -> "Patience":
        """What node.toml says about the destination."""
        return cls(
            destination.first_retry_s,
            destination.last_retry_s,
            destination.commitment_wait_s,
            timedelta(days=destination.give_up_after_days),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """One delivery as far as it has come.

    `failures` counts tries of any kind that failed since the last one that succeeded, `last_failed_at` is
    when the latest of them did. `asked_at` is the latest commitment request; `failure_reason` what the
    archive reported for it (PS3.3 C.14.1.1), None while no report has come and after a new store.
    """

    sop_instance_uid: str
    rung: Rung
    goal: Rung
    since: datetime
    failures: int = 0
    last_failed_at: datetime | None = None
    asked_at: datetime | None = None
    failure_reason: int | None = None


def next_step(progress: Progress, patience: Patience, now: datetime) -> Step:
    """The one thing to do for a delivery at `now`."""
    if progress.rung >= progress.goal:
        return Finished()
    if progress.failure_reason in _HOPELESS:
        return GiveUp(f"the archive does not commit the instance: {_HOPELESS[progress.failure_reason]}")
    if now - progress.since >= patience.give_up_after:
        return GiveUp(_exhausted(progress, patience))
    at = _due(progress, patience)
    if now < at:
        return WaitUntil(at)
    if progress.rung < Rung.ACCEPTED or progress.failure_reason == _NO_SUCH_INSTANCE:
        return Store()
    return AskCommitment()


def backoff_s(uid: str, failures: int, first_s: float, last_s: float) -> float:
    """The pause after so many failures in a row: doubling from `first_s` to `last_s`, a fifth up or down by `uid`."""
    if failures <= 0:
        return 0.0
    pause_s = min(last_s, first_s * 2.0 ** min(failures - 1, 62))
    digest = hashlib.sha256(f"{uid} {failures}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1)
    return min(last_s, pause_s * (1 - _JITTER + 2 * _JITTER * share))


def _due(progress: Progress, patience: Patience) -> datetime:
    """When the next try is due: after the pause, and not while a commitment report may still come."""
    pause = timedelta(
        seconds=backoff_s(progress.sop_instance_uid, progress.failures, patience.first_retry_s, patience.last_retry_s)
    )
    due = (progress.last_failed_at or progress.since) + pause
    if progress.asked_at is not None and progress.failure_reason is None and progress.rung >= Rung.ACCEPTED:
        due = max(due, progress.asked_at + timedelta(seconds=patience.commitment_wait_s))
    return due


def _exhausted(progress: Progress, patience: Patience) -> str:
    days = patience.give_up_after / timedelta(days=1)
    return (
        f"expected {progress.goal.name.lower()} within {days:g} days, found {progress.rung.name.lower()} "
        f"after {progress.failures} failures in a row; see the destination's log, then 'dicomnode retry ID'"
    )
