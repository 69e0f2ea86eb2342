"""Folder and archive keep the same promises."""

import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.config import Config, parse_config
from dicomnode.demo.archive import ReportOn, StandInArchive
from dicomnode.destinations import KINDS, Folder, open_destination
from dicomnode.errors import ConfigError, DestinationRefused
from dicomnode.ledger.records import CommitmentReport
from tests.destination_contract import Behind, DestinationContract, ct_series, ct_slices


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(folder: Path, port: int) -> Config:
    """An archive and a folder, each also in a version out of reach."""
    (folder / "file").write_text("where a folder should be")
    peers = [
        {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port},
        {"name": "gone", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": unused_port()},
    ]
    destinations = [
        {"name": "archive", "peer": "pacs", "timeout_s": 5.0},
        {"name": "archive-gone", "peer": "gone", "timeout_s": 5.0},
        {"name": "folder", "kind": "folder", "path": str(folder / "results")},
        {"name": "folder-gone", "kind": "folder", "path": str(folder / "file" / "results")},
    ]
    return parse_config({"peers": peers, "destinations": destinations}, source="test")


def no_report(_transaction_uid: str) -> CommitmentReport | None:
    return None


class TestFolder(DestinationContract):
    @pytest.fixture
    def behind(self, tmp_path: Path) -> Behind:
        config = configuration(tmp_path, 1)
        results = tmp_path / "results"
        return Behind(
            open_destination(config, "folder"),
            lambda: {path.stem: path.read_bytes() for path in results.rglob("*") if path.is_file()},
            open_destination(config, "folder-gone"),
            no_report,
        )


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Generator[StandInArchive]:
    kept = tmp_path_factory.mktemp("stand-in")
    with StandInArchive(kept, "ARCHIVE", report_on=ReportOn.SAME_ASSOCIATION) as archive:
        yield archive


class TestArchiveToTheStandIn(DestinationContract):
    @pytest.fixture
    def behind(self, stand_in: StandInArchive, tmp_path: Path) -> Behind:
        config = configuration(tmp_path, stand_in.port)
        return Behind(
            open_destination(config, "archive"),
            lambda: {kept.sop_instance_uid: kept.path.read_bytes() for kept in stand_in.kept()},
            open_destination(config, "archive-gone"),
            no_report,
        )


def test_every_kind_that_the_configuration_knows_can_be_opened(tmp_path: Path) -> None:
    config = configuration(tmp_path, 1)
    kinds = {destination.kind for destination in config.destinations}
    assert kinds == set(KINDS)
    for destination in config.destinations:
        open_destination(config, destination.name)


def test_an_unknown_name_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="elsewhere"):
        open_destination(configuration(tmp_path, 1), "elsewhere")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_uid_that_points_elsewhere_never_becomes_a_path(tmp_path: Path) -> None:
    hostile = ct_slices("hostile", slices=1)[0]
    hostile.SeriesInstanceUID = "../../evil"
    hostile.save_as(tmp_path / "hostile.dcm")
    with pytest.raises(DestinationRefused, match="expected UIDs of digits and dots"):
        Folder(tmp_path / "a" / "b" / "results").store([tmp_path / "hostile.dcm"])
    assert [path.name for path in tmp_path.rglob("*")] == ["hostile.dcm"]


def test_a_folder_replaces_other_content_under_the_same_uid_whole(tmp_path: Path) -> None:
    path = ct_series(tmp_path, "replaced", slices=1)[0]
    Folder(tmp_path / "results").store([path])
    changed = dcmread(path)
    changed.SeriesDescription = "changed"
    changed.save_as(path)
    [answer] = Folder(tmp_path / "results").store([path])
    assert answer.sentence == "replaced"
    files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert [file.read_bytes() for file in files] == [path.read_bytes()]
