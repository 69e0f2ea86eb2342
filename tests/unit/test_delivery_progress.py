"""What a delivery does next, over days, without a clock of its own."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.config import Destination
from dicomnode.destinations import (
    AskCommitment,
    Finished,
    GiveUp,
    Patience,
    Progress,
    Store,
    WaitUntil,
    backoff_s,
    next_step,
)
from dicomnode.imaging import derived_uid
from dicomnode.ledger.records import Rung

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE = Patience(first_retry_s=5, last_retry_s=3600, commitment_wait_s=600, give_up_after=timedelta(days=7))
FRESH = Progress("1.2.3", Rung.ENCODED, Rung.COMMITTED, since=NOON)
ACCEPTED = replace(FRESH, rung=Rung.ACCEPTED)
MINUTE = timedelta(minutes=1)


def test_a_fresh_delivery_is_stored_at_once() -> None:
    assert next_step(FRESH, PATIENCE, NOON) == Store()


@pytest.mark.parametrize("rung", [Rung.COMMITTED, Rung.RETRIEVABLE])
def test_a_delivery_at_its_goal_or_beyond_is_finished(rung: Rung) -> None:
    assert next_step(replace(FRESH, rung=rung), PATIENCE, NOON) == Finished()


def test_commitment_is_asked_for_as_soon_as_the_instance_is_accepted() -> None:
    assert next_step(ACCEPTED, PATIENCE, NOON) == AskCommitment()


def test_where_no_commitment_is_wanted_acceptance_is_the_end() -> None:
    assert next_step(replace(ACCEPTED, goal=Rung.ACCEPTED), PATIENCE, NOON) == Finished()


def test_a_report_is_waited_for_and_then_asked_for_again() -> None:
    asked = replace(ACCEPTED, asked_at=NOON)
    assert next_step(asked, PATIENCE, NOON + MINUTE) == WaitUntil(NOON + timedelta(seconds=600))
    assert next_step(asked, PATIENCE, NOON + timedelta(seconds=600)) == AskCommitment()


def test_after_a_failure_the_next_try_waits_for_its_pause() -> None:
    failed = replace(FRESH, failures=1, last_failed_at=NOON)
    step = next_step(failed, PATIENCE, NOON)
    assert isinstance(step, WaitUntil)
    assert timedelta(seconds=4) <= step.at - NOON <= timedelta(seconds=6)
    assert next_step(failed, PATIENCE, step.at) == Store()


def test_an_instance_that_the_archive_lost_is_stored_again() -> None:
    lost = replace(ACCEPTED, asked_at=NOON, failure_reason=0x0112, failures=1, last_failed_at=NOON)
    assert next_step(lost, PATIENCE, NOON + MINUTE) == Store()


def test_an_archive_that_failed_to_process_the_request_is_asked_again() -> None:
    failed = replace(ACCEPTED, asked_at=NOON, failure_reason=0x0110, failures=1, last_failed_at=NOON)
    assert next_step(failed, PATIENCE, NOON + MINUTE) == AskCommitment()


@pytest.mark.parametrize("reason", [0x0119, 0x0122])
def test_what_the_archive_will_never_commit_is_given_up_at_once(reason: int) -> None:
    step = next_step(replace(ACCEPTED, asked_at=NOON, failure_reason=reason), PATIENCE, NOON + MINUTE)
    assert isinstance(step, GiveUp)
    assert "does not commit" in step.sentence


def test_an_archive_that_is_away_for_days_is_waited_for_and_at_last_given_up() -> None:
    now, failed_at, failures = NOON, None, 0
    while True:
        progress = replace(FRESH, failures=failures, last_failed_at=failed_at)
        step = next_step(progress, PATIENCE, now)
        if isinstance(step, GiveUp):
            break
        if isinstance(step, WaitUntil):
            assert step.at > now
            now = step.at
        else:
            failed_at, failures = now, failures + 1
    assert timedelta(days=7) <= now - NOON < timedelta(days=7, hours=1)
    assert 160 < failures < 240  # an hour apart, after the first few
    assert "committed within 7 days, found encoded" in step.sentence


def test_patience_is_what_the_configuration_says() -> None:
    destination = Destination(
        name="a", peer="p", first_retry_s=1, last_retry_s=2, commitment_wait_s=3, give_up_after_days=4
    )
    assert Patience.of(destination) == Patience(1, 2, 3, timedelta(days=4))


@given(
    uid=st.integers(0, 10**6).map(lambda n: derived_uid(str(n))),
    failures=st.integers(0, 10**6),
    first_s=st.floats(0.01, 100),
    factor=st.floats(1, 1e5),
)
def test_pauses_are_the_same_for_the_same_delivery_and_stay_within_their_bounds(
    uid: str, failures: int, first_s: float, factor: float
) -> None:
    pause_s = backoff_s(uid, failures, first_s, first_s * factor)
    assert pause_s == backoff_s(uid, failures, first_s, first_s * factor)
    if failures == 0:
        assert pause_s == 0
    else:
        assert 0.8 * first_s * 0.999 <= pause_s <= first_s * factor


def test_deliveries_that_failed_together_do_not_come_back_together() -> None:
    pauses = {round(backoff_s(derived_uid(str(n)), 5, 5, 3600), 1) for n in range(100)}
    assert len(pauses) > 50


@given(
    rung=st.sampled_from(Rung),
    goal=st.sampled_from([Rung.ACCEPTED, Rung.COMMITTED]),
    failures=st.integers(0, 50),
    asked=st.none() | st.integers(0, 700_000),
    failed=st.none() | st.integers(0, 700_000),
    reason=st.sampled_from([None, 0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213]),
    at=st.integers(0, 800_000),
)
def test_a_step_is_always_due_in_the_future_or_now_and_never_skips_a_rung(
    rung: Rung, goal: Rung, failures: int, asked: int | None, failed: int | None, reason: int | None, at: int
) -> None:
    def moment(seconds: int | None) -> datetime | None:
        return None if seconds is None else NOON + timedelta(seconds=seconds)

    progress = Progress("1.2.3", rung, goal, NOON, failures, moment(failed), moment(asked), reason)
    now = NOON + timedelta(seconds=at)
    match next_step(progress, PATIENCE, now):
        case WaitUntil(until):
            assert until > now
        case AskCommitment():
            assert rung >= Rung.ACCEPTED
            assert goal is Rung.COMMITTED
        case Store():
            assert rung < goal
        case Finished():
            assert rung >= goal
        case GiveUp(sentence):
            assert rung < goal
            assert sentence
