"""`dicomnode` in processes of its own, for what shows and measures it."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicomnode.config import Config, Destination, Peer
from dicomnode.destinations import Archive
from dicomnode.errors import NodeError, Unavailable

READY_S = 90.0
STOP_S = 60.0


@contextmanager
def running(arguments: Sequence[str], log_path: Path) -> Generator[subprocess.Popen[bytes]]:
    """`dicomnode ARGUMENTS` until the end of the block, its output in a log."""
    command = [sys.executable, "-m", "dicomnode", *arguments]
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)


def wait_until_it_answers(config: Config, process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Wait until the node answers C-ECHO.

    Raises:
        NodeError: it ended, or stays silent.
    """
    archive = Archive(Destination(name="node", peer="node", timeout_s=2.0), as_peer(config), "ARCHIVE")
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        require_alive(process, log_path)
        try:
            return archive.echo()
        except Unavailable:
            time.sleep(0.2)
    raise NodeError(f"expected the node to answer within {READY_S:.0f} s, found silence; see {log_path}")


def require_alive(process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Notice a node that has ended.

    Raises:
        NodeError: its exit code, and where its log is.
    """
    if process.poll() is not None:
        raise NodeError(f"the node ended with exit code {process.returncode}; see {log_path}")


def as_peer(config: Config) -> Peer:
    """The node as those see it who send to it on this machine."""
    return Peer(name="node", ae_title=config.node.ae_title, host="127.0.0.1", port=config.node.port)


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
