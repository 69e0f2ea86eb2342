"""Step `deliver`: one rung at a time, against an archive that misbehaves in every way archives do."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dicomnode.audit import AuditHead, AuditLog, verify
from dicomnode.config import Config, parse_config
from dicomnode.demo.archive import CommitmentAnswer, Faults, ReportOn, StandInArchive, StoreFault
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from dicomnode.ledger import CommitmentReport, Ledger, Order, OrderState, ReceivedInstance, Result, Rung
from dicomnode.pipeline import Shipment
from dicomnode.steps.delivering import Delivering, enter_report
from dicomnode.steps.recorder import Recorder

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that moves when told to."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class Site:
    """A ledger with one result that has to reach an archive and a folder."""

    root: Path
    archive: StandInArchive
    clock: Clock = field(default_factory=Clock)
    ledger: Ledger = field(init=False)
    recorder: Recorder = field(init=False)
    uid: str = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(f"sqlite:///{self.root / 'ledger.sqlite'}", self.root / "spool")
        self.ledger.prepare()
        self.recorder = Recorder("deliver", self.ledger, AuditLog(self.root / "audit"), self.clock)
        self.uid = self._result()

    def _result(self) -> str:
        geometry = Geometry(np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]], (1, 4, 4), "1.2.3")
        [made] = build_ct_slices(np.zeros((1, 4, 4), np.int16), geometry, SeriesIdentity("delivery"))
        [path] = write_series([made], self.root / "spool")
        instance = ReceivedInstance("1.2.1.1", "1.2", "1.2.1", "1.2.7", "1.2", Path("a.dcm"), "a" * 64, 1, NOON, "PACS")
        self.ledger.received.index([instance])
        version = self.ledger.received.close_series("1.2.1", NOON, "test")
        assert version is not None
        order = Order("o1", version.version_id, "r", "m", ("seg",), ("pacs",), 1, OrderState.WAITING, "", 1)
        self.ledger.ordered.place(order, NOON)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        result = Result(
            made.SOPInstanceUID, made.SOPClassUID, "1.2.7", "o1", "seg", path.relative_to(self.root / "spool"), digest
        )
        self.ledger.ordered.record_results([result], {"pacs": Rung.COMMITTED, "folder": Rung.ACCEPTED}, NOON)
        return str(made.SOPInstanceUID)

    @property
    def config(self) -> Config:
        return parse_config(
            {
                "node": {"ae_title": "NODE", "data_dir": str(self.root)},
                "peers": [{"name": "p", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": self.archive.port}],
                "destinations": [
                    {"name": "pacs", "peer": "p", "timeout_s": 2, "first_retry_s": 10, "commitment_wait_s": 60},
                    {"name": "folder", "kind": "folder", "path": "out"},
                ],
            },
            "test",
            self.root,
        )

    def deliver(self, destination: str = "pacs", round_: int = 1) -> float | None:
        step = Delivering(self.config, self.ledger, self.recorder, self.root / "spool")
        return step.deliver(Shipment(self.uid, destination, round_))

    def rung(self, destination: str = "pacs") -> Rung:
        return self.ledger.delivered.delivery(self.uid, destination).rung

    def report(self, committed: bool, reason: int = 0x0112) -> None:
        """What the listener does when the archive's report comes."""
        asked = self.ledger.delivered.commitment(self.uid, "pacs")
        assert asked is not None
        failed = () if committed else ((self.uid, reason),)
        report = CommitmentReport(asked.transaction_uid, (self.uid,) if committed else (), failed)
        enter_report(self.recorder, report)


def site_with(root: Path, faults: Faults, report_on: ReportOn = ReportOn.SAME_ASSOCIATION) -> Iterator[Site]:
    with StandInArchive(root / "archive", "ARCHIVE", faults=faults, report_on=report_on) as archive:
        site = Site(root, archive)
        yield site
        site.ledger.close()


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    yield from site_with(tmp_path, getattr(request, "param", Faults()))


silent_about_commitment = pytest.mark.parametrize(
    "site", [Faults(commitment=CommitmentAnswer.NONE)], indirect=True, ids=["silent"]
)


def test_a_good_archive_has_it_committed_in_one_turn_and_every_rung_is_on_record(site: Site):
    assert site.deliver() is None
    assert site.rung() is Rung.COMMITTED
    climbed = [rung for name, rung, _, _ in site.ledger.delivered.history(site.uid) if name == "pacs"]
    assert climbed == [Rung.ENCODED, Rung.ACCEPTED, Rung.COMMITTED]


def test_the_order_is_done_when_the_last_destination_has_it(site: Site):
    site.deliver("folder")
    assert site.ledger.ordered.order("o1").state is OrderState.DELIVERING
    site.deliver("pacs")
    assert site.ledger.ordered.order("o1").state is OrderState.DONE
    assert len(list((site.root / "out").rglob("*.dcm"))) == 1


def test_a_turn_for_what_has_arrived_changes_nothing(site: Site):
    site.deliver()
    stores = site.archive.stores
    assert site.deliver() is None
    assert site.archive.stores == stores


def test_an_archive_that_is_away_is_waited_for_longer_and_longer(site: Site):
    site.archive.stop()
    config = parse_config(
        {
            "peers": [{"name": "p", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 9}],
            "destinations": [{"name": "pacs", "peer": "p", "timeout_s": 1, "first_retry_s": 10, "last_retry_s": 100}],
        },
        "test",
    )
    step = Delivering(config, site.ledger, site.recorder, site.root / "spool")
    waits: list[float] = []
    for _ in range(6):
        wait = step.deliver(Shipment(site.uid, "pacs", 1))
        assert wait is not None
        waits.append(wait)
        site.clock.forward(wait)
    assert waits[0] == pytest.approx(10, rel=0.25)
    assert waits[-1] == pytest.approx(100, rel=0.25)
    assert not site.ledger.delivered.delivery(site.uid, "pacs").parked
    site.clock.forward(8 * 86400)
    assert step.deliver(Shipment(site.uid, "pacs", 1)) is None
    assert site.ledger.delivered.delivery(site.uid, "pacs").parked


@pytest.mark.parametrize("site", [Faults(store=StoreFault.STATUS, status=0xA700, times=1)], indirect=True)
def test_an_archive_without_space_gets_it_later(site: Site):
    wait = site.deliver()
    assert wait is not None
    assert site.rung() is Rung.ENCODED
    site.clock.forward(wait)
    assert site.deliver() is None
    assert site.rung() is Rung.COMMITTED


@pytest.mark.parametrize("site", [Faults(store=StoreFault.STATUS, status=0xC000)], indirect=True)
def test_a_refusal_parks_this_delivery_and_no_other_until_a_person_retries(site: Site):
    assert site.deliver() is None
    site.deliver("folder")
    assert site.ledger.ordered.order("o1").state is OrderState.PARKED
    assert site.rung("folder") is Rung.RETRIEVABLE
    site.archive.faults = Faults()
    site.ledger.delivered.start_again(site.uid, "pacs", site.clock())
    assert site.deliver(round_=1) is None  # a turn of the old round is over
    assert site.rung() is Rung.ENCODED
    assert site.deliver(round_=2) is None
    assert site.rung() is Rung.COMMITTED


@silent_about_commitment
def test_a_report_on_another_association_lifts_the_rung_when_it_comes(site: Site):
    assert site.deliver() is not None
    assert site.rung() is Rung.ACCEPTED
    site.report(committed=True)
    assert site.rung() is Rung.COMMITTED
    assert site.deliver() is None


@silent_about_commitment
def test_a_report_that_never_comes_is_asked_for_again_and_the_object_is_not_sent_again(site: Site):
    wait = site.deliver()
    first = site.ledger.delivered.commitment(site.uid, "pacs")
    turns = 0
    while wait is not None and turns < 50 and site.ledger.delivered.commitment(site.uid, "pacs") == first:
        site.clock.forward(wait)
        wait = site.deliver()
        turns += 1
    assert site.ledger.delivered.commitment(site.uid, "pacs") != first
    assert site.archive.stores == 1
    assert (site.clock() - NOON).total_seconds() >= 60


@silent_about_commitment
def test_an_archive_that_lost_what_it_accepted_gets_it_again(site: Site):
    site.deliver()
    site.report(committed=False, reason=0x0112)
    wait = 0.0
    while site.archive.stores == 1:
        site.clock.forward(10)
        wait += 10
        site.deliver()
    assert 10 <= wait <= 20  # counted as a failure, so after a pause
    assert site.archive.stores == 2
    site.report(committed=True)
    assert site.rung() is Rung.COMMITTED
    assert site.ledger.delivered.delivery(site.uid, "pacs").failures == 0


@silent_about_commitment
def test_an_archive_that_never_commits_is_asked_less_and_less_often(site: Site):
    site.deliver()
    requests: list[str] = []
    while (site.clock() - NOON).total_seconds() < 3 * 3600:
        asked = site.ledger.delivered.commitment(site.uid, "pacs")
        assert asked is not None
        if asked.transaction_uid not in requests:
            requests.append(asked.transaction_uid)
            site.report(committed=False, reason=0x0110)
        site.clock.forward(max(1.0, site.deliver() or 1.0))
    assert 5 < len(requests) < 20


@silent_about_commitment
def test_an_archive_that_cannot_ever_commit_parks_the_delivery(site: Site):
    site.deliver()
    site.report(committed=False, reason=0x0122)
    assert site.deliver() is None
    assert site.ledger.delivered.delivery(site.uid, "pacs").parked


def test_a_result_whose_file_is_gone_or_altered_is_parked_and_nothing_is_sent(site: Site):
    path = site.root / "spool" / site.ledger.ordered.result(site.uid).path
    path.write_bytes(path.read_bytes() + b"\0")
    assert site.deliver() is None
    assert "altered" in site.ledger.delivered.delivery(site.uid, "pacs").detail
    path.unlink()
    assert site.deliver("folder") is None
    assert site.ledger.delivered.delivery(site.uid, "folder").parked
    assert site.archive.stores == 0


def test_what_was_sent_and_committed_is_in_an_audit_log_that_verifies(site: Site):
    site.deliver()
    anchored = site.ledger.last_audit_head()
    assert anchored is not None
    found = verify(site.root / "audit", [AuditHead(*anchored)])
    assert found.is_intact
    lines = (site.root / "audit" / "audit.jsonl").read_text()
    assert '"event":"sent"' in lines
    assert '"event":"committed"' in lines
    assert "PHANTOM" not in lines
