"""A C-STORE sender on a bare socket, so that a benchmark of the listener measures the listener."""

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dicomnode.destinations.files import read_dicom_file
from dicomnode.errors import NodeError
from dicomnode.receive.dimse import encode_command_set
from dicomnode.receive.pdu import (
    DICOM_APPLICATION_CONTEXT,
    HEADER,
    PDV_HEADER,
    PduType,
    encode_command,
    encode_item,
)

MAX_PDU_BYTES = 131072
TIMEOUT_S = 60.0
_META_START = 132  # preamble and "DICM"; (0002,0000) with its length comes first (PS3.10 7.1)
_ELEMENT = struct.Struct("<2xHL")  # of group 0000: number, length


@dataclass(frozen=True, slots=True)
class Loaded:
    """One file in memory: what a C-STORE of it needs."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes

    def under(self, number: int, *uids: str) -> "Loaded":
        """The same slice under another SOP Instance UID, and other UIDs in place of `uids`: copy 0 is itself."""
        data_set = self.data_set
        for uid in (self.sop_instance_uid, *uids):
            data_set = data_set.replace(uid.encode(), renamed(uid, number).encode())
        return replace(self, sop_instance_uid=renamed(self.sop_instance_uid, number), data_set=data_set)


@dataclass(frozen=True, slots=True)
class Sent:
    """How an association went, from the first byte of the first instance to the last answer."""

    seconds: float
    last_answer_at: datetime


def renamed(uid: str, number: int) -> str:
    """Another UID of the same length for each number; 0 gives the same UID."""
    return f"{uid[:-2]}{(int(uid[-2:]) + number) % 100:02d}"


def read_loaded(path: Path) -> Loaded:
    """A DICOM file with its data set as it stands in it."""
    meta, raw = read_dicom_file(path), path.read_bytes()
    start = _META_START + 12 + int(struct.unpack_from("<L", raw, _META_START + 8)[0])
    return Loaded(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, raw[start:])


def send_loaded(port: int, files: Sequence[Loaded], calling: str, called: str) -> Sent:
    """Send files of one SOP class and transfer syntax on one association, one answer awaited after the other.

    Raises:
        NodeError: the association or an instance is not accepted.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_associate_request(files[0], calling, called))
        _answer(connection, PduType.ASSOCIATE_AC)
        began = time.perf_counter()
        for number, file in enumerate(files):
            _store(connection, file, number % 0xFFFF + 1)
        sent = Sent(time.perf_counter() - began, datetime.now(UTC))
        connection.sendall(HEADER.pack(PduType.RELEASE_RQ, 4) + bytes(4))
        _answer(connection, PduType.RELEASE_RP)
    return sent


def _store(connection: socket.socket, file: Loaded, message_id: int) -> None:
    command = encode_command_set(
        [
            (0x0002, _even(file.sop_class_uid)),
            (0x0100, b"\x01\x00"),
            (0x0110, struct.pack("<H", message_id)),
            (0x0700, b"\x00\x00"),
            (0x0800, b"\x01\x00"),
            (0x1000, _even(file.sop_instance_uid)),
        ]
    )
    connection.sendall(b"".join([encode_command(1, command, MAX_PDU_BYTES), *_data_pdus(file.data_set)]))
    if status := _status(_answer(connection, PduType.DATA)[PDV_HEADER.size :]):
        raise NodeError(f"expected every instance to be accepted, found status {status:#06x}")


def _status(command_set: bytes) -> int:
    """Status (0000,0900) of a response."""
    start, number, length = 0, 0, 0
    while number != 0x0900:
        start += length
        number, length = _ELEMENT.unpack_from(command_set, start)
        start += _ELEMENT.size
    return int.from_bytes(command_set[start : start + length], "little")


def _data_pdus(data_set: bytes) -> list[bytes]:
    room, view = MAX_PDU_BYTES - PDV_HEADER.size, memoryview(data_set)
    pdus: list[bytes] = []
    for start in range(0, len(view), room):
        piece = view[start : start + room]
        last = 2 if start + room >= len(view) else 0
        header = HEADER.pack(PduType.DATA, len(piece) + PDV_HEADER.size)
        pdus += [header + PDV_HEADER.pack(len(piece) + 2, 1, last), bytes(piece)]
    return pdus


def _associate_request(file: Loaded, calling: str, called: str) -> bytes:
    """The A-ASSOCIATE-RQ with one presentation context (PS3.8 9.3.2)."""
    context = encode_item(0x30, file.sop_class_uid.encode()) + encode_item(0x40, file.transfer_syntax_uid.encode())
    user = encode_item(0x51, struct.pack(">L", MAX_PDU_BYTES)) + encode_item(0x52, b"2.25.1")
    body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += encode_item(0x10, DICOM_APPLICATION_CONTEXT.encode()) + encode_item(0x20, b"\1\0\0\0" + context)
    body += encode_item(0x50, user)
    return HEADER.pack(PduType.ASSOCIATE_RQ, len(body)) + body


def _answer(connection: socket.socket, expected: PduType) -> bytes:
    kind, length = HEADER.unpack(_exactly(connection, HEADER.size))
    body = _exactly(connection, length)
    if kind != expected:
        raise NodeError(f"expected PDU type {expected.value} from the listener, found {kind}")
    return body


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        piece = connection.recv(length - len(found))
        if not piece:
            raise NodeError(f"expected {length} bytes from the listener, found the end after {len(found)}")
        found += piece
    return bytes(found)


def _even(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
