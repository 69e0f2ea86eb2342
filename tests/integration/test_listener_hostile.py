"""What a hostile or broken peer gets: the right refusal, in time, and nobody else notices."""

import os
import resource
import struct
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.receive import Outcome
from dicomnode.receive.dimse import MAX_COMMAND_BYTES
from dicomnode.receive.listener import SPARE_CONNECTIONS
from tests.listening import Node, connection_threads, ct_files, listening, listening_config, wait_until
from tests.raw_sender import (
    CT,
    VERIFICATION,
    RawSender,
    StoredFile,
    associate_request,
    command_set,
    context,
    data_pdu,
    send_files,
    store_command,
)

ECHO = command_set((0x0002, VERIFICATION.encode() + b"\0"), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))
LIMITS = {"association_timeout_s": 0.5, "idle_timeout_s": 5.0, "max_instance_bytes": 1 << 20, "max_pdu_bytes": 65536}


@pytest.fixture
def node(tmp_path: Path) -> Generator[Node]:
    with listening(listening_config(tmp_path, None, **LIMITS)) as node:
        yield node


@pytest.fixture
def file(tmp_path: Path) -> StoredFile:
    return ct_files(tmp_path, "one", slices=1)[0]


def assert_still_serves(node: Node, file: StoredFile) -> None:
    """A well-behaved peer is served as if nothing had happened, and nothing half-received is left."""
    send_files(node.port, [file])
    node.wait_for_threads()
    assert node.half_received() == []
    assert {i.sop_instance_uid for i in node.spool.walk()} == {file.sop_instance_uid}


@pytest.mark.parametrize(
    ("first_bytes", "abort"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", (2, 1)),
        (b"\xf7" * 2000, (2, 1)),
        (b"\x02" + associate_request()[1:], (2, 2)),
        (data_pdu(1, 3, ECHO), (2, 2)),
        (struct.pack(">BxL", 1, 0xFFFFFFFF), (2, 6)),
        (struct.pack(">BxL", 1, 20) + bytes(20), (2, 6)),
        (associate_request(contexts=[context(2, CT)]), (2, 6)),
        (associate_request(contexts=[context(1, CT), context(1, CT)]), (2, 6)),
        (associate_request(contexts=[context(1, "../../etc/passwd")]), (2, 6)),
        (associate_request(contexts=[context((2 * n + 1) % 256, CT) for n in range(129)]), (2, 6)),
        (associate_request(user_items=b"\x51\0\0\4\0\0\0\6"), (2, 6)),
    ],
)
def test_what_is_no_association_request_is_aborted_with_its_reason(
    node: Node, file: StoredFile, first_bytes: bytes, abort: tuple[int, int]
) -> None:
    with RawSender(node.port) as peer:
        answer = peer.associate(first_bytes)
        assert (answer.kind, answer.reason) == ("ABORT", abort)
    assert_still_serves(node, file)
    assert len(node.told.rejected) == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (associate_request(calling="EVIL"), (1, 1, 3)),
        (associate_request(called="OTHER"), (1, 1, 7)),
        (associate_request().replace(b"10008.3.1.1.1", b"10008.3.1.1.2"), (1, 1, 2)),
        (associate_request()[:6] + b"\0\2" + associate_request()[8:], (1, 2, 2)),
    ],
)
def test_an_association_is_rejected_with_result_source_and_reason(
    node: Node, file: StoredFile, request_: bytes, reason: tuple[int, int, int]
) -> None:
    with RawSender(node.port) as peer:
        answer = peer.associate(request_)
        assert (answer.kind, answer.reason) == ("RJ", reason)
        assert peer.answer().kind == "CLOSED"
    assert len(node.told.rejected) == 1
    assert_still_serves(node, file)


@pytest.mark.parametrize("start", [b"", associate_request()[:3], associate_request()[:100]])
def test_a_silent_caller_is_cut_off_in_time(node: Node, file: StoredFile, start: bytes) -> None:
    with RawSender(node.port) as peer:
        began = time.monotonic()
        peer.socket.sendall(start)
        assert peer.answer().kind == "CLOSED"
        assert 0.3 < time.monotonic() - began < 4
    assert_still_serves(node, file)


def test_a_caller_who_trickles_his_request_is_cut_off_in_time(node: Node, file: StoredFile) -> None:
    request, began = associate_request(), time.monotonic()
    with RawSender(node.port) as peer:
        try:
            for byte in request:
                peer.socket.sendall(bytes([byte]))
                time.sleep(0.02)  # the attack itself
        except OSError:
            pass
        assert time.monotonic() - began < 0.02 * len(request)
    assert_still_serves(node, file)


def test_a_peer_that_falls_silent_is_aborted_after_the_idle_time(tmp_path: Path, file: StoredFile) -> None:
    with listening(listening_config(tmp_path, idle_timeout_s=0.3)) as node:
        with RawSender(node.port) as peer:
            peer.associate()
            peer.socket.sendall(data_pdu(1, 3, store_command(CT, file.sop_instance_uid)) + data_pdu(1, 0, b"\0" * 100))
            assert peer.answer().kind == "ABORT"
        assert node.wait_for_end().outcome is Outcome.SILENT
        assert_still_serves(node, file)


@pytest.mark.parametrize(
    ("words", "abort"),
    [
        (associate_request(), (2, 2)),
        (b"\x06" + bytes(3) + b"\0\x04" + bytes(4), (2, 2)),
        (b"\x63" + bytes(5), (2, 1)),
        (struct.pack(">BxL", 4, 65537), (2, 6)),
        (struct.pack(">BxL", 4, 0xFFFFFFFF), (2, 6)),
        (struct.pack(">BxL", 4, 0), (2, 6)),
        (struct.pack(">BxL", 5, 1 << 20), (2, 6)),
        (struct.pack(">BxLLBB", 4, 6, 100, 1, 3), (2, 6)),
        (struct.pack(">BxLLBB", 4, 6, 1, 1, 3), (2, 6)),
        (struct.pack(">BxL", 4, 3) + b"abc", (2, 6)),
        (data_pdu(9, 3, ECHO), (2, 6)),
        (data_pdu(1, 3, b"garbage!"), (2, 6)),
        (data_pdu(1, 3, command_set((0x0100, b"\x01\x80"))), (2, 6)),
        (data_pdu(1, 2, b"data before any command"), (2, 2)),
        (data_pdu(1, 3, store_command(CT, "1.2.3")) * 2, (2, 2)),
        (data_pdu(1, 3, store_command(CT, "1.2.3")) + data_pdu(3, 0, b"x"), (2, 2)),
        (data_pdu(1, 3, store_command(CT, "1.2.3")) + b"\5\0\0\0\0\4\0\0\0\0", (2, 2)),
        (data_pdu(1, 1, bytes(9000)) * (MAX_COMMAND_BYTES // 9000 + 1), (2, 6)),
    ],
)
def test_a_broken_protocol_is_aborted_with_its_reason(
    node: Node, file: StoredFile, words: bytes, abort: tuple[int, int]
) -> None:
    with RawSender(node.port) as peer:
        assert peer.associate(associate_request(contexts=[context(1, CT), context(3, CT)])).kind == "AC"
        peer.socket.sendall(words)
        answer = peer.answer()
        assert (answer.kind, answer.reason) == ("ABORT", abort)
    end = node.wait_for_end()
    assert (end.outcome, end.instances) == (Outcome.BROKEN, 0)
    assert_still_serves(node, file)


def test_a_data_set_without_end_is_aborted_at_the_limit_and_leaves_nothing(node: Node, file: StoredFile) -> None:
    with RawSender(node.port) as peer:
        peer.associate()
        peer.socket.sendall(data_pdu(1, 3, store_command(CT, "1.2.3.4")))
        fragment, sent = data_pdu(1, 0, bytes(60_000)), 0
        try:
            while sent < 50 << 20:
                peer.socket.sendall(fragment)
                sent += len(fragment)
        except OSError:
            pass
        assert sent < 20 << 20
    end = node.wait_for_end()
    assert end.outcome is Outcome.BROKEN
    assert "limits.max_instance_bytes" in end.detail
    assert_still_serves(node, file)


def test_more_instances_than_an_association_may_bring_are_aborted_and_the_first_are_kept(tmp_path: Path) -> None:
    files = ct_files(tmp_path, "many", slices=4)
    with listening(listening_config(tmp_path, max_instances_per_association=3)) as node:
        with RawSender(node.port) as peer:
            peer.associate()
            assert [peer.store(f) for f in files[:3]] == [0, 0, 0]
            assert peer.store(files[3]) == -1
        assert "limits.max_instances_per_association" in node.wait_for_end().detail
        assert len(node.kept()) == 3


def test_associations_over_the_limit_are_rejected_for_now_and_accepted_when_one_has_ended(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path, max_associations=3)) as node:
        peers = [RawSender(node.port) for _ in range(5)]
        answers = [peer.associate() for peer in peers]
        assert [a.kind for a in answers] == ["AC"] * 3 + ["RJ"] * 2
        assert answers[3].reason == (2, 3, 2)
        peers[0].release()
        node.wait_for_end()
        with RawSender(node.port) as late:
            assert late.associate().kind == "AC"
        for peer in peers:
            peer.socket.close()


def test_a_flood_of_silent_connections_does_not_take_a_peers_place(tmp_path: Path, file: StoredFile) -> None:
    with listening(listening_config(tmp_path, max_associations=4, association_timeout_s=30.0)) as node:
        silent = [RawSender(node.port) for _ in range(30)]
        send_files(node.port, [file])
        for peer in silent:
            peer.socket.close()
        assert_still_serves(node, file)


def test_connections_beyond_all_bounds_are_closed_at_once(tmp_path: Path, file: StoredFile) -> None:
    with listening(listening_config(tmp_path, max_associations=1, association_timeout_s=30.0)) as node:
        peers = [RawSender(node.port) for _ in range(1 + SPARE_CONNECTIONS + 20)]
        allowed = 1 + SPARE_CONNECTIONS
        wait_until(lambda: len(connection_threads()) == allowed, "as many threads as connections are allowed")
        assert peers[-1].answer().kind == "CLOSED"
        for peer in peers:
            peer.socket.close()
        assert_still_serves(node, file)


@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "1.2.3/../4", "", "1" * 65, "1.2.3\\1.2.4"])
def test_a_uid_that_is_a_path_is_refused_and_the_association_goes_on(node: Node, file: StoredFile, uid: str) -> None:
    with RawSender(node.port) as peer:
        peer.associate()
        assert peer.store(replace(file, sop_instance_uid=uid)) == 0xC000
        assert peer.store(file) == 0
        peer.release()
    assert node.wait_for_end().refused == 1
    assert len(node.kept()) == 1


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        ({"sop_instance_uid": "1.2.3.4"}, 0xA900),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, 0x0122),
        ({"data_set": b""}, 0xC000),
        ({"data_set": b"not a data set at all, but long enough to look like one"}, 0xC000),
    ],
)
def test_an_instance_that_is_not_what_it_says_is_refused_and_leaves_nothing(
    node: Node, file: StoredFile, harm: dict[str, str], status: int
) -> None:
    with RawSender(node.port) as peer:
        peer.associate()
        assert peer.store(replace(file, **harm)) == status  # pyright: ignore[reportArgumentType]
        assert (node.kept(), node.half_received()) == ([], [])
        assert peer.store(file) == 0
        peer.release()
    node.wait_for_end()
    assert_still_serves(node, file)


def test_a_store_without_a_data_set_is_refused(node: Node) -> None:
    command = store_command(CT, "1.2.3").replace(
        struct.pack("<HHLH", 0, 0x0800, 2, 1), struct.pack("<HHLH", 0, 0x0800, 2, 0x0101)
    )
    with RawSender(node.port) as peer:
        peer.associate()
        peer.socket.sendall(data_pdu(1, 3, command))
        assert peer.status() == 0xC000


def test_an_operation_that_the_node_does_not_know_is_answered_so(node: Node) -> None:
    find = command_set((0x0002, CT.encode() + b"\0"), (0x0100, b"\x20\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))
    cancel = command_set((0x0100, b"\xff\x0f"), (0x0120, b"\1\0"), (0x0800, b"\1\1"))
    with RawSender(node.port) as peer:
        peer.associate()
        peer.socket.sendall(data_pdu(1, 3, cancel) + data_pdu(1, 3, find))
        assert peer.status() == 0x0211


def test_a_tiny_maximum_length_gets_its_answer_in_pieces(node: Node) -> None:
    with RawSender(node.port) as peer:
        peer.associate(associate_request(contexts=[context(1, VERIFICATION)], user_items=b"\x51\0\0\4\0\0\0\x20"))
        peer.socket.sendall(data_pdu(1, 3, ECHO))
        pieces = [peer.answer() for _ in range(3)]
        assert all(p.kind == "DATA" and len(p.body) <= 32 for p in pieces)
        whole = b"".join(p.body[6:] for p in pieces)
        assert whole.endswith(struct.pack("<HHLH", 0, 0x0900, 2, 0))


@pytest.mark.parametrize("farewell", [bytes.fromhex("07000000000400000000"), b"", b"reset"])
def test_a_transfer_that_stops_in_the_middle_leaves_nothing(node: Node, file: StoredFile, farewell: bytes) -> None:
    with RawSender(node.port) as peer:
        peer.associate()
        peer.socket.sendall(data_pdu(1, 3, store_command(CT, file.sop_instance_uid)))
        peer.socket.sendall(data_pdu(1, 0, file.data_set[:1000]))
        wait_until(lambda: len(node.half_received()) == 1, "the transfer to begin")
        if farewell == b"reset":
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close sends a reset
        else:
            peer.socket.sendall(farewell)
    assert node.wait_for_end().outcome is (Outcome.ABORTED if farewell[:1] == b"\7" else Outcome.LOST)
    assert (node.kept(), node.half_received()) == ([], [])
    assert_still_serves(node, file)


def test_an_index_that_is_down_does_not_hold_up_the_acknowledgement(node: Node, file: StoredFile) -> None:
    node.told.index_is_down = True
    send_files(node.port, [file])
    end = node.wait_for_end()
    assert (end.outcome, end.instances, node.told.received) == (Outcome.RELEASED, 1, [])
    assert [i.sop_instance_uid for i in node.spool.walk()] == [file.sop_instance_uid]


def test_a_full_disk_is_answered_a700_and_the_node_recovers_alone(node: Node, file: StoredFile, tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the write fails in the middle of an instance."""
    large = ct_files(tmp_path, "large", slices=1, pixels=512)[0]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RawSender(node.port) as peer:
        peer.associate()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            assert peer.store(large) == 0xA700
            assert (node.kept(), node.half_received()) == ([], [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [peer.store(large), peer.store(file)] == [0, 0]
        peer.release()
    assert len(node.kept()) == 2


def test_below_the_watermark_every_instance_is_answered_a700(tmp_path: Path, file: StoredFile) -> None:
    disk = os.statvfs(tmp_path)
    with (
        listening(listening_config(tmp_path), min_free_bytes=disk.f_blocks * disk.f_frsize + 1) as node,
        RawSender(node.port) as peer,
    ):
        peer.associate()
        assert [peer.store(file), peer.store(file)] == [0xA700, 0xA700]
        peer.release()
        assert node.wait_for_end().refused == 2
        assert node.kept() == []


def test_a_listener_that_stops_cuts_open_associations_and_frees_its_port(tmp_path: Path, file: StoredFile) -> None:
    config = listening_config(tmp_path)
    with listening(config) as node:
        peer = RawSender(node.port)
        peer.associate()
        assert peer.store(file) == 0
        began = time.monotonic()
        node.listener.stop(grace_s=0.1)
        assert time.monotonic() - began < 5
        assert peer.answer().kind == "CLOSED"
        peer.socket.close()
        with pytest.raises(OSError, match="refused"):
            RawSender(node.port)
    assert node.told.ended[-1].outcome is Outcome.LOST
    assert len(node.kept()) == 1
