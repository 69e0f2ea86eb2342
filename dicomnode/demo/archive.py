"""A small archive to show and test the node with: keeps what it is sent, finds, commits, and fails on request.

It believes every caller and belongs on a loopback address only.
"""

import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Self, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # pyright: ignore[reportAttributeAccessIssue]
    StorageCommitmentPushModelInstance,  # pyright: ignore[reportAttributeAccessIssue]
    StudyRootQueryRetrieveInformationModelFind,  # pyright: ignore[reportAttributeAccessIssue]
    Verification,  # pyright: ignore[reportAttributeAccessIssue]
)
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from dicomnode.config import Destination, Peer
from dicomnode.destinations.archive import Archive, Progress
from dicomnode.destinations.folder import write_atomically
from dicomnode.destinations.port import Stored
from dicomnode.imaging import is_acceptable_uid

_SYNTAXES = [str(uid) for uid in AllTransferSyntaxes if uid != DeflatedExplicitVRLittleEndian]
_MAX_PDU_BYTES = 1 << 20
_NO_SUCH_INSTANCE = 0x0112
_COMMITTED, _PARTLY_FAILED = 1, 2  # PS3.4 J.3.3: Event Type IDs
_REPORT_TIMEOUT_S = 10.0
_POLL_S = 0.05


class StoreFault(Enum):
    """How a C-STORE goes wrong."""

    NONE = "none"
    STATUS = "status"  # answered with `Faults.status`; kept only if that is a warning
    DROPPED = "dropped"  # answered with success and thrown away
    SILENT = "silent"  # never answered
    ABORTED = "aborted"  # the association is aborted instead of an answer


class CommitmentAnswer(Enum):
    """What a storage commitment request leads to."""

    TRUE = "true"  # a report of what is kept and what is not
    NONE = "none"  # no report, ever
    FAILED = "failed"  # a report that says that nothing is kept


class ReportOn(Enum):
    """Where the commitment report goes."""

    NEW_ASSOCIATION = "new"  # as Orthanc does: to the requestor's configured address
    SAME_ASSOCIATION = "same"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong: with `times` C-STOREs after the first `after`, with commitments, and with counts."""

    store: StoreFault = StoreFault.NONE
    status: int = 0x0000
    after: int = 0
    times: int = 1 << 62
    commitment: CommitmentAnswer = CommitmentAnswer.TRUE
    counts: bool = True  # C-FIND returns NumberOfSeriesRelatedInstances
    syntaxes: tuple[str, ...] = ()  # the only transfer syntaxes accepted; empty: all but deflated


@dataclass(frozen=True, slots=True)
class Kept:
    """One instance in the archive's folder."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    path: Path


class _Server(ThreadedAssociationServer):
    """What `AE.start_server` makes, except that its loop may look for the end more often than twice a second."""

    def shutdown(self) -> None:
        TCPServer.shutdown(self)
        self.server_close()


class StandInArchive:
    """An archive in this process; `with StandInArchive(folder, "ARCHIVE") as archive:` starts and stops it.

    `callers` gives the address at which an AE title listens for commitment reports.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str,
        port: int = 0,
        callers: Mapping[str, tuple[str, int]] | None = None,
        report_on: ReportOn = ReportOn.NEW_ASSOCIATION,
        faults: Faults | None = None,
    ) -> None:
        self.ae_title = ae_title
        self.callers: dict[str, tuple[str, int]] = dict(callers or {})
        self.faults = faults or Faults()
        self._folder, self._wanted_port, self._report_on = folder, port, report_on
        self._kept: dict[str, Kept] = {}
        self._stores = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._reports: list[threading.Thread] = []
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on; only while it runs."""
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def stores(self) -> int:
        """How many C-STORE requests have come, whatever became of them."""
        return self._stores

    def start(self) -> None:
        """Listen on the loopback address."""
        ae = AE(self.ae_title)
        ae.require_called_aet = True
        ae.maximum_pdu_size = _MAX_PDU_BYTES
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), list(self.faults.syntaxes) or _SYNTAXES)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [
            (evt.EVT_CONN_OPEN, _answer_at_once),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_commitment_request),
        ]
        address = ("127.0.0.1", self._wanted_port)
        server = cast("_Server", ae.make_server(address, evt_handlers=list(handlers), server_class=_Server))
        self._server = server
        loop = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name=self.ae_title, daemon=True)
        loop.start()

    def stop(self) -> None:
        """End every association and stop listening."""
        self._stopping.set()
        if self._server is None:
            return
        associations = self._server.active_associations
        self._server.shutdown()
        for thread in [*associations, *self._reports]:
            thread.join(_REPORT_TIMEOUT_S)
        self._server = None

    def kept(self, sop_class_uid: str = "") -> tuple[Kept, ...]:
        """What it has, in the order of arrival; of one SOP class if given."""
        with self._changed:
            return tuple(k for k in self._kept.values() if sop_class_uid in {"", k.sop_class_uid})

    def wait_for(self, instances: int, timeout_s: float, sop_class_uid: str = "") -> tuple[Kept, ...]:
        """Wait until it has so many instances (of one SOP class if given), at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.kept(sop_class_uid)) >= instances, timeout_s)
        return self.kept(sop_class_uid)

    def forward(self, paths: Sequence[Path], node: Peer, on_progress: Progress | None = None) -> tuple[Stored, ...]:
        """Send files to a node as an archive does that routes a series automatically.

        Raises:
            Unavailable: the node is not reached or does not answer.
        """
        destination = Destination(name="node", peer=node.name)
        return Archive(destination, node, self.ae_title).send(paths, on_progress)

    def _on_store(self, event: Event) -> int:
        self._stores += 1
        struck = self.faults.after < self._stores <= self.faults.after + self.faults.times
        match self.faults.store if struck else StoreFault.NONE:
            case StoreFault.NONE:
                return self._keep(event)
            case StoreFault.STATUS:
                if _is_warning(self.faults.status):
                    self._keep(event)
                return self.faults.status
            case StoreFault.DROPPED:
                return 0x0000
            case StoreFault.SILENT:
                self._wait_for_the_caller_to_leave(event.assoc)
                return 0x0000
            case StoreFault.ABORTED:
                event.assoc.abort()
                return 0x0000

    def _keep(self, event: Event) -> int:
        content = event.encoded_dataset()
        header = dcmread(
            BytesIO(content), stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
        )
        request = cast("C_STORE", event.request)
        uid = str(request.AffectedSOPInstanceUID)
        if not is_acceptable_uid(uid):
            return 0xA900
        path = self._folder / f"{uid}.dcm"
        write_atomically(path, content)
        sop_class, syntax = str(request.AffectedSOPClassUID), str(event.context.transfer_syntax)
        series, study = str(header.get("SeriesInstanceUID", "")), str(header.get("StudyInstanceUID", ""))
        with self._changed:
            self._kept[uid] = Kept(uid, sop_class, series, study, syntax, path)
            self._changed.notify_all()
        return 0x0000

    def _wait_for_the_caller_to_leave(self, association: Association) -> None:
        while association.is_established and not self._stopping.wait(0.02):
            if not association.dul.is_alive() or association.acse.is_aborted():
                return

    def _on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        of_series = [k for k in self.kept() if k.series_instance_uid == query.get("SeriesInstanceUID")]
        if query.QueryRetrieveLevel == "SERIES" and of_series:
            yield 0xFF00, self._series_match(query, len(of_series))
        if query.QueryRetrieveLevel == "IMAGE":
            for kept in of_series:
                yield 0xFF00, _match(query, {"SOPInstanceUID": kept.sop_instance_uid})

    def _series_match(self, query: Dataset, instances: int) -> Dataset:
        return _match(query, {"NumberOfSeriesRelatedInstances": instances} if self.faults.counts else {})

    def _on_commitment_request(self, event: Event) -> tuple[int, None]:
        if self.faults.commitment is CommitmentAnswer.NONE:
            return 0x0000, None
        report, event_type = self._report(event.action_information)
        send = (
            self._same_association(event)
            if self._report_on is ReportOn.SAME_ASSOCIATION
            else self._new_association(event)
        )
        # A report may only follow the answer to the request, which goes out when this handler has returned.
        self._reports.append(threading.Thread(target=send, args=(report, event_type), daemon=True))
        self._reports[-1].start()
        return 0x0000, None

    def _report(self, request: Dataset) -> tuple[Dataset, int]:
        """The report on a commitment request and its Event Type ID (PS3.4 J.3.3.1)."""
        kept: list[Dataset] = []
        failed: list[Dataset] = []
        for reference in request.ReferencedSOPSequence:
            item = Dataset()
            item.ReferencedSOPClassUID = reference.ReferencedSOPClassUID
            item.ReferencedSOPInstanceUID = reference.ReferencedSOPInstanceUID
            if self._vouches_for(str(reference.ReferencedSOPInstanceUID)):
                kept.append(item)
            else:
                item.FailureReason = _NO_SUCH_INSTANCE
                failed.append(item)
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        if kept:
            report.ReferencedSOPSequence = kept
        if failed:
            report.FailedSOPSequence = failed
        return report, _PARTLY_FAILED if failed else _COMMITTED

    def _vouches_for(self, sop_instance_uid: str) -> bool:
        with self._changed:
            return self.faults.commitment is CommitmentAnswer.TRUE and sop_instance_uid in self._kept

    def _same_association(self, event: Event) -> Callable[[Dataset, int], None]:
        def send(report: Dataset, event_type: int) -> None:
            _send_report(event.assoc, report, event_type)

        return send

    def _new_association(self, event: Event) -> Callable[[Dataset, int], None]:
        caller = event.assoc.requestor.ae_title.strip()

        def send(report: Dataset, event_type: int) -> None:
            if caller not in self.callers:
                return  # an archive that does not know the caller's address cannot report
            with _calling(self.ae_title, caller, self.callers[caller]) as association:
                if association.is_established:
                    _send_report(association, report, event_type)

        return send


@contextmanager
def _calling(our_ae_title: str, ae_title: str, address: tuple[str, int]) -> Generator[Association]:
    """An association in which we, its requestor, are the SCP of storage commitment (PS3.4 J.3.3)."""
    ae = AE(our_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = _REPORT_TIMEOUT_S
    ae.add_requested_context(StorageCommitmentPushModel, ExplicitVRLittleEndian)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = ae.associate(*address, ae_title=ae_title, ext_neg=[role])
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _send_report(association: Association, report: Dataset, event_type: int) -> None:
    try:
        association.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError):
        return  # the caller has left, or does not take the role: it will ask again


def _answer_at_once(event: Event) -> None:
    connection = cast("AssociationSocket", event.assoc.dul.socket).socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_warning(status: int) -> bool:
    return status >> 12 == 0xB


def _match(query: Dataset, values: Mapping[str, str | int]) -> Dataset:
    match = Dataset()
    match.QueryRetrieveLevel = query.QueryRetrieveLevel
    match.StudyInstanceUID = query.get("StudyInstanceUID", "")
    match.SeriesInstanceUID = query.get("SeriesInstanceUID", "")
    for keyword, value in values.items():
        setattr(match, keyword, value)
    return match
