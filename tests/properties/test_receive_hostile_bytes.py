"""Whatever bytes a peer sends, parsers answer with a value or with their own error, in one pass over the bytes."""

import struct
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dicomnode.errors import Refused
from dicomnode.imaging import is_acceptable_uid
from dicomnode.receive import Spool
from dicomnode.receive.admission import Admission, Caller
from dicomnode.receive.commitment import parse_commitment_report
from dicomnode.receive.dimse import encode_response, parse_request
from dicomnode.receive.elements import UnreadableDataSet, elements, encoding_of, items
from dicomnode.receive.identity import read_identity
from dicomnode.receive.negotiation import negotiate
from dicomnode.receive.part10 import FileMeta, encode_file_head, parse_file_head
from dicomnode.receive.pdu import HEADER, PDV_HEADER, ProtocolError, encode_command, parse_associate_request
from dicomnode.receive.services import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.listening import ct_files, listening_config
from tests.raw_sender import associate_request, command_set

SYNTAXES = st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG])
UIDS = st.from_regex(r"[1-9][0-9]{0,8}(\.(0|[1-9][0-9]{0,6})){1,6}", fullmatch=True)
# Pieces that data sets are made of, so that random sequences of them get deep into the walk.
PIECES = st.sampled_from(
    [
        b"\x08\x00\x16\x00UI\x04\x001.2\0",
        b"\x08\x00\x18\x00UI\x04\x001.2\0",
        b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff",
        b"\x08\x00\x12\x21\xff\xff\xff\xff",
        b"\x08\x00\x12\x21SQ\0\0\x10\0\0\0",
        b"\x09\x00\x12\x21UN\0\0\xff\xff\xff\xff",
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x00\xe0\x08\0\0\0",
        b"\xfe\xff\x0d\xe0\0\0\0\0",
        b"\xfe\xff\xdd\xe0\0\0\0\0",
        b"\x20\x00\x0d\x00UI\x04\x001.2\0",
        b"\x20\x00\x0e\x00UI\x04\x001.2\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
    ]
)
BYTES = st.one_of(
    st.binary(max_size=300), st.lists(st.one_of(PIECES, st.binary(max_size=9)), max_size=40).map(b"".join)
)


@settings(max_examples=400)
@given(BYTES, SYNTAXES)
@example(b"\xff" * 64, IMPLICIT_LITTLE)
def test_an_identity_is_read_or_refused(raw: bytes, syntax: str) -> None:
    try:
        identity = read_identity(memoryview(raw), syntax)
    except UnreadableDataSet:
        return
    uids = (
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
    )
    assert all(is_acceptable_uid(uid) for uid in uids)


@settings(max_examples=400)
@given(BYTES, SYNTAXES)
def test_the_walk_moves_forward_and_stays_inside_the_bytes(raw: bytes, syntax: str) -> None:
    view = memoryview(raw)
    encoding = encoding_of(syntax)
    seen = 0
    try:
        for _, value in elements(view, encoding):
            seen += 8 + len(value)
            assert seen <= len(raw)
    except UnreadableDataSet:
        pass
    inside = 0
    try:
        for item in items(view, encoding):
            inside += 8 + len(item)
            assert inside <= len(raw)
    except UnreadableDataSet:
        pass


@settings(max_examples=300)
@given(BYTES, SYNTAXES)
def test_a_commitment_report_is_read_or_refused(raw: bytes, syntax: str) -> None:
    try:
        report = parse_commitment_report(memoryview(raw), syntax)
    except UnreadableDataSet:
        return
    assert all(is_acceptable_uid(uid) for uid in (report.transaction_uid, *report.committed, *dict(report.failed)))


@settings(max_examples=300)
@given(st.data())
def test_an_associate_request_that_was_tampered_with_is_judged_or_refused(data: st.DataObject) -> None:
    body = bytearray(associate_request()[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    try:
        request = parse_associate_request(bytes(body))
        _, acceptance = negotiate(request, 65536, may_store=True)
    except ProtocolError:
        return
    assert HEADER.unpack_from(acceptance)[1] == len(acceptance) - 6
    judged = Admission(listening_config(Path("spool"))).judge(request, "127.0.0.1")
    assert isinstance(judged, Caller) == (
        request.calling_ae_title == "SENDER"
        and request.called_ae_title == "NODE"
        and request.application_context == "1.2.840.10008.3.1.1.1"
        and request.protocol_version % 2 == 1
    )


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_command_set_are_read_or_refused(raw: bytes) -> None:
    try:
        request = parse_request(raw)
    except ProtocolError:
        return
    assert encode_response(request, 0)


@given(UIDS, UIDS, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.text(max_size=80))
def test_a_response_says_what_was_asked_and_stays_parseable(
    sop_class: str, instance: str, message_id: int, status: int, comment: str
) -> None:
    raw = command_set(
        (0x0002, sop_class.encode() + b"\0" * (len(sop_class) % 2)),
        (0x0100, b"\x01\x00"),
        (0x0110, struct.pack("<H", message_id)),
        (0x0800, b"\x01\x00"),
        (0x1000, instance.encode() + b"\0" * (len(instance) % 2)),
    )
    request = parse_request(raw)
    assert (request.sop_class_uid, request.sop_instance_uid) == (sop_class, instance)
    found: dict[int, bytes] = {}
    response, place = encode_response(request, status, comment), 0
    while place < len(response):
        group, number, length = struct.unpack_from("<HHL", response, place)
        assert (group, length % 2) == (0, 0)
        found[number] = response[place + 8 : place + 8 + length]
        place += 8 + length
    assert place == len(response)
    assert list(found) == sorted(found)
    assert found[0x0100] == b"\x01\x80"
    assert found[0x0120] == struct.pack("<H", message_id)
    assert found[0x0900] == struct.pack("<H", status)
    assert len(found.get(0x0902, b"")) <= 64


@given(st.binary(min_size=1, max_size=500), st.integers(7, 600))
def test_an_answer_is_cut_to_what_the_peer_takes_and_comes_together_again(command: bytes, max_pdu_bytes: int) -> None:
    raw, place, pieces, last = encode_command(3, command, max_pdu_bytes), 0, list[bytes](), list[bool]()
    while place < len(raw):
        kind, length = HEADER.unpack_from(raw, place)
        assert (kind, length <= max_pdu_bytes) == (4, True)
        value_bytes, context_id, control = PDV_HEADER.unpack_from(raw, place + 6)
        assert (value_bytes, context_id, control & 1) == (length - 4, 3, 1)
        pieces.append(raw[place + 12 : place + 6 + length])
        last.append(bool(control & 2))
        place += 6 + length
    assert b"".join(pieces) == command
    assert last == [False] * (len(last) - 1) + [True]


@given(UIDS, UIDS, st.binary(max_size=50))
def test_a_file_head_says_again_what_it_was_made_of(sop_class: str, instance: str, data_set: bytes) -> None:
    meta = FileMeta(sop_class, instance, EXPLICIT_LITTLE)
    raw = encode_file_head(meta) + data_set
    found, start = parse_file_head(memoryview(raw))
    assert (found, raw[start:]) == (meta, data_set)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_file_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(UnreadableDataSet):
        parse_file_head(memoryview(bytes(128) + b"DICM" + raw[:11] if len(raw) % 2 else raw))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_spool_keeps_exactly_what_it_acknowledged_however_the_data_set_was_harmed(
    tmp_path: Path, data: st.DataObject
) -> None:
    spool = Spool(tmp_path / "spool", 0)
    spool.prepare()
    file = ct_files(tmp_path, "harmed", slices=1, pixels=4)[0]
    raw = bytearray(file.data_set)
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    before = {i.path for i in spool.walk()}
    incoming = spool.begin(FileMeta(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid))
    incoming.write(memoryview(raw))
    kept: set[Path] = set()
    with suppress(Refused):
        kept.add(incoming.keep(datetime(2026, 1, 1, tzinfo=UTC), "SENDER").path)
    assert all((spool.root / path).read_bytes().endswith(bytes(raw)) for path in kept)
    assert {i.path for i in spool.walk()} == before | kept
    assert list((spool.root / "incoming").iterdir()) == []
