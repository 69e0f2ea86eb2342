"""When a series counts as complete: every path through the evidence, on a clock that the test turns."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.config import Completion
from dicomnode.ledger.records import OpenSeries, ReceivedInstance
from dicomnode.receive import AssociationEnd, Completed, CompletionTracker, Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = Completion(association_end_s=2.0, quiet_period_s=60.0, count_wait_s=600.0)
SERIES, STUDY = "1.2.3", "1.2"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def instance(number: int, seconds: float, series: str = SERIES) -> ReceivedInstance:
    return ReceivedInstance(
        f"{series}.{number}", "1.2.840.10008.5.1.4.1.1.2", series, STUDY, "1.2.840.10008.1.2.1", Path("x"), "0" * 64, 1,
        at(seconds), "ARCHIVE",
    )  # fmt: skip


def end(association: int = 1, outcome: Outcome = Outcome.RELEASED, series: str = SERIES) -> AssociationEnd:
    return AssociationEnd(association, "ARCHIVE", "127.0.0.1", outcome, "", frozenset({series}), 3, 0)


def open_series(instances: int = 3) -> OpenSeries:
    return OpenSeries(SERIES, STUDY, instances, at(-1000), "ARCHIVE")


class CountingPeer:
    """A peer that answers C-FIND; `count` may change while the test goes on."""

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, ae_title: str, study: str, series: str) -> int | None:
        self.asked.append((ae_title, study, series))
        return self.count


def first_due(tracker: CompletionTracker, until: float, since: float = 0.0) -> tuple[float, Completed] | None:
    """When polled every quarter of a second: when the first series was complete, and how."""
    for quarter in range(int(since * 4), int(until * 4) + 1):
        if completed := tracker.due(at(quarter / 4)):
            return quarter / 4, completed[0]
    return None


def evidence(due: tuple[float, Completed] | None) -> tuple[float, str]:
    assert due is not None
    return due[0], due[1].evidence


def test_the_release_of_its_association_completes_a_series_after_a_short_rest() -> None:
    tracker = CompletionTracker(RULES)
    for number in range(3):
        tracker.received(instance(number, number / 2), association=1)
    tracker.association_ended(end(), at(3))
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 5
    assert "released 2.0 s ago" in why
    assert "instances seen: 3" in why


def test_a_sender_with_an_association_per_instance_is_given_three_times_its_longest_pause() -> None:
    tracker = CompletionTracker(RULES)
    for number, seconds in enumerate((0, 1.5, 5, 6)):
        tracker.received(instance(number, seconds), association=number)
        tracker.association_ended(end(association=number), at(seconds))
        assert tracker.due(at(seconds)) == []
    seconds, why = evidence(first_due(tracker, 100, since=6))
    assert seconds == 6 + 3 * 3.5
    assert "rest of 10.5 s wanted" in why


def test_no_pause_makes_the_rest_longer_than_the_quiet_period() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.received(instance(2, 50), association=2)
    for association in (1, 2):
        tracker.association_ended(end(association=association), at(50))
    assert evidence(first_due(tracker, 200, since=50))[0] == 110


def test_a_completed_series_names_itself_and_is_no_longer_waited_for() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(), at(0))
    (completed,) = tracker.due(at(2))
    assert (completed.series_instance_uid, completed.study_instance_uid, completed.at) == (SERIES, STUDY, at(2))
    assert tracker.waiting() == 0
    assert tracker.due(at(1000)) == []


def test_an_open_association_that_touched_the_series_keeps_it_open_until_the_quiet_period() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.received(instance(2, 1), association=2)
    tracker.association_ended(end(association=1), at(2))
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 61
    assert "nothing came for 60.0 s (quiet period 60 s)" in why


def test_two_associations_are_awaited_both() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.received(instance(2, 0), association=2)
    tracker.association_ended(end(association=1), at(1))
    tracker.association_ended(end(association=2), at(10))
    assert evidence(first_due(tracker, 100))[0] == 12


def test_an_association_that_did_not_touch_a_series_says_nothing_about_it() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=2, series="9.9"), at(1))
    assert first_due(tracker, 59) is None


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.RELEASED])
def test_an_association_that_broke_off_is_no_evidence(outcome: Outcome) -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(outcome=outcome), at(1))
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 60
    assert f"after: association {outcome}" in why


def test_a_release_is_no_evidence_when_instances_were_refused() -> None:
    """The disk was full for a while: the sender will come back with what it could not deliver."""
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(replace(end(), refused=2), at(1))
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 60
    assert "after: association released with 2 instances refused" in why


def test_a_sender_that_comes_back_after_an_abort_and_releases_completes_the_series() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=1, outcome=Outcome.ABORTED), at(1))
    tracker.received(instance(2, 20), association=2)
    tracker.association_ended(end(association=2), at(21))
    assert evidence(first_due(tracker, 100))[0] == 23


def test_an_instance_that_follows_a_release_starts_the_rest_again() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=1), at(0))
    tracker.received(instance(2, 0.5), association=2)
    assert first_due(tracker, 50) is None
    tracker.association_ended(end(association=2), at(50))
    assert evidence(first_due(tracker, 100, since=50))[0] == 52


def test_association_end_can_be_switched_off() -> None:
    tracker = CompletionTracker(RULES.model_copy(update={"association_end_s": "off"}))
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(), at(0))
    assert evidence(first_due(tracker, 100))[0] == 60


def test_association_end_without_any_rest_completes_at_once() -> None:
    tracker = CompletionTracker(RULES.model_copy(update={"association_end_s": 0.0}))
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(), at(0))
    assert evidence(first_due(tracker, 100))[0] == 0


def test_the_peers_count_completes_a_series_while_its_association_stays_open() -> None:
    peer = CountingPeer(3)
    tracker = CompletionTracker(RULES, peer)
    for number in range(3):
        tracker.received(instance(number, 0), association=1)
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 2
    assert why == "ARCHIVE counts 3 instances (C-FIND), 3 are here"
    assert peer.asked == [("ARCHIVE", STUDY, SERIES)]


def test_the_same_instance_twice_counts_once() -> None:
    tracker = CompletionTracker(RULES, CountingPeer(2))
    for number in (1, 1, 2):
        tracker.received(instance(number, 0), association=1)
    assert evidence(first_due(tracker, 100))[0] == 2


def test_a_larger_count_keeps_a_series_open_after_the_release_and_the_rest_completes_it() -> None:
    peer = CountingPeer(4)
    tracker = CompletionTracker(RULES, peer)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=1), at(1))
    assert first_due(tracker, 300) is None
    for number in (2, 3, 4):
        tracker.received(instance(number, 300), association=2)
    assert evidence(first_due(tracker, 400, since=300)) == (302, "ARCHIVE counts 4 instances (C-FIND), 4 are here")


def test_a_larger_count_is_not_waited_for_for_ever() -> None:
    tracker = CompletionTracker(RULES, CountingPeer(4))
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=1), at(1))
    seconds, why = evidence(first_due(tracker, 1000))
    assert seconds == 600
    assert "ARCHIVE counts 4 instances (C-FIND), 1 are here" in why


def test_a_smaller_count_is_no_reason_to_wait_longer() -> None:
    """The archive may still be filing what it has already forwarded."""
    tracker = CompletionTracker(RULES, CountingPeer(1))
    tracker.received(instance(1, 0), association=1)
    tracker.received(instance(2, 0), association=1)
    tracker.association_ended(end(association=1), at(1))
    seconds, why = evidence(first_due(tracker, 1000))
    assert seconds == 3
    assert "ARCHIVE counts 1 instances (C-FIND), 2 are here" in why


def test_a_peer_without_an_answer_leaves_the_other_evidence_and_is_left_alone_for_a_while() -> None:
    peer = CountingPeer(None)
    tracker = CompletionTracker(RULES, peer)
    for number in range(50):
        tracker.received(instance(1, 0, series=f"1.2.{number}"), association=1)
    assert first_due(tracker, 29) is None
    assert len(peer.asked) == 1
    assert evidence(first_due(tracker, 100, since=29))[0] == 60


def test_a_count_is_asked_at_rest_only_and_every_few_seconds_at_most() -> None:
    peer = CountingPeer(1000)
    tracker = CompletionTracker(RULES, peer)
    for number in range(100):
        tracker.received(instance(number, number / 10), association=1)
        assert tracker.due(at(number / 10)) == []
    assert peer.asked == []
    assert first_due(tracker, 9.9 + 21, since=10) is None
    assert len(peer.asked) == 4  # 2, 7, 12 and 17 s after the last instance


def test_a_count_that_is_older_than_the_last_instance_says_nothing() -> None:
    peer = CountingPeer(2)
    tracker = CompletionTracker(RULES, peer)
    tracker.received(instance(1, 0), association=1)
    assert tracker.due(at(3)) == []
    tracker.received(instance(2, 3.5), association=1)
    peer.count = 5  # the scanner has gone on meanwhile
    assert first_due(tracker, 60, since=3.5) is None


def test_a_late_instance_of_a_finished_series_is_counted_with_those_that_the_index_holds() -> None:
    peer = CountingPeer(4)
    tracker = CompletionTracker(RULES, peer, count_held={SERIES: 4}.__getitem__)
    tracker.received(instance(4, 0), association=1)
    assert evidence(first_due(tracker, 100)) == (2, "ARCHIVE counts 4 instances (C-FIND), 4 are here")


def test_a_late_instance_opens_a_finished_series_again() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(association=1), at(0))
    assert len(tracker.due(at(2))) == 1
    tracker.received(instance(2, 10), association=2)
    tracker.association_ended(end(association=2), at(10))
    assert evidence(first_due(tracker, 100, since=3))[0] == 12


def test_after_a_restart_the_quiet_period_counts_from_the_restart() -> None:
    """What came before cannot tell whether the sender was in the middle: its association died with the node."""
    tracker = CompletionTracker(RULES)
    tracker.reopen([open_series()], at(0))
    seconds, why = evidence(first_due(tracker, 100))
    assert seconds == 60
    assert "after: found open in the index; instances seen: 3" in why


def test_after_a_restart_the_peers_count_is_evidence_at_once() -> None:
    tracker = CompletionTracker(RULES, CountingPeer(3))
    tracker.reopen([open_series(instances=3)], at(0))
    assert evidence(first_due(tracker, 100)) == (2, "ARCHIVE counts 3 instances (C-FIND), 3 are here")


def test_after_a_restart_the_sender_who_comes_back_and_releases_completes_the_series() -> None:
    tracker = CompletionTracker(RULES)
    tracker.reopen([open_series()], at(0))
    tracker.received(instance(4, 5), association=1)
    tracker.association_ended(end(), at(6))
    assert evidence(first_due(tracker, 100))[0] == 8


def test_reopening_does_not_forget_what_is_coming_in() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0), association=1)
    tracker.association_ended(end(), at(1))
    tracker.reopen([open_series()], at(2))
    assert evidence(first_due(tracker, 100))[0] == 3


def test_series_are_judged_each_by_its_own_evidence() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 0, series="1.2.3"), association=1)
    tracker.received(instance(1, 0, series="1.2.4"), association=2)
    tracker.association_ended(end(association=2, series="1.2.4"), at(0))
    assert [c.series_instance_uid for c in tracker.due(at(2))] == ["1.2.4"]
    assert [c.series_instance_uid for c in tracker.due(at(60))] == ["1.2.3"]


def test_a_clock_that_is_set_back_completes_nothing_early() -> None:
    tracker = CompletionTracker(RULES)
    tracker.received(instance(1, 100), association=1)
    tracker.association_ended(end(), at(50))
    assert first_due(tracker, 101) is None
    assert evidence(first_due(tracker, 200))[0] == 102
