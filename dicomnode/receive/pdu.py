"""Protocol data units of the DICOM upper layer, acceptor's side: bytes -> values and back (PS3.8 section 9.3).

Parsing trusts no length: every one is checked against the bytes that are there.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from dicomnode.errors import NodeError

HEADER = struct.Struct(">BxL")  # type, reserved, length of what follows
PDV_HEADER = struct.Struct(">LBB")  # length, presentation context, control (PS3.8 annex E)
MAX_ASSOCIATE_BYTES = 1 << 18  # 128 contexts with every transfer syntax there is stay well below
_ITEM = struct.Struct(">BxH")
_MAX_UID_BYTES = 64


class PduType(IntEnum):
    """PS3.8 section 9.3.1."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason(IntEnum):
    """Why the provider aborts (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ContextResult(IntEnum):
    """The answer to one proposed presentation context (PS3.8 table 9-18)."""

    ACCEPTED = 0
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class ProtocolError(NodeError):
    """The peer broke the protocol; the association is aborted with `reason`."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is refused: result, source and reason of PS3.8 table 9-21, and a sentence for us."""

    result: int
    source: int
    reason: int
    sentence: str


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context that the peer proposes."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """Which roles the peer proposes to play for a SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """What a peer asks for in its A-ASSOCIATE-RQ."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_bytes: int  # what the peer is ready to receive; 0: no limit
    roles: tuple[RoleSelection, ...]
    titles_as_sent: bytes  # echoed in the answer


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """Our answer to one proposed presentation context."""

    context_id: int
    abstract_syntax: str
    result: ContextResult
    transfer_syntax: str


def parse_associate_request(body: bytes) -> AssociateRequest:
    """The variable part of an A-ASSOCIATE-RQ (PS3.8 table 9-11) -> what the peer asks for.

    Raises:
        ProtocolError: a length, a UID or an identifier is impossible.
    """
    if len(body) < 68:
        raise ProtocolError(f"expected at least 68 bytes of A-ASSOCIATE-RQ, found {len(body)}")
    application_context, contexts, user = "", list[ProposedContext](), (0, tuple[RoleSelection, ...]())
    for item_type, value in _items(body, 68):
        if item_type == 0x10:
            application_context = _uid(value)
        elif item_type == 0x20:
            contexts.append(_proposed_context(value))
        elif item_type == 0x50:
            user = _user_information(value)
    _require_distinct([c.context_id for c in contexts])
    return AssociateRequest(
        protocol_version=struct.unpack_from(">H", body)[0],
        called_ae_title=_ae_title(body[4:20]),
        calling_ae_title=_ae_title(body[20:36]),
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu_bytes=user[0],
        roles=user[1],
        titles_as_sent=body[4:68],
    )


def encode_associate_accept(
    request: AssociateRequest, answers: Sequence[ContextAnswer], user_items: Sequence[bytes]
) -> bytes:
    """The A-ASSOCIATE-AC (PS3.8 table 9-17); the application context is the one of the DICOM standard."""
    items = [encode_item(0x10, DICOM_APPLICATION_CONTEXT.encode())]
    for answer in answers:
        syntax = encode_item(0x40, answer.transfer_syntax.encode())
        items.append(encode_item(0x21, struct.pack(">BBBB", answer.context_id, 0, answer.result, 0) + syntax))
    items.append(encode_item(0x50, b"".join(user_items)))
    body = struct.pack(">HH", 1, 0) + request.titles_as_sent + b"".join(items)
    return HEADER.pack(PduType.ASSOCIATE_AC, len(body)) + body


def encode_item(item_type: int, value: bytes) -> bytes:
    """One item or sub-item: type, reserved, two bytes of length, value."""
    return _ITEM.pack(item_type, len(value)) + value


def encode_rejection(rejection: Rejection) -> bytes:
    """The A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return HEADER.pack(PduType.ASSOCIATE_RJ, 4) + bytes([0, rejection.result, rejection.source, rejection.reason])


def encode_abort(reason: AbortReason) -> bytes:
    """The A-ABORT of the service provider (PS3.8 table 9-26)."""
    return HEADER.pack(PduType.ABORT, 4) + bytes([0, 0, 2, reason])


RELEASE_RESPONSE = HEADER.pack(PduType.RELEASE_RP, 4) + bytes(4)
DICOM_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1


def encode_command(context_id: int, command: bytes, max_pdu_bytes: int) -> bytes:
    """A whole command set as P-DATA-TF PDUs no longer than the peer allows (0: no limit), ready for one write."""
    room = max_pdu_bytes - PDV_HEADER.size if max_pdu_bytes else len(command)
    if room < 1:
        raise ProtocolError(f"expected a maximum PDU length above {PDV_HEADER.size}, found {max_pdu_bytes}")
    pdus: list[bytes] = []
    for start in range(0, len(command), room):
        piece = command[start : start + room]
        control = 3 if start + room >= len(command) else 1  # bit 0: command, bit 1: last fragment
        header = HEADER.pack(PduType.DATA, len(piece) + PDV_HEADER.size)
        pdus.append(header + PDV_HEADER.pack(len(piece) + 2, context_id, control) + piece)
    return b"".join(pdus)


def _items(body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    while start < len(body):
        if start + _ITEM.size > len(body):
            raise ProtocolError(f"expected an item header of 4 bytes, found {len(body) - start}")
        item_type, length = _ITEM.unpack_from(body, start)
        start += _ITEM.size
        if start + length > len(body):
            raise ProtocolError(f"expected an item of {length} bytes, found {len(body) - start}")
        yield item_type, body[start : start + length]
        start += length


def _proposed_context(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError(f"expected at least 4 bytes of presentation context, found {len(value)}")
    abstract, transfers = "", list[str]()
    for item_type, uid in _items(value, 4):
        if item_type == 0x30:
            abstract = _uid(uid)
        elif item_type == 0x40:
            transfers.append(_uid(uid))
    return ProposedContext(value[0], abstract, tuple(transfers))


def _user_information(value: bytes) -> tuple[int, tuple[RoleSelection, ...]]:
    max_pdu_bytes, roles = 0, list[RoleSelection]()
    for item_type, content in _items(value, 0):
        if item_type == 0x51:
            if len(content) != 4:
                raise ProtocolError(f"expected 4 bytes of maximum length, found {len(content)}")
            max_pdu_bytes = struct.unpack(">L", content)[0]
        elif item_type == 0x54:
            roles.append(_role_selection(content))
    return max_pdu_bytes, tuple(roles)


def _role_selection(content: bytes) -> RoleSelection:
    length = int.from_bytes(content[:2], "big")
    if len(content) != length + 4:
        raise ProtocolError(f"expected {length + 4} bytes of role selection, found {len(content)}")
    return RoleSelection(_uid(content[2 : 2 + length]), bool(content[-2]), bool(content[-1]))


def encode_role_selection(role: RoleSelection) -> bytes:
    """The role selection sub-item (PS3.7 D.3.3.4)."""
    uid = role.sop_class_uid.encode()
    return encode_item(0x54, len(uid).to_bytes(2, "big") + uid + bytes([role.scu, role.scp]))


def _require_distinct(context_ids: list[int]) -> None:
    if len(set(context_ids)) != len(context_ids) or any(i % 2 == 0 for i in context_ids):
        raise ProtocolError("expected odd presentation context identifiers, each once (PS3.8 table 9-13)")


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ")
    if len(text) > _MAX_UID_BYTES or text.strip(b"0123456789."):
        raise ProtocolError(f"expected a UID of digits and dots with at most 64 characters, found {len(value)} bytes")
    return text.decode("ascii")


def _ae_title(value: bytes) -> str:
    return value.strip(b" \0").decode("ascii", "backslashreplace")
