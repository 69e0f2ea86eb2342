"""DIMSE messages: what becomes of a request, its data set and its answer (PS3.7 section 9 and 10)."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from dicomnode.config import Limits
from dicomnode.errors import Refused
from dicomnode.ledger.records import ReceivedInstance
from dicomnode.log import Log
from dicomnode.receive.commitment import MAX_REPORT_BYTES, parse_commitment_report
from dicomnode.receive.dimse import Command, Request, Status, encode_response
from dicomnode.receive.elements import UnreadableDataSet
from dicomnode.receive.events import Events
from dicomnode.receive.negotiation import Context
from dicomnode.receive.part10 import FileMeta
from dicomnode.receive.pdu import AbortReason, ProtocolError
from dicomnode.receive.services import STORAGE_CLASSES, STORAGE_COMMITMENT
from dicomnode.receive.spool import IncomingInstance, Spool

_log = Log("receive")


class Message(Protocol):
    """One request being received; its data set comes in fragments."""

    def write(self, fragment: memoryview) -> None:
        """The next bytes of the data set."""
        ...

    def finish(self) -> bytes:
        """All has come: the response's command set; empty where none is due."""
        ...

    def after_answer(self) -> None:
        """The response is on its way."""
        ...

    def discard(self) -> None:
        """The rest will never come."""
        ...


class PlainAnswer:
    """A request that is answered whatever its data set says; the data set is thrown away."""

    def __init__(self, response: bytes) -> None:
        self._response = response

    def write(self, fragment: memoryview) -> None:
        """Forget it."""

    def finish(self) -> bytes:
        """The answer that stood from the beginning."""
        return self._response

    def after_answer(self) -> None:
        """Nothing follows."""

    def discard(self) -> None:
        """Nothing is kept."""


class Store:
    """A C-STORE request: its data set goes to the spool, the answer follows the disk."""

    def __init__(self, request: Request, context: Context, dialogue: "Dialogue") -> None:
        self._request = request
        self._dialogue = dialogue
        self._refusal: Refused | None = None
        self._incoming: IncomingInstance | None = None
        self._kept: ReceivedInstance | None = None
        meta = FileMeta(request.sop_class_uid, request.sop_instance_uid, context.transfer_syntax)
        try:
            self._incoming = self._begin(meta, context)
        except Refused as refusal:
            self._refusal = refusal

    def _begin(self, meta: FileMeta, context: Context) -> IncomingInstance:
        if meta.sop_class_uid != context.abstract_syntax or meta.sop_class_uid not in STORAGE_CLASSES:
            raise Refused("SOP class is not the presentation context's", Status.SOP_CLASS_NOT_SUPPORTED)
        if not self._request.has_data_set:
            raise Refused("a data set is expected", Status.CANNOT_UNDERSTAND)
        return self._dialogue.spool.begin(meta)

    def write(self, fragment: memoryview) -> None:
        """To the disk; once refused, the rest is only counted, since the peer looks for an answer at the end."""
        if self._incoming is None:
            return
        try:
            self._incoming.write(fragment)
        except Refused as refusal:
            self._refusal, self._incoming = refusal, None

    def finish(self) -> bytes:
        """Success once the instance is durable, else the refusal."""
        if self._incoming is not None:
            try:
                self._kept = self._incoming.keep(datetime.now(UTC), self._dialogue.calling_ae_title)
            except Refused as refusal:
                self._refusal = refusal
        if self._refusal is not None:
            return self._refuse(self._refusal)
        return encode_response(self._request, Status.SUCCESS)

    def _refuse(self, refusal: Refused) -> bytes:
        self._dialogue.refused += 1
        _log.warning(
            "instance refused",
            association=self._dialogue.number,
            calling=self._dialogue.calling_ae_title,
            sop_instance_uid=self._request.sop_instance_uid[:64],
            status=f"{refusal.status:#06x}",
            reason=str(refusal),
        )
        return encode_response(self._request, refusal.status, str(refusal))

    def after_answer(self) -> None:
        """Tell the index; it may lag, the spool does not."""
        if self._kept is not None:
            self._dialogue.note_kept(self._kept)

    def discard(self) -> None:
        """Remove what has been written."""
        if self._incoming is not None:
            self._incoming.discard()


class Report:
    """An N-EVENT-REPORT on a storage commitment (PS3.4 J.3.3)."""

    def __init__(self, request: Request, context: Context, events: Events) -> None:
        self._request = request
        self._transfer_syntax_uid = context.transfer_syntax
        self._events = events
        self._report = bytearray()

    def write(self, fragment: memoryview) -> None:
        """Keep it in memory, within bounds."""
        if len(self._report) + len(fragment) > MAX_REPORT_BYTES:
            raise ProtocolError(f"expected a report of at most {MAX_REPORT_BYTES} bytes, found more")
        self._report += fragment

    def finish(self) -> bytes:
        """Success once the node has taken note of the report."""
        if self._request.event_type not in (1, 2):
            return encode_response(self._request, Status.NO_SUCH_EVENT_TYPE)
        try:
            report = parse_commitment_report(memoryview(self._report), self._transfer_syntax_uid)
        except UnreadableDataSet as error:
            _log.warning("commitment report refused", reason=str(error))
            return encode_response(self._request, Status.INVALID_ARGUMENT, str(error))
        taken = self._events.commitment(report)
        return encode_response(self._request, Status.SUCCESS if taken else Status.PROCESSING_FAILURE)

    def after_answer(self) -> None:
        """Nothing follows."""

    def discard(self) -> None:
        """Nothing is on disk."""


class Dialogue:
    """One association's requests, and the count of what came of them."""

    def __init__(self, number: int, calling_ae_title: str, spool: Spool, events: Events, limits: Limits) -> None:
        self.number = number
        self.calling_ae_title = calling_ae_title
        self.spool = spool
        self.series_instance_uids: set[str] = set()
        self.instances = 0
        self.refused = 0
        self._events = events
        self._max_instances = limits.max_instances_per_association
        self._services: dict[int, Callable[[Request, Context], Message]] = {
            Command.C_ECHO: self._echo,
            Command.C_STORE: self._store,
            Command.N_EVENT_REPORT: self._report,
            Command.C_CANCEL: lambda _request, _context: PlainAnswer(b""),  # a hint about nothing we do
        }

    def begin(self, request: Request, context: Context) -> Message:
        """What will become of a request; an operation that we do not know is answered 0x0211.

        Raises:
            ProtocolError: the association has brought as many instances as it may.
        """
        service = self._services.get(request.command)
        if service is None:
            return PlainAnswer(encode_response(request, Status.UNRECOGNIZED_OPERATION))
        return service(request, context)

    def note_kept(self, instance: ReceivedInstance) -> None:
        """An instance of this association is durable and acknowledged."""
        self.instances += 1
        self.series_instance_uids.add(instance.series_instance_uid)
        self._events.received(instance, self.number)

    def _echo(self, request: Request, _context: Context) -> Message:
        return PlainAnswer(encode_response(request, Status.SUCCESS))

    def _store(self, request: Request, context: Context) -> Message:
        if self.instances + self.refused >= self._max_instances:
            message = f"expected at most {self._max_instances} instances (limits.max_instances_per_association)"
            raise ProtocolError(message, AbortReason.NOT_SPECIFIED)
        return Store(request, context, self)

    def _report(self, request: Request, context: Context) -> Message:
        if context.abstract_syntax != STORAGE_COMMITMENT:
            return PlainAnswer(encode_response(request, Status.SOP_CLASS_NOT_SUPPORTED))
        return Report(request, context, self._events)
