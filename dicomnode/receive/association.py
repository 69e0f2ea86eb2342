"""One accepted association, from its first P-DATA to its end (PS3.8 section 9.2, states 6 to 13)."""

import time
from collections.abc import Mapping

from dicomnode.config import Limits
from dicomnode.receive.dimse import MAX_COMMAND_BYTES, parse_request
from dicomnode.receive.events import Outcome
from dicomnode.receive.messages import Dialogue, Message
from dicomnode.receive.negotiation import Agreement, Context
from dicomnode.receive.pdu import (
    HEADER,
    MAX_ASSOCIATE_BYTES,
    PDV_HEADER,
    RELEASE_RESPONSE,
    AbortReason,
    AssociateRequest,
    PduType,
    ProtocolError,
    encode_command,
    parse_associate_request,
)
from dicomnode.receive.wire import Wire

_COMMAND, _LAST = 1, 2  # bits of a fragment's control header (PS3.8 E.2)


def read_associate_request(wire: Wire, timeout_s: float) -> AssociateRequest:
    """The first PDU of a connection, all of it within `timeout_s` (the ARTIM timer of PS3.8 9.1.5).

    Raises:
        ProtocolError: it is something else, or too long.
        PeerGone: it does not come in time.
    """
    deadline_s = time.monotonic() + timeout_s
    header = bytearray(HEADER.size)
    wire.read_until(memoryview(header), deadline_s)
    kind, length = HEADER.unpack(header)
    if kind != PduType.ASSOCIATE_RQ:
        raise ProtocolError(f"expected A-ASSOCIATE-RQ first, found PDU type {kind}", _unexpected(kind))
    if length > MAX_ASSOCIATE_BYTES:
        raise ProtocolError(f"expected at most {MAX_ASSOCIATE_BYTES} bytes of A-ASSOCIATE-RQ, found {length}")
    body = bytearray(length)
    wire.read_until(memoryview(body), deadline_s)
    return parse_associate_request(bytes(body))


class Association:
    """Reads P-DATA into one buffer of the agreed size and hands each fragment on from there: memory is constant."""

    def __init__(self, wire: Wire, agreement: Agreement, dialogue: Dialogue, limits: Limits) -> None:
        self._wire = wire
        self._contexts: Mapping[int, Context] = agreement.contexts
        self._peer_max_pdu_bytes = agreement.peer_max_pdu_bytes
        self._dialogue = dialogue
        self._max_message_bytes = limits.max_instance_bytes
        self._header = memoryview(bytearray(HEADER.size))
        self._buffer = memoryview(bytearray(limits.max_pdu_bytes))
        self._command = bytearray()
        self._message: Message | None = None
        self._message_bytes = 0
        self._context_id = 0  # of the message being received

    def run(self) -> Outcome:
        """Serve the peer until it releases or aborts.

        Raises:
            ProtocolError: it broke the protocol or a limit; nothing of an unfinished message is kept.
            PeerGone: the connection ended or fell silent; likewise.
        """
        try:
            while True:
                self._wire.read_into(self._header)
                kind, length = HEADER.unpack(self._header)
                if kind == PduType.DATA:
                    self._take(self._read_body(length))
                elif kind in (PduType.RELEASE_RQ, PduType.ABORT):
                    return self._end(kind, length)
                else:
                    raise ProtocolError(f"expected P-DATA, release or abort, found PDU type {kind}", _unexpected(kind))
        finally:
            if self._message is not None:
                self._message.discard()

    def _read_body(self, length: int) -> memoryview:
        if not 0 < length <= len(self._buffer):
            raise ProtocolError(f"expected a PDU of 1 to {len(self._buffer)} bytes, found {length}")
        body = self._buffer[:length]
        self._wire.read_into(body)
        return body

    def _end(self, kind: int, length: int) -> Outcome:
        if length != 4:
            raise ProtocolError(f"expected 4 bytes of release or abort, found {length}")
        self._read_body(length)
        if kind == PduType.ABORT:
            return Outcome.ABORTED
        if self._message is not None or self._command:
            raise ProtocolError("expected the rest of a message, found a release", AbortReason.UNEXPECTED_PDU)
        self._wire.write(RELEASE_RESPONSE)
        return Outcome.RELEASED

    def _take(self, body: memoryview) -> None:
        """Each presentation data value of one P-DATA-TF (PS3.8 9.3.5.1)."""
        start = 0
        while start < len(body):
            if len(body) - start < PDV_HEADER.size:
                raise ProtocolError(f"expected a data value of at least 6 bytes, found {len(body) - start}")
            length, context_id, control = PDV_HEADER.unpack_from(body, start)
            end = start + 4 + length
            if length < 2 or end > len(body):
                raise ProtocolError(f"expected a data value of 2 to {len(body) - start - 4} bytes, found {length}")
            fragment = body[start + PDV_HEADER.size : end]
            if control & _COMMAND:
                self._take_command(context_id, fragment, last=bool(control & _LAST))
            else:
                self._take_data(context_id, fragment, last=bool(control & _LAST))
            start = end

    def _take_command(self, context_id: int, fragment: memoryview, *, last: bool) -> None:
        if self._message is not None or (self._command and context_id != self._context_id):
            raise ProtocolError("expected the rest of a message, found another command", AbortReason.UNEXPECTED_PDU)
        if len(self._command) + len(fragment) > MAX_COMMAND_BYTES:
            raise ProtocolError(f"expected a command set of at most {MAX_COMMAND_BYTES} bytes, found more")
        context = self._contexts.get(context_id)
        if context is None:
            raise ProtocolError(f"expected an accepted presentation context, found {context_id}")
        self._context_id = context_id
        self._command += fragment
        if last:
            request = parse_request(bytes(self._command))
            self._command.clear()
            self._message, self._message_bytes = self._dialogue.begin(request, context), 0
            if not request.has_data_set:
                self._answer(self._message)

    def _take_data(self, context_id: int, fragment: memoryview, *, last: bool) -> None:
        if self._message is None or context_id != self._context_id:
            raise ProtocolError("expected a command before its data set, found a data set", AbortReason.UNEXPECTED_PDU)
        self._message_bytes += len(fragment)
        if self._message_bytes > self._max_message_bytes:
            limit = f"expected a data set of at most {self._max_message_bytes} bytes (limits.max_instance_bytes)"
            raise ProtocolError(limit, AbortReason.NOT_SPECIFIED)
        self._message.write(fragment)
        if last:
            self._answer(self._message)

    def _answer(self, message: Message) -> None:
        response = message.finish()
        self._message = None
        if response:
            self._wire.write(encode_command(self._context_id, response, self._peer_max_pdu_bytes))
        message.after_answer()


def _unexpected(kind: int) -> AbortReason:
    known = PduType.ASSOCIATE_RQ <= kind <= PduType.ABORT
    return AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
