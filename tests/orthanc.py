"""A real archive for tests: Debian's Orthanc in a network namespace, together with the node under test.

Orthanc listens on every address whatever it is told, so it gets a network of its own in which only the
loopback device is up. Inside `with namespace.entered():` everything that this thread starts, threads and
processes included, lives in that network too.
"""

import base64
import ctypes
import itertools
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.peers import program

AE_TITLE, DICOM_PORT, HTTP_PORT = "ORTHANC", 4242, 8042
NODE_AE_TITLE, NODE_PORT = "DICOMNODE", 11112  # ports are free: each namespace has its own
_START_S, _STOP_S = 60.0, 20.0
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_NUMBERS = itertools.count(1)
_LIBC = ctypes.CDLL(None, use_errno=True)

# Sends every stable CT or MR series to the node; what the node sends back never matches.
_AUTO_ROUTE = """
local ROUTED = { CT = true, MR = true }
function OnStableSeries(seriesId, tags, metadata)
  if ROUTED[tags['Modality']] then
    RestApiPost('/modalities/NODE/store', '{"Resources":["' .. seriesId .. '"],"Asynchronous":true,"Timeout":60}')
  end
end
"""


class Namespace:
    """A network of its own with nothing but loopback; `with Namespace() as namespace:` makes and removes it."""

    def __init__(self) -> None:
        self.name = f"dicomnode-{os.getpid()}-{next(_NUMBERS)}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        _remove_orphans()
        _ip("netns", "add", self.name)
        _ip("netns", "exec", self.name, program("ip"), "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            stop(process)
        _ip("netns", "delete", self.name)

    @contextmanager
    def entered(self) -> Generator[None]:
        """This thread, and what it starts, is inside until the end of the block."""
        with Path("/proc/thread-self/ns/net").open() as outside, Path("/run/netns", self.name).open() as inside:
            _set_namespace(inside.fileno())
            try:
                yield
            finally:
                _set_namespace(outside.fileno())

    def popen(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside; it is stopped with the namespace, and killed should this process die."""
        with self.entered(), (output or Path(os.devnull)).open("ab") as sink:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **(env or {})},
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        self._processes.append(process)
        return process

    def run(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        with self.entered():
            return subprocess.run(
                [str(part) for part in command],
                env={**os.environ, **(env or {})},
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )


@dataclass
class Orthanc:
    """The archive; `with Orthanc(namespace, folder) as orthanc:` starts and stops it.

    It knows the node at `NODE_AE_TITLE`, `NODE_PORT` and sends every series that rested for
    `stable_s` to it if `auto_route` says so.
    """

    namespace: Namespace
    folder: Path
    auto_route: bool = False
    stable_s: int = 1
    modalities: Mapping[str, tuple[str, str, int]] = field(default_factory=dict[str, tuple[str, str, int]])
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "orthanc.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers."""
        orthanc = program("Orthanc")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "route.lua").write_text(_AUTO_ROUTE)
        (self.folder / "orthanc.json").write_text(json.dumps(self._configuration()))
        self._process = self.namespace.popen(
            [orthanc, self.folder / "orthanc.json"], output=self.folder / "orthanc.log"
        )
        await_until(self._answers, _START_S, lambda: f"Orthanc does not answer; its log:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Stop it; its storage stays, and `start` goes on with it."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def get(self, path: str) -> Any:
        """GET from the REST API, as JSON."""
        return json.loads(self.fetch(path))

    def post(self, path: str, document: object) -> Any:
        """POST JSON to the REST API; the answer as JSON."""
        return json.loads(self.fetch(path, json.dumps(document).encode()))

    def fetch(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST with a body."""
        request = urllib.request.Request(f"http://127.0.0.1:{HTTP_PORT}{path}", data=body)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"test:test").decode())
        with self.namespace.entered(), urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def upload(self, paths: Sequence[Path]) -> None:
        """Put files into the archive by its REST API, as if a scanner had sent them."""
        for path in paths:
            self.fetch("/instances", path.read_bytes())

    def instances(self, **query: str) -> dict[str, str]:
        """SOP Instance UID -> Orthanc's id, of all instances whose tags match, e.g. `Modality="SEG"`."""
        found = self.post("/tools/find", {"Level": "Instance", "Query": query, "Expand": True})
        return {one["MainDicomTags"]["SOPInstanceUID"]: one["ID"] for one in found}

    def file(self, orthanc_id: str) -> bytes:
        """An instance as DICOM file."""
        return self.fetch(f"/instances/{orthanc_id}/file")

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"Orthanc ended with {self._process.returncode}; its log:\n{self.log[-2000:]}")
        with suppress(OSError, urllib.error.URLError):
            return bool(self.get("/system"))
        return False

    def _configuration(self) -> dict[str, object]:
        modalities = {"NODE": (NODE_AE_TITLE, "127.0.0.1", NODE_PORT), **self.modalities}
        return {
            "Name": AE_TITLE,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "TemporaryDirectory": str(self.folder),
            "LuaScripts": [str(self.folder / "route.lua")] if self.auto_route else [],
            "Plugins": [],
            "HttpPort": HTTP_PORT,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"test": "test"},
            "DicomAet": AE_TITLE,
            "DicomPort": DICOM_PORT,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowFind": False,
            "UnknownSopClassAccepted": True,
            "StableAge": self.stable_s,
            "DicomScuTimeout": 20,
            "DicomScpTimeout": 30,
            "OverwriteInstances": False,
            "ConcurrentJobs": 2,
            "MaximumPduLength": 65536,
            "DicomModalities": {name: _modality(*where) for name, where in modalities.items()},
        }


def stop(process: subprocess.Popen[bytes]) -> None:
    """End one process that we started: politely, then not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_until(condition: Callable[[], bool], timeout_s: float, complaint: Callable[[], str]) -> None:
    """Poll until `condition` holds; fail with `complaint` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(complaint())
        time.sleep(0.05)


def namespace_or_skip() -> Namespace:
    """A namespace where this system lets us make one; else the test is skipped, or fails with REQUIRE_PEERS=1."""
    program("ip")
    if os.geteuid() != 0:
        sentence = "tests with Orthanc need root, to give it a network namespace of its own"
        if os.environ.get("REQUIRE_PEERS") == "1":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return Namespace()


def _remove_orphans() -> None:
    """Remove the empty namespaces of test runs that were killed."""
    for path in Path("/run/netns").glob("dicomnode-*-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            with suppress(subprocess.CalledProcessError):  # another run was faster
                _ip("netns", "delete", path.name)


def _modality(ae_title: str, host: str, port: int) -> dict[str, object]:
    allowed = dict.fromkeys(("AllowEcho", "AllowStore", "AllowFind", "AllowMove", "AllowStorageCommitment"), True)
    return {"AET": ae_title, "Host": host, "Port": port, **allowed}


def _ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True, timeout=30)


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
