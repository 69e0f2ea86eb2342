"""The listener: accepts associations, one thread each, and tells the node what they brought.

It never decodes pixels and imports nothing that does; killed at any instant it leaves whole files in the spool
and, in `incoming`, nothing that the next start does not remove.
"""

import errno
import itertools
import socket
import threading
import time

from dicomnode.config import Config
from dicomnode.errors import ConfigError, Unavailable
from dicomnode.log import Log
from dicomnode.receive.admission import LIMIT_EXCEEDED, Admission, Caller
from dicomnode.receive.association import Association, read_associate_request
from dicomnode.receive.events import AssociationEnd, Events, Outcome, RejectedCall
from dicomnode.receive.messages import Dialogue
from dicomnode.receive.negotiation import negotiate
from dicomnode.receive.pdu import (
    AbortReason,
    AssociateRequest,
    ProtocolError,
    Rejection,
    encode_abort,
    encode_rejection,
)
from dicomnode.receive.spool import Spool
from dicomnode.receive.wire import PeerGone, PeerSilent, Wire

_log = Log("receive.listener")
_BACKLOG = 128
SPARE_CONNECTIONS = 256  # that have not asked for an association yet, beyond limits.max_associations
_ACCEPT_RETRY_S = 0.2


class Listener:
    """A DICOM acceptor on one port: C-STORE, C-ECHO, storage commitment reports."""

    def __init__(self, config: Config, spool: Spool, events: Events, port: int | None = None) -> None:
        """`port` overrides the configuration's; 0 takes any free one (see `port`)."""
        self._address = (config.node.bind, config.node.port if port is None else port)
        self._limits = config.limits
        self._admission = Admission(config)
        self._spool = spool
        self._events = events
        self._socket: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[int, tuple[Wire, threading.Thread]] = {}
        self._associations: set[int] = set()
        self._numbers = itertools.count(1)

    @property
    def port(self) -> int:
        """The port that is listened on; known once started."""
        return self._address[1]

    def start(self) -> None:
        """Clean the spool's incoming folder, bind, and accept in the background.

        Raises:
            ConfigError: the address cannot be bound; Unavailable: another program has it now.
            Unavailable: the spool cannot be written.
        """
        abandoned = self._spool.prepare()
        self._socket = _bound_socket(*self._address)
        self._address = (self._address[0], self._socket.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, args=(self._socket,), name="accept", daemon=True)
        self._acceptor.start()
        _log.info("listening", host=self._address[0], port=self.port, abandoned_files=abandoned)

    def stop(self, grace_s: float = 5.0) -> None:
        """Accept nobody more, let associations end for `grace_s`, then cut them; what was acknowledged is kept."""
        if self._socket is None or self._acceptor is None or self._stopping.is_set():
            return
        self._stopping.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
        self._acceptor.join()
        self._socket.close()
        deadline_s = time.monotonic() + grace_s
        for _, thread in self._open_connections():
            thread.join(max(0.0, deadline_s - time.monotonic()))
        for wire, _ in self._open_connections():
            wire.cut()
        for _, thread in self._open_connections():
            thread.join(grace_s)

    def _open_connections(self) -> list[tuple[Wire, threading.Thread]]:
        with self._lock:
            return list(self._connections.values())

    def _accept(self, server: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = server.accept()
            except OSError as error:
                if not self._stopping.wait(_ACCEPT_RETRY_S):  # no descriptors or no memory: later there may be
                    _log.error("cannot accept a connection now", error=error.strerror)
                continue
            self._admit(connection, str(address[0]))

    def _admit(self, connection: socket.socket, host: str) -> None:
        with self._lock:
            if len(self._connections) >= self._limits.max_associations + SPARE_CONNECTIONS:
                _log.warning("connection closed: too many are open", host=host, open=len(self._connections))
                connection.close()
                return
            number = next(self._numbers)
            wire = Wire(connection, self._limits.association_timeout_s)
            thread = threading.Thread(target=self._serve, args=(number, wire, host), name=f"a{number}", daemon=True)
            self._connections[number] = (wire, thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads
            _log.error("connection closed: no thread for it", host=host, error=str(error))
            self._forget(number)
            wire.close()

    def _serve(self, number: int, wire: Wire, host: str) -> None:
        last_words = b""
        try:
            request = read_associate_request(wire, self._limits.association_timeout_s)
            last_words = self._answer(number, wire, request, host)
        except ProtocolError as error:
            last_words = encode_abort(error.reason)
            self._reject("", "", host, str(error))
        except PeerGone as error:
            _log.info("connection without an association", host=host, reason=str(error))
        finally:
            self._forget_association(number)
            wire.close(last_words)
            self._forget(number)

    def _answer(self, number: int, wire: Wire, request: AssociateRequest, host: str) -> bytes:
        """Reject or serve; returns what is to be said before the connection is closed."""
        verdict = self._admission.judge(request, host)
        if isinstance(verdict, Caller) and not self._enter(number):
            verdict = LIMIT_EXCEEDED
        if isinstance(verdict, Rejection):
            self._reject(request.calling_ae_title, request.called_ae_title, host, verdict.sentence)
            return encode_rejection(verdict)
        agreement, acceptance = negotiate(request, self._limits.max_pdu_bytes, may_store=verdict.may_store)
        dialogue = Dialogue(number, request.calling_ae_title, self._spool, self._events, self._limits)
        wire.set_timeout(self._limits.idle_timeout_s)
        wire.write(acceptance)
        _log.info("association accepted", association=number, calling=request.calling_ae_title, host=host)
        outcome, detail, last_words = Outcome.BROKEN, "a defect of the listener", b""
        try:
            outcome, detail, last_words = _run(Association(wire, agreement, dialogue, self._limits))
        finally:  # even a defect must not leave its series waiting for this association
            self._report_end(dialogue, host, outcome, detail)
        return last_words

    def _enter(self, number: int) -> bool:
        with self._lock:
            if len(self._associations) >= self._limits.max_associations:
                return False
            self._associations.add(number)
            return True

    def _forget_association(self, number: int) -> None:
        with self._lock:
            self._associations.discard(number)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._connections.pop(number, None)

    def _reject(self, calling: str, called: str, host: str, reason: str) -> None:
        _log.warning("association rejected", calling=calling, called=called, host=host, reason=reason)
        self._events.rejected(RejectedCall(calling, called, host, reason))

    def _report_end(self, dialogue: Dialogue, host: str, outcome: Outcome, detail: str) -> None:
        end = AssociationEnd(
            association=dialogue.number,
            calling_ae_title=dialogue.calling_ae_title,
            host=host,
            outcome=outcome,
            detail=detail,
            series_instance_uids=frozenset(dialogue.series_instance_uids),
            instances=dialogue.instances,
            refused=dialogue.refused,
        )
        log = _log.info if outcome is Outcome.RELEASED else _log.warning
        counts = {"instances": end.instances, "refused": end.refused, "series": len(end.series_instance_uids)}
        log("association ended", association=end.association, outcome=outcome, detail=detail, **counts)
        self._events.association_ended(end)


def _run(association: Association) -> tuple[Outcome, str, bytes]:
    """Serve an association to its end: how it ended, why, and what is to be said before closing."""
    try:
        return association.run(), "", b""
    except ProtocolError as error:
        return Outcome.BROKEN, str(error), encode_abort(error.reason)
    except PeerSilent as error:
        return Outcome.SILENT, str(error), encode_abort(AbortReason.NOT_SPECIFIED)
    except PeerGone as error:
        return Outcome.LOST, str(error), b""


def _bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        message = f"expected to listen on {host} port {port}, found: {error.strerror}; set [node] bind and port"
        if error.errno == errno.EADDRINUSE:  # perhaps a listener that is ending: it is tried again
            raise Unavailable(message) from error
        raise ConfigError(message) from error
