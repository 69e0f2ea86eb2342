"""The archive destination against a real Orthanc, storage commitment included."""

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel  # pyright: ignore[reportAttributeAccessIssue]

from dicomnode.config import Destination, Peer
from dicomnode.demo.archive import StandInArchive
from dicomnode.destinations import Archive
from dicomnode.destinations.commitment import parse_commitment_report
from dicomnode.errors import Unavailable
from dicomnode.imaging import derived_uid
from dicomnode.ledger.records import CommitmentReport
from tests.destination_contract import Behind, DestinationContract, ct_series, uids_of
from tests.orthanc import AE_TITLE, DICOM_PORT, NODE_AE_TITLE, NODE_PORT, Namespace, Orthanc, namespace_or_skip

SILENT_PORT = 4243


class Listener:
    """Takes commitment reports where Orthanc expects the node."""

    def __init__(self) -> None:
        self._reports: dict[str, CommitmentReport] = {}
        self._changed = threading.Condition()
        ae = AE(NODE_AE_TITLE)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._server: Any = ae.start_server(
            ("127.0.0.1", NODE_PORT), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._take)]
        )

    def report(self, transaction_uid: str) -> CommitmentReport | None:
        with self._changed:
            self._changed.wait_for(lambda: transaction_uid in self._reports, timeout=30)
            return self._reports.get(transaction_uid)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, event: Event) -> tuple[int, None]:
        report = parse_commitment_report(event.event_information)
        with self._changed:
            self._reports[report.transaction_uid] = report
            self._changed.notify_all()
        return 0x0000, None


@pytest.fixture(scope="module")
def namespace() -> Generator[Namespace]:
    with namespace_or_skip() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def orthanc(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Generator[Orthanc]:
    with Orthanc(namespace, tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture
def inside(namespace: Namespace, orthanc: Orthanc) -> Generator[None]:
    with namespace.entered():
        yield


@pytest.fixture
def listener(inside: None) -> Generator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def archive_at(port: int, our_ae_title: str = NODE_AE_TITLE) -> Archive:
    peer = Peer(name="orthanc", ae_title=AE_TITLE, host="127.0.0.1", port=port)
    return Archive(Destination(name="archive", peer="orthanc", timeout_s=10.0), peer, our_ae_title)


class TestArchiveToOrthanc(DestinationContract):
    @pytest.fixture
    def behind(self, orthanc: Orthanc, listener: Listener) -> Behind:
        return Behind(
            archive_at(DICOM_PORT),
            lambda: {uid: orthanc.file(orthanc_id) for uid, orthanc_id in orthanc.instances().items()},
            archive_at(SILENT_PORT),
            listener.report,
        )


def test_orthanc_answers_an_echo_and_the_port_beside_it_does_not(inside: None) -> None:
    archive_at(DICOM_PORT).echo()
    with pytest.raises(Unavailable):
        archive_at(DICOM_PORT + 1).echo()


def test_orthanc_says_how_many_instances_a_series_has(inside: None, tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "counted by orthanc", slices=7)
    archive_at(DICOM_PORT).store(paths)
    header = dcmread(paths[0], stop_before_pixels=True)
    assert archive_at(DICOM_PORT).count_instances(header.StudyInstanceUID, header.SeriesInstanceUID) == 7
    assert archive_at(DICOM_PORT).count_instances(header.StudyInstanceUID, derived_uid("unknown")) is None


def test_an_ae_title_that_orthanc_does_not_know_is_told_what_to_check(inside: None, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does it know STRANGER"):
        archive_at(DICOM_PORT, "STRANGER").store(ct_series(tmp_path, "stranger"))


def test_orthanc_reports_commitment_on_an_association_of_its_own(
    listener: Listener, orthanc: Orthanc, tmp_path: Path
) -> None:
    path = ct_series(tmp_path, "own association", slices=1)[0]
    uid = str(dcmread(path).SOPInstanceUID)
    archive_at(DICOM_PORT).store([path])
    transaction = derived_uid("own association", str(time.time_ns()))
    assert archive_at(DICOM_PORT).request_commitment(transaction, [(CTImageStorage, uid)], wait_s=0.0) is None
    assert listener.report(transaction) == CommitmentReport(transaction, (uid,), ())


def test_an_archive_that_was_down_takes_the_same_call_when_it_is_back(
    inside: None, orthanc: Orthanc, tmp_path: Path
) -> None:
    paths = ct_series(tmp_path, "after a restart", slices=2)
    orthanc.stop()
    try:
        with pytest.raises(Unavailable):
            archive_at(DICOM_PORT).store(paths)
    finally:
        orthanc.start()
    assert all(answer.kept for answer in archive_at(DICOM_PORT).store(paths))
    assert len(orthanc.instances(SeriesInstanceUID=str(dcmread(paths[0]).SeriesInstanceUID))) == 2


def test_orthanc_routes_a_stable_series_to_the_node_and_nothing_else(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "routed by orthanc", slices=4)
    report = dcmread(paths[0])
    report.Modality, report.SeriesInstanceUID = "OT", derived_uid("other")
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(derived_uid("other instance"))
    report.save_as(tmp_path / "other.dcm")
    with (
        namespace_or_skip() as own,
        Orthanc(own, tmp_path / "orthanc", auto_route=True) as orthanc,
        own.entered(),
        StandInArchive(tmp_path / "node", NODE_AE_TITLE, NODE_PORT) as node,
    ):
        orthanc.upload([tmp_path / "other.dcm", *paths])
        received = node.wait_for(4, timeout_s=30)
        assert {kept.sop_instance_uid for kept in received} == set(uids_of(paths))
