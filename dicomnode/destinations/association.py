"""One outgoing association that always ends: in time, with its threads and its socket.

pynetdicom's requestor waits without limit in several places and its polling thread can take an answer away
from whoever waits for it; what is done about it is here, so that `archive` only speaks DIMSE.
"""

import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AssociationSocket

from dicomnode.config import Peer
from dicomnode.errors import DestinationRefused, Unavailable

# Files are sent as they lie on disk, in pieces, instead of being decoded and encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True

_MAX_PDU_BYTES = 1 << 20  # what we accept; answers are small
_THREAD_END_S = 5.0
_RELEASE_S = 5.0  # every answer is in by then: no reason to wait long for a polite end
Handler = tuple[evt.EventType, Callable[[Event], Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """Who calls whom, and how long a single wait may take."""

    our_ae_title: str
    peer: Peer
    timeout_s: float

    @property
    def words(self) -> str:
        """The peer as an operator knows it."""
        return f"{self.peer.name} ({self.peer.ae_title} at {self.peer.host}:{self.peer.port})"


@contextmanager
def associated(
    line: Line,
    contexts: Sequence[PresentationContext],
    deadline_s: float,
    handlers: Sequence[Handler] = (),
) -> Generator[Association]:
    """An established association, released at the end; after `deadline_s` its connection is cut.

    Raises:
        Unavailable: no connection, no answer, rejected, aborted.
        DestinationRefused: the peer accepts none of `contexts`.
    """
    wire = _Wire(line.timeout_s, deadline_s)
    association = _call(line, contexts, [(evt.EVT_CONN_OPEN, wire.opened), *handlers])
    try:
        if not association.is_established:
            raise _why_not(line, association, contexts, connected=wire.was_opened)
        association.dimse.msg_queue = _Answers()
        yield association
        if association.is_established:
            association.acse_timeout = min(line.timeout_s, _RELEASE_S)
            association.release()
    finally:
        if association.is_established:
            association.abort()
        wire.cut()
        _await_threads(association)
        wire.close()


def context_for(sop_class_uid: str, transfer_syntaxes: Sequence[str]) -> PresentationContext:
    """One proposal: a SOP class and the transfer syntaxes among which the peer picks one."""
    return build_context(sop_class_uid, list(transfer_syntaxes))


class _Answers(Queue[Any]):
    """Messages for whoever waits for them.

    pynetdicom's polling thread looks here without waiting and drops every response that it finds, one in
    some thousand; the sender then waits for the whole DIMSE timeout. A requestor's polling thread has
    nothing to find: requests of the peer (N-EVENT-REPORT) go past the queue.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002  queue's signature
        if not block:
            raise Empty
        return super().get(block, timeout)


class _Wire:
    """The TCP connection below an association: no single wait and no whole call without an end."""

    def __init__(self, timeout_s: float, deadline_s: float) -> None:
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._deadline = threading.Timer(deadline_s, self._shut)
        self._deadline.daemon = True

    @property
    def was_opened(self) -> bool:
        return self._socket is not None

    def opened(self, event: Event) -> None:
        connection = cast(AssociationSocket, event.assoc.dul.socket).socket
        assert connection is not None  # EVT_CONN_OPEN is triggered with an open socket
        connection.settimeout(self._timeout_s)  # a peer that stops reading blocks a send otherwise for ever
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._deadline.start()

    def cut(self) -> None:
        self._deadline.cancel()
        self._shut()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._deadline.join(_THREAD_END_S)

    def _shut(self) -> None:
        if self._socket is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # already closed, by the peer or by pynetdicom


def _call(line: Line, contexts: Sequence[PresentationContext], handlers: Sequence[Handler]) -> Association:
    ae = AE(line.our_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = line.timeout_s
    ae.network_timeout = None  # an association may rest while a commitment report is awaited; `_Wire` ends it
    try:
        return ae.associate(
            line.peer.host,
            line.peer.port,
            contexts=list(contexts),
            ae_title=line.peer.ae_title,
            max_pdu=_MAX_PDU_BYTES,
            evt_handlers=list(handlers),
        )
    except OSError as error:  # the host's name is not known, or no socket is left
        raise Unavailable(f"{line.words}: cannot be called ({error})") from error


def _why_not(
    line: Line, association: Association, contexts: Sequence[PresentationContext], *, connected: bool
) -> Unavailable | DestinationRefused:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return _rejection(line, answer.result_str, answer.reason_str)
    if answer is not None and answer.result == 0:
        names = sorted({context.abstract_syntax.name for context in contexts if context.abstract_syntax})
        return DestinationRefused(f"{line.words} accepts none of: {', '.join(names)}")
    if connected:
        return Unavailable(
            f"{line.words}: no answer to the association request within {line.timeout_s:g} s, or aborted"
        )
    return Unavailable(f"{line.words}: no connection (waited up to {line.timeout_s:g} s); is it running there?")


def _rejection(line: Line, result: str, reason: str) -> Unavailable:
    # Also a permanent rejection is worth waiting for: it is the archive's configuration that says no, not
    # to this result but to us, and once a person has changed it there everything waiting must leave.
    return Unavailable(
        f"{line.words}: association of {line.our_ae_title} {result.lower()}, {reason.lower()}; "
        f"check both AE titles and whether the archive knows {line.our_ae_title}"
    )


def _await_threads(association: Association) -> None:
    for thread in (association, association.dul):
        if thread.ident is not None:
            thread.join(_THREAD_END_S)
