"""Who may call: the peers of node.toml, each from its own hosts and for its own purposes."""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dicomnode.config import Config, Peer
from dicomnode.log import Log
from dicomnode.receive.pdu import DICOM_APPLICATION_CONTEXT, AssociateRequest, Rejection

_log = Log("receive.admission")
_PERMANENT, _TRANSIENT = 1, 2
_USER, _ACSE, _PRESENTATION = 1, 2, 3

# PS3.8 table 9-21
APPLICATION_CONTEXT_UNKNOWN = Rejection(_PERMANENT, _USER, 2, "expected the DICOM application context")
CALLING_UNKNOWN = Rejection(_PERMANENT, _USER, 3, "calling AE title is not one of [[peers]] that may call us")
HOST_UNKNOWN = Rejection(_PERMANENT, _USER, 3, "calling AE title is known, but not from this host")
CALLED_UNKNOWN = Rejection(_PERMANENT, _USER, 7, "called AE title is not ours")
PROTOCOL_UNKNOWN = Rejection(_PERMANENT, _ACSE, 2, "expected protocol version 1")
LIMIT_EXCEEDED = Rejection(_TRANSIENT, _PRESENTATION, 2, "as many associations as limits.max_associations allows")


def resolve_host(host: str) -> frozenset[str]:
    """Every address of a host, an address or a network (10.1.0.0/24) as it stands; empty when unknown now."""
    if "/" in host:
        return frozenset({host})
    try:
        return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError as error:
        _log.warning("host of a peer cannot be resolved", host=host, error=str(error))
        return frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """What an admitted peer may do besides C-ECHO and reporting storage commitments."""

    may_store: bool


class Admission:
    """Decides who gets an association; host names are resolved at each call, so a moved peer stays welcome."""

    def __init__(self, config: Config, resolve: Callable[[str], Iterable[str]] = resolve_host) -> None:
        committing = {d.peer for d in config.destinations if d.kind == "archive" and d.commitment}
        # An archive that only receives from us still calls to report commitments (PS3.4 J.3.3).
        self._callers = tuple(p for p in config.peers if p.may_send or p.name in committing)
        self._ae_title = config.node.ae_title
        self._resolve = resolve

    def judge(self, request: AssociateRequest, host: str) -> Caller | Rejection:
        """The caller's rights, or why the association is rejected."""
        if not request.protocol_version & 1:
            return PROTOCOL_UNKNOWN
        if request.application_context != DICOM_APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_UNKNOWN
        if request.called_ae_title != self._ae_title:
            return CALLED_UNKNOWN
        named = [p for p in self._callers if p.ae_title == request.calling_ae_title]
        if not named:
            return CALLING_UNKNOWN
        present = [p for p in named if self._may_call_from(p, host)]
        return Caller(may_store=any(p.may_send for p in present)) if present else HOST_UNKNOWN

    def _may_call_from(self, peer: Peer, host: str) -> bool:
        address = _plain_address(host)
        return any(_contains(known, address) for name in _hosts(peer) for known in self._resolve(name))


def _hosts(peer: Peer) -> Sequence[str]:
    return peer.allowed_hosts or (peer.host,)


def _plain_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _contains(known: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(known.partition("%")[0], strict=False)
    except ValueError:
        _log.warning("expected an address, a network or a name among a peer's hosts", host=known)
        return False
