"""kill -9 of every role at several points: what was acknowledged is segmented, delivered and committed once."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.audit import AuditHead, verify
from dicomnode.demo.archive import StandInArchive
from dicomnode.errors import NodeError
from dicomnode.ledger import Rung
from tests.site import AE_TITLE, Site, torso_series

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return torso_series(tmp_path_factory.mktemp("series"))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[StandInArchive]:
    with StandInArchive(tmp_path / "archive", "ARCHIVE") as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, archive: StandInArchive) -> Iterator[Site]:
    port = free_port()
    archive.callers[AE_TITLE] = ("127.0.0.1", port)
    with Site(tmp_path / "node", port, ("ARCHIVE", archive.port)) as made:
        yield made


def assert_delivered_once(site: Site, archive: StandInArchive) -> None:
    [order] = site.wait_until_done()
    [delivery] = site.ledger.delivered.deliveries_of(order.order_id)
    assert delivery.rung is Rung.COMMITTED
    assert [k.sop_instance_uid for k in archive.kept(SEG)] == [delivery.sop_instance_uid]
    anchored = site.ledger.last_audit_head()
    assert anchored is not None
    assert verify(site.audit_dir, [AuditHead(*anchored)]).problems == ()


@pytest.mark.parametrize("after", ["nothing", "assemble", "infer", "encode"])
def test_the_worker_is_killed_after_each_step(site: Site, archive: StandInArchive, series: list[Path], after: str):
    site.start()
    site.send(series, "ARCHIVE")
    if after == "nothing":
        site.wait_for(lambda: site.orders())
    else:
        site.wait_for_step(after)
    site.kill("work")
    site.start("work")
    assert_delivered_once(site, archive)


def test_the_deliverer_is_killed_while_the_archive_is_away_and_after_it_accepted(
    site: Site, archive: StandInArchive, series: list[Path]
):
    address = archive.port
    archive.stop()
    site.start()
    site.send(series, "ARCHIVE")
    site.wait_for(
        lambda: any(d.failures for o in site.orders() for d in site.ledger.delivered.deliveries_of(o.order_id))
    )
    site.kill("deliver")
    back = StandInArchive(site.folder / "archive-again", "ARCHIVE", address, {AE_TITLE: ("127.0.0.1", site.port)})
    with back:
        site.start("deliver")
        site.wait_for(lambda: back.kept(SEG))
        site.kill("deliver")
        site.start("deliver")
        assert_delivered_once(site, back)


def test_the_listener_is_killed_in_the_middle_of_a_series_and_the_sender_sends_the_rest_again(
    site: Site, archive: StandInArchive, series: list[Path]
):
    site.start("listen")
    site.send(series[: len(series) // 2], "ARCHIVE")
    site.kill("listen")
    with pytest.raises(NodeError):
        site.send(series, "ARCHIVE")
    site.start()
    site.send(series, "ARCHIVE")
    assert_delivered_once(site, archive)


def test_the_listener_is_killed_right_after_the_last_acknowledgement(
    site: Site, archive: StandInArchive, series: list[Path]
):
    site.start("listen")
    site.send(series, "ARCHIVE")
    site.kill("listen")
    site.start()
    assert_delivered_once(site, archive)
    [order] = site.orders()
    version = site.ledger.received.version(order.version_id)
    assert len(version.series.instances) == len(series)
    assert "quiet period" in version.evidence


def test_every_role_is_killed_at_once(site: Site, archive: StandInArchive, series: list[Path]):
    site.start()
    site.send(series, "ARCHIVE")
    site.wait_for(lambda: site.orders())
    for role in ("listen", "work", "deliver"):
        site.kill(role)
    site.start()
    assert_delivered_once(site, archive)
