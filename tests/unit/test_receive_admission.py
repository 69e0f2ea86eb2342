"""Who may call: titles, hosts, purposes, and the reason each refusal carries."""

from pathlib import Path

import pytest

from dicomnode.config import parse_config
from dicomnode.receive.admission import (
    APPLICATION_CONTEXT_UNKNOWN,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    HOST_UNKNOWN,
    PROTOCOL_UNKNOWN,
    Admission,
    Caller,
    resolve_host,
)
from dicomnode.receive.pdu import AssociateRequest, Rejection, parse_associate_request
from tests.listening import listening_config
from tests.raw_sender import associate_request


def asks(calling: str = "SENDER", called: str = "NODE") -> AssociateRequest:
    return parse_associate_request(associate_request(calling, called)[6:])


def verdict(host: str, *, peer: dict[str, object] | None = None, request: AssociateRequest | None = None) -> object:
    config = listening_config(Path("spool"), peer)
    return Admission(config, _addresses).judge(request or asks(), host)


def _addresses(host: str) -> list[str]:
    known = {"pacs.example": ["192.0.2.10", "2001:db8::10"], "unknown.example": []}
    return known.get(host, [host])


def test_a_peer_from_its_own_host_may_store() -> None:
    assert verdict("127.0.0.1") == Caller(may_store=True)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asks(calling="STRANGER"), CALLING_UNKNOWN),
        (asks(calling="sender"), CALLING_UNKNOWN),
        (asks(called="OTHERNODE"), CALLED_UNKNOWN),
    ],
)
def test_titles_are_compared_exactly(request_: AssociateRequest, expected: Rejection) -> None:
    assert verdict("127.0.0.1", request=request_) == expected


def test_titles_padded_with_spaces_are_the_same_titles() -> None:
    body = bytearray(associate_request()[6:])
    body[4:36] = b"  NODE".ljust(16) + b" SENDER ".ljust(16)
    assert verdict("127.0.0.1", request=parse_associate_request(bytes(body))) == Caller(may_store=True)


def test_a_known_title_from_elsewhere_is_rejected() -> None:
    assert verdict("127.0.0.2") == HOST_UNKNOWN


@pytest.mark.parametrize(
    ("hosts", "host", "welcome"),
    [
        (["pacs.example"], "192.0.2.10", True),
        (["pacs.example"], "2001:db8::10", True),
        (["pacs.example"], "::ffff:192.0.2.10", True),
        (["pacs.example"], "192.0.2.11", False),
        (["unknown.example"], "192.0.2.10", False),
        (["10.1.0.0/16", "192.0.2.7"], "10.1.200.3", True),
        (["10.1.0.0/16", "192.0.2.7"], "192.0.2.7", True),
        (["10.1.0.0/16", "192.0.2.7"], "10.2.0.1", False),
        (["10.2.0.0/99"], "10.2.0.1", False),
    ],
)
def test_allowed_hosts_are_names_addresses_or_networks_and_replace_the_peers_host(
    hosts: list[str], host: str, welcome: bool
) -> None:
    expected = Caller(may_store=True) if welcome else HOST_UNKNOWN
    assert verdict(host, peer={"allowed_hosts": hosts}) == expected
    assert verdict("127.0.0.1", peer={"allowed_hosts": hosts}) == HOST_UNKNOWN


def test_a_peer_that_may_not_send_is_rejected() -> None:
    assert verdict("127.0.0.1", peer={"may_send": False}) == CALLING_UNKNOWN


def test_an_archive_that_only_receives_may_call_to_report_commitments() -> None:
    document = {
        "node": {"ae_title": "NODE"},
        "peers": [{"name": "pacs", "ae_title": "SENDER", "host": "127.0.0.1", "port": 104, "may_send": False}],
        "destinations": [{"name": "home", "peer": "pacs"}],
    }
    assert Admission(parse_config(document, "test"), _addresses).judge(asks(), "127.0.0.1") == Caller(may_store=False)


def test_another_application_context_and_another_protocol_are_rejected_with_their_own_reasons() -> None:
    body = associate_request()[6:]
    other_context = body.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")
    assert verdict("127.0.0.1", request=parse_associate_request(other_context)) == APPLICATION_CONTEXT_UNKNOWN
    assert verdict("127.0.0.1", request=parse_associate_request(b"\0\2" + body[2:])) == PROTOCOL_UNKNOWN


def test_a_name_that_cannot_be_resolved_has_no_addresses() -> None:
    assert resolve_host("host.invalid") == frozenset()
    assert resolve_host("127.0.0.1") == {"127.0.0.1"}
