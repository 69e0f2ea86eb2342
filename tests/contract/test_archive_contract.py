"""An archive that misbehaves: every failure has its name, takes bounded time and loses nothing."""

import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel  # pyright: ignore[reportAttributeAccessIssue]

from dicomnode.config import Destination, Peer
from dicomnode.demo.archive import CommitmentAnswer, Faults, ReportOn, StandInArchive, StoreFault
from dicomnode.destinations import Archive, Outcome, find_dicom_files
from dicomnode.destinations.commitment import parse_commitment_report
from dicomnode.errors import DestinationRefused, Unavailable
from dicomnode.imaging import derived_uid
from dicomnode.ledger.records import CommitmentReport
from tests.destination_contract import ct_series, ct_slices, has_more, threads_and_sockets, uids_of

SHORT_S = 1.0


def peer_at(port: int, ae_title: str = "ARCHIVE") -> Peer:
    return Peer(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port)


def archive_at(port: int, ae_title: str = "ARCHIVE", timeout_s: float = 10.0) -> Archive:
    return Archive(Destination(name="archive", peer="pacs", timeout_s=timeout_s), peer_at(port, ae_title), "DICOMNODE")


@contextmanager
def standing_in(folder: Path, **faults: Any) -> Generator[StandInArchive]:
    with StandInArchive(folder / "kept", "ARCHIVE", faults=Faults(**faults)) as archive:
        yield archive


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Generator[None]:
    before = threads_and_sockets()
    yield
    deadline = time.monotonic() + 10
    while has_more(threads_and_sockets(), before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not has_more(threads_and_sockets(), before)


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110, 0x0213])
def test_an_archive_in_trouble_is_unavailable_and_the_status_is_named(tmp_path: Path, status: int) -> None:
    with (
        standing_in(tmp_path, store=StoreFault.STATUS, status=status) as archive,
        pytest.raises(Unavailable, match=f"0x{status:04X}"),
    ):
        archive_at(archive.port).store(ct_series(tmp_path, "full"))


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0124, 0x0117])
def test_a_refused_instance_is_a_permanent_error_and_the_status_is_named(tmp_path: Path, status: int) -> None:
    with (
        standing_in(tmp_path, store=StoreFault.STATUS, status=status) as archive,
        pytest.raises(DestinationRefused, match=f"0x{status:04X}"),
    ):
        archive_at(archive.port).store(ct_series(tmp_path, "refused"))


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_kept_and_told_from_success(tmp_path: Path, status: int) -> None:
    with standing_in(tmp_path, store=StoreFault.STATUS, status=status, times=1) as archive:
        first, second = archive_at(archive.port).store(ct_series(tmp_path, "warned", slices=2))
        assert len(archive.kept()) == 2
    assert (first.outcome, first.status) == (Outcome.STORED_WITH_WARNING, status)
    assert (second.outcome, second.status) == (Outcome.STORED, 0)


def test_one_refused_instance_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    with standing_in(tmp_path, store=StoreFault.STATUS, status=0xC000, after=1, times=1) as archive:
        answers = archive_at(archive.port).send(ct_series(tmp_path, "one", slices=3))
        assert len(archive.kept()) == 2
    assert [answer.outcome for answer in answers] == [Outcome.STORED, Outcome.REFUSED, Outcome.STORED]


@pytest.mark.parametrize("fault", [StoreFault.SILENT, StoreFault.ABORTED])
def test_what_was_not_answered_is_sent_again_on_a_new_association(tmp_path: Path, fault: StoreFault) -> None:
    paths = ct_series(tmp_path, "resent", slices=6)
    progress: list[tuple[int, int]] = []
    with standing_in(tmp_path, store=fault, after=3, times=1) as archive:
        answers = archive_at(archive.port, timeout_s=3.0).send(paths, lambda done, of: progress.append((done, of)))
        assert [kept.sop_instance_uid for kept in archive.kept()] != []
        assert {kept.sop_instance_uid for kept in archive.kept()} == set(uids_of(paths))
        assert archive.stores == 7  # one of them twice
    assert all(answer.kept for answer in answers)
    assert progress == [(done, 6) for done in range(1, 7)]


def test_an_archive_that_always_aborts_is_unavailable_after_three_associations(tmp_path: Path) -> None:
    with standing_in(tmp_path, store=StoreFault.ABORTED) as archive:
        with pytest.raises(Unavailable, match="3 associations in a row brought no answer"):
            archive_at(archive.port).store(ct_series(tmp_path, "aborted", slices=1))
        assert archive.stores == 3


def test_an_archive_that_never_answers_is_unavailable_in_bounded_time(tmp_path: Path) -> None:
    with standing_in(tmp_path, store=StoreFault.SILENT) as archive:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            archive_at(archive.port, timeout_s=SHORT_S).store(ct_series(tmp_path, "silent", slices=1))
        assert time.monotonic() - began < 3 * SHORT_S + 15


def test_one_instance_that_is_never_answered_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    poison = ct_slices("poison", slices=1)[0]
    poison.SOPInstanceUID = poison.file_meta.MediaStorageSOPInstanceUID = UID(POISON)
    poison.save_as(tmp_path / "poison.dcm", enforce_file_format=True)
    with ArchiveThatChokes(tmp_path / "kept", "ARCHIVE") as archive:
        answers = archive_at(archive.port).send([tmp_path / "poison.dcm", *ct_series(tmp_path, "healthy", slices=3)])
        assert len(archive.kept()) == 3
    assert [answer.outcome for answer in answers] == [Outcome.UNANSWERED, *[Outcome.STORED] * 3]


POISON = derived_uid("poison")


class ArchiveThatChokes(StandInArchive):
    """Aborts whenever one particular instance comes."""

    def _on_store(self, event: Event) -> int:
        request: Any = event.request
        self.faults = Faults(StoreFault.ABORTED if request.AffectedSOPInstanceUID == POISON else StoreFault.NONE)
        return super()._on_store(event)


def test_a_wrong_ae_title_is_named_and_may_be_set_right_later(tmp_path: Path) -> None:
    with (
        standing_in(tmp_path) as archive,
        pytest.raises(Unavailable, match=r"rejected.*called ae title not recognised.*check both AE titles") as caught,
    ):
        archive_at(archive.port, ae_title="OTHER").store(ct_series(tmp_path, "rejected"))
    assert "DICOMNODE" in str(caught.value)


def test_an_object_kind_that_the_archive_does_not_take_is_refused_by_name(tmp_path: Path) -> None:
    odd = ct_slices("odd", slices=1)[0]
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = UID("1.2.3.4.5")
    odd.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
    with standing_in(tmp_path) as archive:
        with pytest.raises(DestinationRefused, match=r"1\.2\.3\.4\.5"):
            archive_at(archive.port).store([tmp_path / "odd.dcm"])
        answers = archive_at(archive.port).send([tmp_path / "odd.dcm", *ct_series(tmp_path, "even", slices=1)])
    assert [answer.outcome for answer in answers] == [Outcome.REFUSED, Outcome.STORED]
    assert "Explicit VR Little Endian" in answers[0].sentence


def test_an_archive_that_takes_implicit_vr_only_gets_the_same_pixels(tmp_path: Path) -> None:
    path = ct_series(tmp_path, "implicit", slices=1)[0]
    with standing_in(tmp_path, syntaxes=(ImplicitVRLittleEndian,)) as archive:
        assert archive_at(archive.port).store([path])[0].kept
        kept = archive.kept()[0]
    assert kept.transfer_syntax_uid == ImplicitVRLittleEndian
    assert np.array_equal(dcmread(kept.path).pixel_array, dcmread(path).pixel_array)


def test_the_files_own_transfer_syntax_is_preferred(tmp_path: Path) -> None:
    with standing_in(tmp_path) as archive:
        archive_at(archive.port).store(ct_series(tmp_path, "explicit", slices=1))
        assert archive.kept()[0].transfer_syntax_uid == ExplicitVRLittleEndian


def test_a_peer_that_connects_and_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer to the association request"):
            archive_at(mute.getsockname()[1], timeout_s=SHORT_S).store(ct_series(tmp_path, "mute"))
        assert time.monotonic() - began < 15


def test_a_host_that_is_not_known_is_unavailable(tmp_path: Path) -> None:
    peer = Peer(name="pacs", ae_title="ARCHIVE", host="nowhere.invalid", port=104)
    archive = Archive(Destination(name="archive", peer="pacs", timeout_s=SHORT_S), peer, "DICOMNODE")
    with pytest.raises(Unavailable, match=r"nowhere\.invalid"):
        archive.store(ct_series(tmp_path, "nowhere"))


def test_a_peer_that_stops_reading_in_the_middle_is_given_up_in_time(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "frozen", slices=1, pixels=2048)  # 8 MB: more than the sockets hold
    with standing_in(tmp_path) as archive, freezing_proxy(archive.port, after_bytes=1 << 20) as port:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            archive_at(port, timeout_s=SHORT_S).store(paths)
        assert time.monotonic() - began < 20
        assert archive.kept() == ()


@contextmanager
def freezing_proxy(target: int, after_bytes: int) -> Generator[int]:
    """Passes bytes on to `target` until so many have gone, then reads no more and keeps the line open."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def carry(source: socket.socket, sink: socket.socket, limit: int) -> None:
        with suppress(OSError):
            while limit > 0 and (piece := source.recv(min(65536, limit))):
                sink.sendall(piece)
                limit -= len(piece)
            over.wait()

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", target))
                lines.extend([near, far])
                threads.append(threading.Thread(target=carry, args=(near, far, after_bytes)))
                threads.append(threading.Thread(target=carry, args=(far, near, 1 << 60)))
                threads[-2].start()
                threads[-1].start()

    lines: list[socket.socket] = []
    server = socket.create_server(("127.0.0.1", 0))
    acceptor = threading.Thread(target=serve, args=(server,))
    acceptor.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join()
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for line in lines:
            line.close()


def test_an_echo_tells_a_peer_that_is_there_from_one_that_is_not(tmp_path: Path) -> None:
    with standing_in(tmp_path) as archive:
        port = archive.port
        archive_at(port).echo()
    with pytest.raises(Unavailable, match="no connection"):
        archive_at(port).echo()


@pytest.mark.parametrize("counts", [True, False])
def test_the_archive_is_asked_how_many_instances_a_series_has(tmp_path: Path, counts: bool) -> None:
    paths = ct_series(tmp_path, "counted", slices=4)
    header = dcmread(paths[0], stop_before_pixels=True)
    with standing_in(tmp_path, counts=counts) as archive:
        archive_at(archive.port).store([*paths, *ct_series(tmp_path, "another", slices=2)])
        count = archive_at(archive.port).count_instances(header.StudyInstanceUID, header.SeriesInstanceUID)
        unknown = archive_at(archive.port).count_instances(header.StudyInstanceUID, derived_uid("unknown"))
    assert count == 4
    assert unknown is None


def test_a_peer_that_offers_no_queries_cannot_say_how_many(tmp_path: Path) -> None:
    with listening(CommitmentListener()) as listener:
        assert archive_at(listener.port, "DICOMNODE").count_instances("1.2.3", "1.2.3.4") is None


def test_an_archive_that_dropped_an_instance_does_not_commit_it(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "dropped", slices=1)
    with StandInArchive(
        tmp_path / "kept",
        "ARCHIVE",
        report_on=ReportOn.SAME_ASSOCIATION,
        faults=Faults(StoreFault.DROPPED),
    ) as archive:
        assert archive_at(archive.port).store(paths)[0].kept
        report = archive_at(archive.port).request_commitment("2.25.1", [(CTImageStorage, uids_of(paths)[0])], 5.0)
    assert report == CommitmentReport("2.25.1", (), ((uids_of(paths)[0], 0x0112),))


def test_a_commitment_that_is_never_reported_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    with standing_in(tmp_path, commitment=CommitmentAnswer.NONE) as archive:
        began = time.monotonic()
        assert archive_at(archive.port).request_commitment("2.25.1", [(CTImageStorage, "1.2.3")], 0.2) is None
        assert time.monotonic() - began < 5


def test_a_report_may_take_longer_than_any_single_answer(tmp_path: Path) -> None:
    uid = derived_uid("late")
    with ArchiveThatThinks(tmp_path / "kept", "ARCHIVE", report_on=ReportOn.SAME_ASSOCIATION) as archive:
        report = archive_at(archive.port, timeout_s=SHORT_S).request_commitment("2.25.2", [(CTImageStorage, uid)], 20.0)
    assert report == CommitmentReport("2.25.2", (), ((uid, 0x0112),))


class ArchiveThatThinks(StandInArchive):
    """Looks for two seconds before it reports."""

    def _same_association(self, event: Event) -> Callable[[Dataset, int], None]:
        send = super()._same_association(event)

        def think_and_send(report: Dataset, event_type: int) -> None:
            self._stopping.wait(2 * SHORT_S)
            send(report, event_type)

        return think_and_send


def test_a_peer_without_storage_commitment_refuses_the_request_by_name(tmp_path: Path) -> None:
    with (
        AcceptOnlyEcho() as port,
        pytest.raises(DestinationRefused, match="Storage Commitment Push Model"),
    ):
        archive_at(port).request_commitment("2.25.1", [(CTImageStorage, "1.2.3")], 0.2)


class AcceptOnlyEcho:
    """A peer that offers C-ECHO and nothing else."""

    def __enter__(self) -> int:
        ae = AE("ARCHIVE")
        ae.add_supported_context("1.2.840.10008.1.1")
        self.server: Any = ae.start_server(("127.0.0.1", 0), block=False)
        return int(self.server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class CommitmentListener:
    """What the node's listener does with reports, as small as it can be."""

    reports: list[CommitmentReport] = field(default_factory=list[CommitmentReport])
    arrived: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def take(self, event: Event) -> tuple[int, None]:
        self.reports.append(parse_commitment_report(event.event_information))
        self.arrived.set()
        return 0x0000, None


@contextmanager
def listening(listener: CommitmentListener, port: int = 0) -> Generator[CommitmentListener]:
    ae = AE("DICOMNODE")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server: Any = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, listener.take)]
    )
    listener.port = int(server.server_address[1])
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", [CommitmentAnswer.TRUE, CommitmentAnswer.FAILED])
def test_a_report_on_a_new_association_reaches_our_listener(tmp_path: Path, answer: CommitmentAnswer) -> None:
    paths = ct_series(tmp_path, "reported", slices=1)
    uid = uids_of(paths)[0]
    with standing_in(tmp_path, commitment=answer) as archive, listening(CommitmentListener()) as listener:
        archive.callers["DICOMNODE"] = ("127.0.0.1", listener.port)
        archive_at(archive.port).store(paths)
        assert archive_at(archive.port).request_commitment("2.25.7", [(CTImageStorage, uid)], 0.0) is None
        assert listener.arrived.wait(10)
    committed = answer is CommitmentAnswer.TRUE
    assert listener.reports == [
        CommitmentReport("2.25.7", (uid,) if committed else (), () if committed else ((uid, 0x0112),))
    ]


def test_the_stand_in_forwards_a_series_as_an_archive_routes_it(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "routed", slices=5)
    with standing_in(tmp_path) as sender, StandInArchive(tmp_path / "node", "DICOMNODE") as node:
        answers = sender.forward(paths, peer_at(node.port, "DICOMNODE"))
        received = node.wait_for(5, timeout_s=10, sop_class_uid=CTImageStorage)
    assert [kept.sop_instance_uid for kept in received] == uids_of(paths)
    assert all(answer.kept for answer in answers)


def test_dicom_files_are_found_among_others(tmp_path: Path) -> None:
    paths = ct_series(tmp_path, "found", slices=2)
    paths.append(paths[0].rename(paths[0].with_name("IM0001")))
    (tmp_path / "found" / "notes.txt").write_text("not an image")
    (tmp_path / "found" / "cut.dcm").write_bytes(paths[1].read_bytes()[:140])
    assert find_dicom_files([tmp_path]) == sorted(paths[1:])


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"nothing-here: cannot be read \(No such file"):
        find_dicom_files([tmp_path / "nothing-here"])
