"""The parts of `dicomnode bench` that need a network: a listener's speed and memory, and a whole node's turnaround."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dicomnode.config import Config, read_config
from dicomnode.demo.archive import StandInArchive
from dicomnode.demo.bench_place import Detail, Place, Stopwatch, peak_mib
from dicomnode.demo.bench_sender import Loaded, Sent, read_loaded, renamed, send_loaded
from dicomnode.demo.processes import free_port, require_alive, running, wait_until_it_answers
from dicomnode.errors import NodeError
from dicomnode.ledger import Ledger, Order, OrderState, Rung
from dicomnode.node import open_ledger

RUNS = 3  # of everything that depends on the disk's fsync or on when a queue is looked at; an odd number
LONGER = 4  # times as long a series, for the listener's memory
INDEXED_S = 60.0
FINISHED_S = 300.0
SENDER = "ARCHIVE"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"

NODE_TOML = """\
[node]
ae_title = "BENCH"
port = {port}
data_dir = "data"
log_level = "WARNING"

[[peers]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive_port}

[[destinations]]
name = "archive"
peer = "archive"

[[routes]]
name = "bench"
match = {{ Modality = "{modality}" }}
model = "{model}"
destinations = ["archive"]

[completion]
association_end_s = 1.0

[limits]
min_free_bytes = 200000000
"""


def write_config(folder: Path, *, model: str, modality: str = "CT", archive_port: int = 104) -> Config:
    """A node of its own in `folder`, which is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = config_path(folder)
    text = NODE_TOML.format(port=free_port(), archive_port=archive_port, modality=modality, model=model)
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def config_path(folder: Path) -> Path:
    """Where `write_config` writes."""
    return folder / "node.toml"


def write_synced(place: Place, watch: Stopwatch) -> Detail:
    """Write the series again as plain files with an fsync and a rename each: the limit that the disk sets."""
    contents = [path.read_bytes() for path in sorted(place.series_folder.iterdir())]
    with watch:
        rates = [_rate(contents, _write_all(place.folder / "synced", contents)) for _ in range(RUNS)]
    return {"mb_per_s": rates}


def measure_listener(place: Place, watch: Stopwatch) -> Detail:
    """Send the series to fresh listeners on one association each; then one that is longer."""
    paths = sorted(place.series_folder.iterdir())
    files = [read_loaded(path) for path in paths]
    longer = [file.under(number) for number in range(LONGER) for file in files]
    with watch:
        bare = [_received(place, files) for _ in range(RUNS)]
        long = _received(place, longer)
        storescu = [_by_storescu(place, files) for _ in range(RUNS)] if shutil.which("storescu") else []
    return {
        "mb_per_s": [_rate([file.data_set for file in files], sent.seconds) for sent, _peak in bare],
        "storescu_mb_per_s": storescu,
        "peak_mib_listener": round(max(peak for _sent, peak in bare), 1),
        "longer_instances": len(longer),
        "longer_peak_mib_listener": round(long[1], 1),
        "longer_mb_per_s": _rate([file.data_set for file in longer], long[0].seconds),
    }


def _received(place: Place, files: Sequence[Loaded]) -> tuple[Sent, float]:
    """How the sending went, and the listener's peak memory once it has indexed and closed the series, in MiB."""
    with _listening(place) as listening:
        sent = send_loaded(listening.config.node.port, files, SENDER, "BENCH")
        listening.wait_until_complete(len(files))
        return sent, peak_mib(listening.process.pid)


def _by_storescu(place: Place, files: Sequence[Loaded]) -> float:
    """MB/s with dcmtk's sender, its start and its reading of the files included."""
    with _listening(place) as listening:
        command = ["storescu", "-aet", SENDER, "-aec", "BENCH", "+sd", "127.0.0.1", str(listening.config.node.port)]
        began = time.perf_counter()
        # Debian's dcmtk otherwise waits for a delayed acknowledgement after every instance.
        environment = {**os.environ, "TCP_NODELAY": "1"}
        done = subprocess.run(
            [*command, str(place.series_folder)], env=environment, capture_output=True, timeout=FINISHED_S, check=False
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise NodeError(f"expected storescu to send the series, found exit code {done.returncode}")
        listening.wait_until_complete(len(files))
        return _rate([file.data_set for file in files], seconds)


@dataclass(frozen=True, slots=True)
class _Listening:
    """A listener in a process of its own (`dicomnode run listen`), and its ledger."""

    config: Config
    process: subprocess.Popen[bytes]
    ledger: Ledger
    log_path: Path

    def wait_until_complete(self, instances: int) -> None:
        """Wait until the ledger has a series version with so many instances."""
        deadline = time.monotonic() + INDEXED_S
        while time.monotonic() < deadline:
            require_alive(self.process, self.log_path)
            if any(version["instances"] == instances for version in self.ledger.received.versions()):
                return
            time.sleep(0.3)
        raise NodeError(f"expected {instances} instances to be indexed within {INDEXED_S:.0f} s; see {self.log_path}")


@contextmanager
def _listening(place: Place) -> Generator[_Listening]:
    folder = place.folder / "listener"
    config, log_path = write_config(folder, model="torso"), folder / "listen.log"
    arguments = ["run", "listen", "--config", str(config_path(folder))]
    with running(arguments, log_path) as process:
        wait_until_it_answers(config, process, log_path)
        ledger = open_ledger(config)
        try:
            yield _Listening(config, process, ledger, log_path)
        finally:
            ledger.close()


def measure_turnaround(place: Place, watch: Stopwatch, model: str, encoding: str = "") -> Detail:
    """Send a series to a whole node and await its SEG in the archive; then others, which find the worker warm."""
    source = place.compressed_folder(encoding) if encoding else place.series_folder
    files = [read_loaded(path) for path in sorted(source.iterdir())]
    series_uid = place.read_series().series_instance_uid
    folder = place.folder / "node"
    with StandInArchive(place.folder / f"archive-{model}{encoding}", SENDER) as archive:
        config, log_path = write_config(folder, model=model, archive_port=archive.port), folder / "node.log"
        archive.callers["BENCH"] = ("127.0.0.1", config.node.port)
        shutil.copytree(place.models, config.node.data_dir / "models")
        with watch, running(["serve", "--config", str(config_path(folder))], log_path) as process:
            wait_until_it_answers(config, process, log_path)
            turns = [_turn([file.under(n, series_uid) for file in files], archive, config, n) for n in range(1 + RUNS)]
            first, *warm = (_life(config, renamed(series_uid, n), turn) for n, turn in enumerate(turns))
    in_order = sorted(warm, key=lambda life: life["rest_s"])
    return {"first": first, "warm": in_order[RUNS // 2], "warm_rest_s": [life["rest_s"] for life in warm]}


def _turn(files: Sequence[Loaded], archive: StandInArchive, config: Config, number: int) -> datetime:
    """Send a series and wait until the archive has one more SEG; when its last instance was answered."""
    sent = send_loaded(config.node.port, files, SENDER, "BENCH")
    if len(archive.wait_for(number + 1, FINISHED_S, SEG)) <= number:
        raise NodeError(f"expected a SEG in the archive within {FINISHED_S:.0f} s, found none")
    return sent.last_answer_at


def _life(config: Config, series_uid: str, last_answer_at: datetime) -> Detail:
    """What the ledger says about the way of one series, in seconds."""
    ledger = open_ledger(config)
    try:
        order = _finished_order(ledger, series_uid)
        steps = ledger.ordered.steps_of(order.order_id)
        (result,) = ledger.ordered.results_of(order.order_id)
        history = ledger.delivered.history(result.sop_instance_uid)
    finally:
        ledger.close()
    inferred: dict[str, Any] = next(json.loads(step.detail) for step in steps if step.name == "infer")
    accepted_at = next(at for _destination, rung, at, _detail in history if rung is Rung.ACCEPTED)
    seconds = (accepted_at - last_answer_at).total_seconds()
    return {
        "seconds": round(seconds, 3),
        "steps_s": {step.name: round(step.seconds, 3) for step in steps},
        "phases_s": inferred["seconds"],
        "network_s": inferred["seconds"]["windows"],
        "rest_s": round(seconds - inferred["seconds"]["windows"], 3),
    }


def _finished_order(ledger: Ledger, series_uid: str) -> Order:
    deadline = time.monotonic() + FINISHED_S
    while time.monotonic() < deadline:
        for version in ledger.received.versions({"series_instance_uid": series_uid}):
            for order in ledger.ordered.orders_of(str(version["version_id"])):
                if order.state in {OrderState.DONE, OrderState.PARKED}:
                    return order
        time.sleep(0.3)
    raise NodeError(f"expected the order to be finished within {FINISHED_S:.0f} s")


def _write_all(folder: Path, contents: Sequence[bytes]) -> float:
    folder.mkdir()
    began = time.perf_counter()
    for number, content in enumerate(contents):
        temporary = folder / f".{number}"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / str(number))
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    return seconds


def _rate(contents: Sequence[bytes], seconds: float) -> float:
    return round(sum(map(len, contents)) / 1e6 / seconds, 1)
