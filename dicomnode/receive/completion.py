"""When has all of a series come? Evidence first, the timer last.

DICOM has no "that was all". What comes closest, in this order: the peer's own count (C-FIND) equals ours; the
association that brought the series was released and nothing followed, for longer than this sender is known to pause;
nothing has come for long. An abort, a lost connection, instances that we refused and our own restart say that
something may be missing, so after them only a count or the long rest completes.
Being wrong is cheap: a late instance opens the series again and makes its next version.

Pure bookkeeping: time is an argument everywhere, and there is neither a clock nor a thread in here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

from dicomnode.config import Completion
from dicomnode.ledger.records import OpenSeries, ReceivedInstance
from dicomnode.receive.events import AssociationEnd, Outcome

CountAtPeer = Callable[[str, str, str], int | None]  # AE title, study UID, series UID -> its count; None: unknown
CountHeld = Callable[[str], int]  # series UID -> distinct instances that the index has, all versions

# A sender that paused so long between instances, or between associations with one each, may do so again.
_PAUSES = 3
_SILENT_PEER_S = 30.0  # a peer that gave no count is left alone for so long


@dataclass(frozen=True, slots=True)
class Completed:
    """A series that counts as complete, and why."""

    series_instance_uid: str
    study_instance_uid: str
    evidence: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Asking:
    """How often peers are asked for their count."""

    at_rest_s: float = 2.0  # only when nothing has come for so long
    every_s: float = 5.0  # and per series not more often


@dataclass(slots=True)
class _Waiting:
    """What is known of one series that is not complete."""

    study_instance_uid: str
    calling_ae_title: str
    last_instance_at: datetime
    longest_pause_s: float = 0.0  # between two of its instances: how this sender is paced
    earlier_instances: int = 0  # known before this process saw the series
    instances: set[str] = field(default_factory=set[str])
    open_associations: set[int] = field(default_factory=set[int])
    released_at: datetime | None = None
    broken_off: str = ""  # why the last association's end says nothing
    asked_at: datetime | None = None
    peer_count: int = 0  # its answer, where asked
    held: int = 0  # what was here at that time

    def rest_s(self, at: datetime) -> float:
        return (at - self.last_instance_at).total_seconds()


@dataclass(frozen=True, slots=True)
class _Question:
    series_instance_uid: str
    study_instance_uid: str
    ae_title: str
    last_instance_at: datetime


class CompletionTracker:
    """Series that are coming in; `due` names those that are complete and forgets them.

    Safe to call from several threads; peers are asked outside the lock, by the thread that calls `due`.
    """

    def __init__(
        self,
        rules: Completion,
        count_at_peer: CountAtPeer | None = None,
        count_held: CountHeld | None = None,
        asking: Asking | None = None,
    ) -> None:
        self._rules = rules
        self._count_at_peer = count_at_peer
        self._count_held = count_held
        self._asking = asking or Asking()
        self._waiting: dict[str, _Waiting] = {}
        self._silent_until: dict[str, datetime] = {}
        self._lock = Lock()

    def received(self, instance: ReceivedInstance, association: int) -> None:
        """An instance came; its `received_at` is the time."""
        uid, at = instance.series_instance_uid, instance.received_at
        with self._lock:
            series = self._waiting.get(uid)
            if series is None:
                series = _Waiting(instance.study_instance_uid, instance.calling_ae_title, at)
                self._waiting[uid] = series
            if not series.broken_off:  # how long a failure lasted says nothing about the sender's pace
                series.longest_pause_s = max(series.longest_pause_s, series.rest_s(at))
            series.last_instance_at = max(at, series.last_instance_at)
            series.calling_ae_title = instance.calling_ae_title
            series.instances.add(instance.sop_instance_uid)
            series.open_associations.add(association)
            series.released_at, series.broken_off = None, ""
            series.asked_at = None  # an older count says nothing any more

    def association_ended(self, end: AssociationEnd, at: datetime) -> None:
        """An association that was accepted is over."""
        with self._lock:
            for uid in end.series_instance_uids & self._waiting.keys():
                series = self._waiting[uid]
                series.open_associations.discard(end.association)
                if end.outcome is not Outcome.RELEASED:
                    series.broken_off = f"association {end.outcome}"
                elif end.refused:
                    series.broken_off = f"association released with {end.refused} instances refused"
                else:
                    series.released_at = at

    def reopen(self, known: Iterable[OpenSeries], at: datetime) -> None:
        """Take up series that the ledger knows as open, at a start or when closing one of them failed.

        The restart cut their associations, and nothing could come while we were away: the quiet period counts
        from `at`.
        """
        with self._lock:
            for record in known:
                if record.series_instance_uid not in self._waiting:
                    self._waiting[record.series_instance_uid] = _Waiting(
                        record.study_instance_uid,
                        record.calling_ae_title,
                        last_instance_at=at,
                        earlier_instances=record.instances,
                        broken_off="found open in the index",
                    )

    def due(self, at: datetime) -> list[Completed]:
        """The series that are complete now, each with the evidence; they are no longer waited for."""
        for question in self._questions(at):
            self._ask(question, at)
        completed: list[Completed] = []
        with self._lock:
            for uid, series in self._waiting.items():
                if evidence := self._evidence(series, at):
                    completed.append(Completed(uid, series.study_instance_uid, evidence, at))
            for series in completed:
                del self._waiting[series.series_instance_uid]
        return completed

    def waiting(self) -> int:
        """How many series are being waited for."""
        with self._lock:
            return len(self._waiting)

    def _questions(self, at: datetime) -> list[_Question]:
        if self._count_at_peer is None:
            return []
        with self._lock:
            return [
                _Question(uid, series.study_instance_uid, series.calling_ae_title, series.last_instance_at)
                for uid, series in self._waiting.items()
                if self._is_worth_asking(series, at)
            ]

    def _is_worth_asking(self, series: _Waiting, at: datetime) -> bool:
        if series.asked_at is not None and (at - series.asked_at).total_seconds() < self._asking.every_s:
            return False
        return series.rest_s(at) >= self._asking.at_rest_s or bool(self._evidence_of_release(series, at, None))

    def _ask(self, question: _Question, at: datetime) -> None:
        silent_until = self._silent_until.get(question.ae_title)
        if self._count_at_peer is None or (silent_until is not None and at < silent_until):
            return
        count = self._count_at_peer(question.ae_title, question.study_instance_uid, question.series_instance_uid)
        if count is None:
            self._silent_until[question.ae_title] = at + timedelta(seconds=_SILENT_PEER_S)
            return
        held = self._count_held(question.series_instance_uid) if self._count_held is not None else 0
        with self._lock:
            series = self._waiting.get(question.series_instance_uid)
            if series is not None and series.last_instance_at == question.last_instance_at:  # none came meanwhile
                series.asked_at, series.peer_count = at, count
                series.held = max(held, len(series.instances), series.earlier_instances)

    def _evidence(self, series: _Waiting, at: datetime) -> str:
        """Why the series is complete; empty while it is not."""
        count = series.peer_count if series.asked_at is not None else None  # later instances void the answer
        if count is not None and count == series.held:
            return f"{series.calling_ae_title} counts {count} instances (C-FIND), {series.held} are here"
        rest_s = series.rest_s(at)
        if count is not None and count > series.held and rest_s < self._rules.count_wait_s:
            return ""
        return self._evidence_of_release(series, at, count) or self._evidence_of_rest(series, rest_s, count)

    def _evidence_of_release(self, series: _Waiting, at: datetime, count: int | None) -> str:
        wanted_s = self._rules.association_end_s
        if wanted_s == "off" or series.released_at is None or series.open_associations or series.broken_off:
            return ""
        released_s = (at - series.released_at).total_seconds()
        wanted_s = min(max(wanted_s, _PAUSES * series.longest_pause_s), self._rules.quiet_period_s)
        if min(released_s, series.rest_s(at)) < wanted_s:
            return ""
        return (
            f"association of {series.calling_ae_title} was released {released_s:.1f} s ago and none is open "
            f"(rest of {wanted_s:g} s wanted){_counted(series, count)}"
        )

    def _evidence_of_rest(self, series: _Waiting, rest_s: float, count: int | None) -> str:
        if rest_s < self._rules.quiet_period_s:
            return ""
        after = f" after: {series.broken_off}" if series.broken_off else ""
        return (
            f"nothing came for {rest_s:.1f} s (quiet period {self._rules.quiet_period_s:g} s){after}"
            f"{_counted(series, count)}"
        )


def _counted(series: _Waiting, count: int | None) -> str:
    if count is None:
        return f"; instances seen: {max(len(series.instances), series.earlier_instances)}"
    return f"; {series.calling_ae_title} counts {count} instances (C-FIND), {series.held} are here"
