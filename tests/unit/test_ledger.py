"""The ledger: what came, what was ordered, how far it has come; every entry may be made twice."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.errors import ResultMismatch
from dicomnode.ledger import (
    CommitmentOutcome,
    CommitmentReport,
    Ledger,
    Order,
    OrderState,
    ReceivedInstance,
    Result,
    Rung,
    SeriesState,
    Step,
)
from dicomnode.ledger.ordered import order_id_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOALS = {"pacs": Rung.COMMITTED, "folder": Rung.ACCEPTED}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", tmp_path)
    opened.prepare()
    yield opened
    opened.close()


def received(number: int, series: str = "1.2.1", sha256: str = "a" * 64) -> ReceivedInstance:
    return ReceivedInstance(
        sop_instance_uid=f"{series}.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=series,
        study_instance_uid="1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=Path(f"{series}-{number}-{sha256[:4]}.dcm"),
        sha256=sha256,
        size_bytes=100,
        received_at=NOON + timedelta(seconds=number),
        calling_ae_title="PACS",
    )


def an_order(ledger: Ledger) -> Order:
    ledger.received.index([received(1)])
    version = ledger.received.close_series("1.2.1", NOON, "test")
    assert version is not None
    order = Order(
        order_id=order_id_of(version.version_id, "torso"),
        version_id=version.version_id,
        route="torso",
        model="torso",
        results=("seg",),
        destinations=tuple(GOALS),
        priority=5,
        state=OrderState.WAITING,
        detail="",
        attempt=1,
    )
    ledger.ordered.place(order, NOON)
    return order


def a_result(ledger: Ledger) -> Result:
    order = an_order(ledger)
    made = Result("1.2.9", "1.2.840.10008.5.1.4.1.1.66.4", "1.2", order.order_id, "seg", Path("r.dcm"), "b" * 64)
    ledger.ordered.record_results([made], GOALS, NOON)
    return made


def test_a_series_is_open_until_it_is_closed_and_then_is_version_1(ledger: Ledger):
    ledger.received.index([received(1), received(2)])
    [open_] = ledger.received.open_series()
    assert (open_.instances, open_.last_received_at) == (2, NOON + timedelta(seconds=2))
    version = ledger.received.close_series("1.2.1", NOON, "the association ended")
    assert version is not None
    assert (version.number, len(version.series.instances), version.state) == (1, 2, SeriesState.COMPLETE)
    assert ledger.received.open_series() == []
    assert ledger.received.unrouted(NOON + timedelta(seconds=1)) == [version.version_id]
    assert ledger.received.unrouted(NOON) == []


def test_late_instances_make_a_second_version_with_all_of_them(ledger: Ledger):
    ledger.received.index([received(1)])
    first = ledger.received.close_series("1.2.1", NOON, "quiet")
    ledger.received.index([received(2)])
    second = ledger.received.close_series("1.2.1", NOON, "quiet again")
    assert first is not None
    assert second is not None
    assert (second.number, len(second.series.instances)) == (2, 2)
    assert len(ledger.received.version(first.version_id).series.instances) == 1
    assert first.version_id != second.version_id


def test_closing_a_series_with_nothing_new_makes_no_version(ledger: Ledger):
    ledger.received.index([received(1)])
    assert ledger.received.close_series("1.2.1", NOON, "once")
    ledger.received.index([received(1)])
    assert ledger.received.close_series("1.2.1", NOON, "twice") is None


def test_two_contents_under_one_uid_are_both_kept_and_counted_as_one_instance(ledger: Ledger):
    ledger.received.index([received(1), received(1, sha256="b" * 64)])
    [open_] = ledger.received.open_series()
    assert open_.instances == 1
    version = ledger.received.close_series("1.2.1", NOON, "quiet")
    assert version is not None
    assert len(version.series.instances) == 2


def test_placing_an_order_twice_places_it_once(ledger: Ledger):
    order = an_order(ledger)
    ledger.ordered.set_state(order.order_id, OrderState.RUNNING, "", NOON)
    ledger.ordered.place(order, NOON)
    [found] = ledger.ordered.orders()
    assert (found.state, found.destinations, found.priority) == (OrderState.RUNNING, tuple(GOALS), 5)


def test_starts_are_counted_until_a_step_ends_or_the_order_is_started_again(ledger: Ledger):
    order = an_order(ledger)
    assert [ledger.ordered.count_start(order.order_id, NOON) for _ in range(3)] == [1, 2, 3]
    ledger.ordered.record_step(order.order_id, Step("assemble", NOON, 0.1, "{}"))
    assert ledger.ordered.count_start(order.order_id, NOON) == 1
    again = ledger.ordered.start_again(order.order_id, NOON)
    assert (again.attempt, again.state) == (2, OrderState.WAITING)
    assert ledger.ordered.count_start(order.order_id, NOON) == 1


def test_results_open_one_delivery_per_destination_however_often_they_are_recorded(ledger: Ledger):
    made = a_result(ledger)
    ledger.ordered.record_results([made], GOALS, NOON)
    found = {d.destination: (d.rung, d.goal) for d in ledger.delivered.deliveries_of(made.order_id)}
    assert found == {name: (Rung.ENCODED, goal) for name, goal in GOALS.items()}
    assert ledger.ordered.result("1.2.9") == made
    assert len(ledger.delivered.history("1.2.9")) == 2


def test_a_rung_rises_and_never_sinks_by_itself(ledger: Ledger):
    a_result(ledger)
    ledger.delivered.raise_rung("1.2.9", "pacs", Rung.ACCEPTED, NOON, "0x0000")
    ledger.delivered.raise_rung("1.2.9", "pacs", Rung.SENT, NOON, "late")
    assert ledger.delivered.delivery("1.2.9", "pacs").rung is Rung.ACCEPTED
    assert ledger.delivered.delivery("1.2.9", "folder").rung is Rung.ENCODED
    assert [r for d, r, _, _ in ledger.delivered.history("1.2.9") if d == "pacs"] == [Rung.ENCODED, Rung.ACCEPTED]


def test_what_an_archive_lost_goes_back_to_the_bottom_and_the_history_keeps_it(ledger: Ledger):
    a_result(ledger)
    ledger.delivered.raise_rung("1.2.9", "pacs", Rung.ACCEPTED, NOON, "0x0000")
    ledger.delivered.send_again("1.2.9", "pacs", NOON, "commitment failed")
    assert ledger.delivered.delivery("1.2.9", "pacs").rung is Rung.ENCODED
    assert [r for d, r, _, _ in ledger.delivered.history("1.2.9") if d == "pacs"][-1] is Rung.ENCODED


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (CommitmentReport("1.5", ("1.2.9",), ()), CommitmentOutcome.COMMITTED),
        (CommitmentReport("1.5", (), (("1.2.9", 0x0112),)), CommitmentOutcome.FAILED),
        (CommitmentReport("1.5", ("1.2.8",), ()), CommitmentOutcome.FAILED),
    ],
)
def test_a_commitment_report_is_matched_by_its_transaction(
    ledger: Ledger, report: CommitmentReport, outcome: CommitmentOutcome
):
    a_result(ledger)
    ledger.delivered.ask_commitment("1.5", "1.2.9", "pacs", NOON)
    assert ledger.delivered.record_report(report, NOON)
    ledger.delivered.note_answered("1.5")  # the answer to the request may come after the report
    found = ledger.delivered.commitment("1.2.9", "pacs")
    assert found is not None
    assert found.outcome is outcome
    committed = outcome is CommitmentOutcome.COMMITTED
    assert (ledger.delivered.delivery("1.2.9", "pacs").rung is Rung.COMMITTED) == committed
    assert (found.failure_reason is None) == committed


def test_a_report_nobody_asked_for_changes_nothing(ledger: Ledger):
    a_result(ledger)
    assert None is ledger.delivered.record_report(CommitmentReport("1.6", ("1.2.9",), ()), NOON)
    assert ledger.delivered.commitment("1.2.9", "pacs") is None


def test_parking_one_delivery_leaves_the_other_alone(ledger: Ledger):
    a_result(ledger)
    ledger.delivered.park("1.2.9", "pacs", "refused")
    assert ledger.delivered.delivery("1.2.9", "pacs").parked
    assert not ledger.delivered.delivery("1.2.9", "folder").parked
    again = ledger.delivered.start_again("1.2.9", "pacs", NOON)
    assert (again.parked, again.round, again.failures) == (False, 2, 0)


def routed(ledger: Ledger, series: str = "1.2.1") -> str:
    version = ledger.received.close_series(series, NOON, "quiet")
    assert version is not None
    ledger.received.set_routed(version.version_id, SeriesState.UNMATCHED, "", "")
    return version.version_id


def test_a_series_is_old_enough_to_go_when_nobody_waits_for_it_any_more(ledger: Ledger):
    for uid in ("1.2.1", "1.2.2", "1.2.3"):
        ledger.received.index([received(1, series=uid)])
    routed(ledger, "1.2.1")
    routed(ledger, "1.2.2")
    ledger.received.index([received(2, series="1.2.2")])  # open again
    ledger.received.close_series("1.2.3", NOON, "not routed yet")
    old = ledger.received.closed_before(NOON + timedelta(days=1), NOON)
    assert [uid for uid, _ in old] == ["1.2.1"]
    ledger.received.set_purged("1.2.1", NOON)
    assert ledger.received.closed_before(NOON + timedelta(days=1), NOON) == []


def test_a_series_with_an_unfinished_order_stays_and_with_a_parked_one_for_longer(ledger: Ledger):
    order = an_order(ledger)
    ledger.received.set_routed(order.version_id, SeriesState.ROUTED, "", "")
    for state in (OrderState.PARKED, OrderState.WAITING, OrderState.DELIVERING):
        ledger.ordered.set_state(order.order_id, state, "", NOON)
        assert (state is OrderState.PARKED) == bool(
            ledger.received.closed_before(NOON + timedelta(days=1), NOON + timedelta(seconds=1))
        )
        assert ledger.received.closed_before(NOON + timedelta(days=1), NOON) == []
    ledger.ordered.set_state(order.order_id, OrderState.DONE, "", NOON)
    assert len(ledger.received.closed_before(NOON + timedelta(days=1), NOON)) == 1


def test_a_slice_that_comes_after_the_purge_makes_a_version_without_what_is_gone(ledger: Ledger):
    ledger.received.index([received(1), received(2)])
    first = routed(ledger)
    ledger.received.set_purged("1.2.1", NOON)
    ledger.received.index([received(3)])
    late = ledger.received.close_series("1.2.1", NOON, "late")
    assert late is not None
    assert (late.number, len(late.series.instances)) == (2, 1)
    assert len(ledger.received.version(first).series.instances) == 2


def test_the_audit_heads_anchor_is_the_longest_one(ledger: Ledger):
    assert ledger.last_audit_head() is None
    ledger.anchor_audit_head(3, "c" * 64, NOON)
    ledger.anchor_audit_head(3, "c" * 64, NOON)
    ledger.anchor_audit_head(2, "b" * 64, NOON)
    assert ledger.last_audit_head() == (3, "c" * 64)


def test_failures_are_counted_until_the_destination_answers_again(ledger: Ledger):
    a_result(ledger)
    for seconds in (1, 2):
        ledger.delivered.note_failure("1.2.9", "pacs", NOON + timedelta(seconds=seconds), "no answer")
    found = ledger.delivered.delivery("1.2.9", "pacs")
    assert (found.failures, found.last_failed_at, found.detail) == (2, NOON + timedelta(seconds=2), "no answer")
    ledger.delivered.note_success("1.2.9", "pacs")
    assert ledger.delivered.delivery("1.2.9", "pacs").failures == 0


def test_an_order_is_done_when_every_delivery_is_and_parked_when_only_parked_ones_are_left(ledger: Ledger):
    made = a_result(ledger)
    ledger.delivered.raise_rung("1.2.9", "folder", Rung.ACCEPTED, NOON, "written")
    assert ledger.ordered.settle(made.order_id, NOON) is OrderState.DELIVERING
    ledger.delivered.park("1.2.9", "pacs", "refused")
    assert ledger.ordered.settle(made.order_id, NOON) is OrderState.PARKED
    assert "pacs" in ledger.ordered.order(made.order_id).detail
    ledger.delivered.raise_rung("1.2.9", "pacs", Rung.COMMITTED, NOON, "after all")
    assert ledger.ordered.settle(made.order_id, NOON) is OrderState.DONE


def test_what_waits_for_long_is_named_so_that_it_can_be_queued_again(ledger: Ledger):
    made = a_result(ledger)
    later = NOON + timedelta(seconds=1)
    assert [o.order_id for o in ledger.ordered.unfinished(later)] == [made.order_id]
    assert ledger.ordered.unfinished(NOON) == []
    ledger.ordered.set_state(made.order_id, OrderState.DELIVERING, "", NOON)
    assert ledger.ordered.unfinished(later) == []
    ledger.delivered.raise_rung("1.2.9", "folder", Rung.ACCEPTED, NOON, "written")
    assert [d.destination for d in ledger.delivered.unfinished(later)] == ["pacs"]
    ledger.delivered.park("1.2.9", "pacs", "refused")
    assert ledger.delivered.unfinished(later) == []


def test_what_comes_again_after_the_purge_is_there_again_and_makes_no_second_version(ledger: Ledger):
    ledger.received.index([received(1), received(2)])
    first = routed(ledger)
    ledger.received.set_purged("1.2.1", NOON)
    assert ledger.received.known_paths() == set()
    ledger.received.index([received(1), received(2)])
    assert len(ledger.received.open_series()) == 1
    assert ledger.received.close_series("1.2.1", NOON + timedelta(days=20), "again") is None
    assert ledger.received.open_series() == []
    assert len(ledger.received.version(first).series.instances) == 2
    assert ledger.received.closed_before(NOON + timedelta(days=19), NOON) == []
    assert len(ledger.received.closed_before(NOON + timedelta(days=21), NOON)) == 1


def test_a_series_that_comes_again_with_one_slice_more_is_a_version_with_all_of_them(ledger: Ledger):
    ledger.received.index([received(1), received(2)])
    routed(ledger)
    ledger.received.set_purged("1.2.1", NOON)
    ledger.received.index([received(1), received(2), received(3)])
    late = ledger.received.close_series("1.2.1", NOON, "again")
    assert late is not None
    assert (late.number, len(late.series.instances)) == (2, 3)


def test_an_index_of_many_instances_is_rebuilt_in_portions(ledger: Ledger):
    ledger.received.index([received(number) for number in range(1203)])
    assert len(ledger.received.known_paths()) == 1203


def test_a_result_made_again_with_other_bytes_replaces_one_nobody_has_and_no_other(ledger: Ledger):
    made = a_result(ledger)
    again = replace(made, sha256="c" * 64, path=Path("again.dcm"))
    ledger.ordered.record_results([again], GOALS, NOON)
    assert ledger.ordered.result("1.2.9") == again
    ledger.delivered.raise_rung("1.2.9", "pacs", Rung.ACCEPTED, NOON, "0x0000")
    ledger.ordered.record_results([again], GOALS, NOON)
    with pytest.raises(ResultMismatch, match="accepted under this UID"):
        ledger.ordered.record_results([made], GOALS, NOON)


def test_a_commitment_request_that_was_never_answered_is_not_waited_for(ledger: Ledger):
    a_result(ledger)
    ledger.delivered.ask_commitment("1.5", "1.2.9", "pacs", NOON)
    asked = ledger.delivered.commitment("1.2.9", "pacs")
    assert asked is not None
    assert (asked.outcome, asked.failure_reason) == (CommitmentOutcome.PENDING, 0x0110)
    ledger.delivered.note_answered("1.5")
    answered = ledger.delivered.commitment("1.2.9", "pacs")
    assert answered is not None
    assert (answered.outcome, answered.failure_reason) == (CommitmentOutcome.PENDING, None)


def test_the_order_for_a_later_version_names_the_one_it_replaces(ledger: Ledger):
    first = an_order(ledger)
    ledger.received.index([received(2)])
    version = ledger.received.close_series("1.2.1", NOON, "late")
    assert version is not None
    second = replace(first, order_id="second", version_id=version.version_id)
    other = replace(second, order_id="other", route="another")
    for order in (second, other):
        ledger.ordered.place(order, NOON)
    assert ledger.ordered.replaced_by("second") == [first.order_id]
    assert ledger.ordered.replaced_by("other") == []
    assert ledger.ordered.replaced_by(first.order_id) == []


NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from dicomnode.errors import Unavailable
from dicomnode.ledger import Ledger
from tests.unit.test_ledger import received
folder = Path(sys.argv[1])
ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}", folder)
ledger.prepare()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file's limit then fails the write, as a full disk does
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
try:
    ledger.received.index([received(1)])
    sys.exit(8)
except Unavailable:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
ledger.received.index([received(1)])
sys.exit(7 if len(ledger.received.known_paths()) == 1 else 9)
"""


def test_a_ledger_without_room_is_something_to_try_again_and_goes_on_when_there_is_room(tmp_path: Path):
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
