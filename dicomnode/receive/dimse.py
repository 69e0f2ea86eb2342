"""Command sets of DIMSE messages: bytes -> values and back (PS3.7 section 6.3: always implicit little endian)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from dicomnode.receive.pdu import ProtocolError

MAX_COMMAND_BYTES = 1 << 14  # a C-STORE-RQ has about 150
_ELEMENT = struct.Struct("<HHL")
_NO_DATA_SET = 0x0101
_MAX_COMMENT = 64  # LO


class Command(IntEnum):
    """The requests that concern us (PS3.7 annex E); a response has bit 15 set."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    C_CANCEL = 0x0FFF


class Status(IntEnum):
    """Statuses we answer with (PS3.7 annex C; C-STORE: PS3.4 table B.2-1)."""

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE = 0x0106
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT = 0x0115
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a peer, as its command set states it."""

    command: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    has_data_set: bool


def parse_request(command_set: bytes) -> Request:
    """A complete command set -> the request in it.

    Raises:
        ProtocolError: it is not a command set, or what every request has is missing.
    """
    values = _elements(command_set)
    command = _number(values, 0x0100)
    if command & 0x8000:
        raise ProtocolError(f"expected a request, found command {command:#06x}")
    return Request(
        command=command,
        message_id=_number(values, 0x0110 if command != Command.C_CANCEL else 0x0120),
        sop_class_uid=_text(values.get(0x0002, b"")),
        sop_instance_uid=_text(values.get(0x1000, b"")),
        event_type=_number(values, 0x1002) if 0x1002 in values else 0,
        has_data_set=_number(values, 0x0800) != _NO_DATA_SET,
    )


def encode_response(request: Request, status: int, comment: str = "") -> bytes:
    """The response to a request: a whole command set; `comment` is cut to what (0000,0902) takes."""
    elements = [(0x0002, _padded(request.sop_class_uid))] if request.sop_class_uid else []
    elements += [
        (0x0100, _short(request.command | 0x8000)),
        (0x0120, _short(request.message_id)),
        (0x0800, _short(_NO_DATA_SET)),
        (0x0900, _short(status)),
    ]
    if comment:
        elements.append((0x0902, _padded(comment[:_MAX_COMMENT], b" ")))
    if request.sop_instance_uid:
        elements.append((0x1000, _padded(request.sop_instance_uid)))
    if request.command == Command.N_EVENT_REPORT:
        elements.append((0x1002, _short(request.event_type)))
    return encode_command_set(elements)


def encode_command_set(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Elements of group 0000 in ascending order, with their group length in front."""
    body = b"".join(_ELEMENT.pack(0, number, len(value)) + value for number, value in elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _elements(command_set: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    start, end = 0, len(command_set)
    while start < end:
        if end - start < _ELEMENT.size:
            raise ProtocolError(f"expected a command element of at least 8 bytes, found {end - start}")
        group, number, length = _ELEMENT.unpack_from(command_set, start)
        start += _ELEMENT.size
        if group != 0 or length > end - start:
            raise ProtocolError(f"expected a command element within {end - start} bytes, found {group:04x} {length}")
        values[number] = command_set[start : start + length]
        start += length
    return values


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        raise ProtocolError(f"expected two bytes in command element (0000,{element:04x}), found {len(value)}")
    return int.from_bytes(value, "little")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "backslashreplace")


def _short(number: int) -> bytes:
    return struct.pack("<H", number)


def _padded(text: str, padding: bytes = b"\0") -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding if len(value) % 2 else value
