"""A DICOM sender on a bare socket: as fast as the receiver allows, and as rude as a test wants.

It builds PDUs itself (PS3.8 section 9.3), so nothing of the receiver under test vouches for itself.
"""

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
KINDS = {1: "RQ", 2: "AC", 3: "RJ", 4: "DATA", 5: "RELEASE-RQ", 6: "RELEASE-RP", 7: "ABORT"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One PDU that came back."""

    kind: str  # "AC", "RJ", ...; "CLOSED" when the connection ended instead
    body: bytes

    @property
    def reason(self) -> tuple[int, ...]:
        """Result, source, reason of a rejection; source and reason of an abort."""
        return tuple(self.body[1:4]) if self.kind == "RJ" else tuple(self.body[2:4])


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a C-STORE of one file needs."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes


class RawSender:
    """One connection to a receiver."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 20.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer_max = 16384
        self._message_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.socket.close()

    def associate(self, request: bytes | None = None) -> Answer:
        """Ask for an association (one CT context by default) and return the answer."""
        self.socket.sendall(associate_request() if request is None else request)
        answer = self.answer()
        if answer.kind == "AC":
            place = answer.body.rfind(struct.pack(">BBH", 0x51, 0, 4))
            self._peer_max = struct.unpack_from(">L", answer.body, place + 4)[0] or 1 << 18
        return answer

    def answer(self) -> Answer:
        """The next PDU from the receiver."""
        try:
            kind, length = struct.unpack(">BxL", self._exactly(6))
            return Answer(KINDS.get(kind, str(kind)), self._exactly(length))
        except (EOFError, ConnectionResetError):
            return Answer("CLOSED", b"")

    def _exactly(self, length: int) -> bytes:
        got = bytearray()
        while len(got) < length:
            piece = self.socket.recv(length - len(got))
            if not piece:
                raise EOFError
            got += piece
        return bytes(got)

    def store(self, file: StoredFile, context_id: int = 1) -> int:
        """C-STORE one file; returns the status."""
        self._message_id = self._message_id % 0xFFFF + 1
        command = store_command(file.sop_class_uid, file.sop_instance_uid, self._message_id)
        self._send_all([data_pdu(context_id, 3, command), *self._fragments(context_id, file.data_set)])
        return self.status()

    def status(self) -> int:
        """The status in the next response (0000,0900); -1 when something else than a response came."""
        answer = self.answer()
        if answer.kind != "DATA":
            return -1
        return int.from_bytes(command_elements(answer.body[6:]).get(0x0900, b"\xff\xff"), "little")

    def _fragments(self, context_id: int, data_set: bytes) -> list[bytes | memoryview]:
        room = self._peer_max - 6
        parts: list[bytes | memoryview] = []
        view = memoryview(data_set)
        for start in range(0, max(len(view), 1), room):
            piece = view[start : start + room]
            control = 2 if start + room >= len(view) else 0
            parts += [struct.pack(">BxLLBB", 4, len(piece) + 6, len(piece) + 2, context_id, control), piece]
        return parts

    def _send_all(self, parts: Sequence[bytes | memoryview]) -> None:
        total = sum(map(len, parts))
        sent = self.socket.sendmsg(parts[:1000])
        if sent < total:
            self.socket.sendall(b"".join(parts)[sent:])

    def release(self) -> Answer:
        """End the association in order."""
        self.socket.sendall(bytes.fromhex("050000000004 00000000"))
        return self.answer()


def item(item_type: int, value: bytes) -> bytes:
    """One item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", item_type, len(value)) + value


def context(context_id: int, abstract: str, *transfers: str) -> bytes:
    """One proposed presentation context."""
    syntaxes = b"".join(item(0x40, t.encode()) for t in transfers or (EXPLICIT_LITTLE,))
    return item(0x20, bytes([context_id, 0, 0, 0]) + item(0x30, abstract.encode()) + syntaxes)


def associate_request(
    calling: str = "SENDER",
    called: str = "NODE",
    contexts: Sequence[bytes] = (),
    user_items: bytes = item(0x51, struct.pack(">L", 65536)) + item(0x52, b"1.2.3"),
) -> bytes:
    """A whole A-ASSOCIATE-RQ."""
    body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts or [context(1, CT)]) + item(0x50, user_items)
    return struct.pack(">BxL", 1, len(body)) + body


def data_pdu(context_id: int, control: int, value: bytes) -> bytes:
    """A P-DATA-TF with one value; control bit 0: command, bit 1: last fragment."""
    return struct.pack(">BxLLBB", 4, len(value) + 6, len(value) + 2, context_id, control) + value


def command_set(*elements: tuple[int, bytes]) -> bytes:
    """Elements of group 0000 with their group length."""
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def command_elements(raw: bytes) -> dict[int, bytes]:
    """A command set -> value by element number."""
    values: dict[int, bytes] = {}
    while raw:
        number, length = struct.unpack_from("<2xHL", raw)
        values[number], raw = raw[8 : 8 + length], raw[8 + length :]
    return values


def store_command(sop_class_uid: str, sop_instance_uid: str, message_id: int = 1) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command_set(
        (0x0002, padded(sop_class_uid)),
        (0x0100, b"\x01\x00"),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, b"\x00\x00"),
        (0x0800, b"\x01\x00"),
        (0x1000, padded(sop_instance_uid)),
    )


def padded(uid: str) -> bytes:
    """A UID of even length."""
    return uid.encode() + b"\0" * (len(uid) % 2)


def read_file(path: Path) -> StoredFile:
    """A DICOM file, with its data set as it stands in it."""
    raw = path.read_bytes()
    start = 144 + struct.unpack_from("<L", raw, 140)[0]
    return StoredFile(*(_meta_uid(raw[132:start], element) for element in (2, 3, 0x10)), data_set=raw[start:])


def _meta_uid(meta: bytes, element: int) -> str:
    place = meta.find(struct.pack("<HH2s", 2, element, b"UI"))
    length = struct.unpack_from("<H", meta, place + 6)[0]
    return meta[place + 8 : place + 8 + length].rstrip(b"\0").decode()


def send_files(port: int, files: Iterable[StoredFile], calling: str = "SENDER", called: str = "NODE") -> float:
    """Send CT files (explicit little endian) on one association; returns the seconds from first byte to last answer.

    The files should be in memory already: what is measured is the receiver.
    """
    with RawSender(port) as sender:
        accepted = sender.associate(associate_request(calling, called))
        assert accepted.kind == "AC", accepted
        started = time.perf_counter()
        statuses = [sender.store(file) for file in files]
        seconds = time.perf_counter() - started
        assert sender.release().kind == "RELEASE-RP"
    assert not any(statuses), f"expected success for all, found {sorted(set(statuses))}"
    return seconds
