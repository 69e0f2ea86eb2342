"""One peer's socket: exact reads into a buffer of ours, each with a deadline, and whole writes."""

import socket
import struct
import time
from contextlib import suppress

from dicomnode.errors import NodeError

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20


class PeerGone(NodeError):
    """The connection ended: closed, reset, or the peer fell silent."""


class PeerSilent(PeerGone):
    """Nothing came within the time allowed; the connection itself may still stand."""


class Wire:
    """A connected socket with timeouts kept by the kernel, so that one read is one system call."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._socket = connection
        self._timeout_s = timeout_s
        connection.settimeout(None)
        # Our answers are short and awaited: never hold them back for the peer's acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.set_timeout(timeout_s)

    def set_timeout(self, seconds: float) -> None:
        """How long one read or write may take from now on."""
        self._timeout_s = seconds
        self._limit(socket.SO_RCVTIMEO, seconds)
        self._limit(socket.SO_SNDTIMEO, seconds)

    def _limit(self, option: int, seconds: float) -> None:
        microseconds = max(1000, int(seconds * 1e6))  # zero would mean for ever
        value = struct.pack("ll", microseconds // 1_000_000, microseconds % 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, option, value)

    def read_into(self, view: memoryview) -> None:
        """Fill `view`.

        Raises:
            PeerSilent: it took longer than the timeout (at most twice that for a peer that trickles).
            PeerGone: the connection ended.
        """
        got = self._receive(view)
        if got < len(view):
            self.read_until(view[got:], time.monotonic() + self._timeout_s)

    def read_until(self, view: memoryview, deadline_s: float) -> None:
        """Fill `view` before the deadline (monotonic clock), however the bytes trickle in."""
        while view:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise PeerSilent(f"expected {len(view)} more bytes in time, found none")
            self._limit(socket.SO_RCVTIMEO, left_s)
            view = view[self._receive(view) :]
        self._limit(socket.SO_RCVTIMEO, self._timeout_s)

    def _receive(self, view: memoryview) -> int:
        if _QUICKACK is not None:  # not sticky; saves 40 ms per message where the sender keeps Nagle's algorithm on
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        try:
            got = self._socket.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise PeerSilent(f"expected {len(view)} bytes in time, found none") from error
        except OSError as error:
            raise PeerGone(f"expected {len(view)} bytes, found: {error.strerror}") from error
        if got == 0:
            raise PeerGone(f"expected {len(view)} bytes, found the end of the connection")
        return got

    def write(self, message: bytes) -> None:
        """Send a whole message, in one segment where it fits.

        Raises:
            PeerGone: the connection ended, or the peer does not take the message in time.
        """
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise PeerGone(f"expected to send {len(message)} bytes, found: {error.strerror}") from error

    def cut(self) -> None:
        """End the connection from another thread: its reader sees the end at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, last_words: bytes = b"") -> None:
        """Send what is left to say, let the peer read it, and close (PS3.8 9.2: Sta13 awaits the peer's close).

        Closing with unread bytes would reset the connection and take our last words back.
        """
        with suppress(OSError, PeerGone):
            if last_words:
                self._say_farewell(last_words)
        self._socket.close()

    def _say_farewell(self, last_words: bytes) -> None:
        self._limit(socket.SO_SNDTIMEO, _LINGER_S)
        self._socket.sendall(last_words)
        self._socket.shutdown(socket.SHUT_WR)
        deadline_s, left_bytes = time.monotonic() + _LINGER_S, _LINGER_BYTES
        while left_bytes > 0 and time.monotonic() < deadline_s:
            self._limit(socket.SO_RCVTIMEO, max(0.01, deadline_s - time.monotonic()))
            got = len(self._socket.recv(1 << 16))
            if got == 0:
                return
            left_bytes -= got
