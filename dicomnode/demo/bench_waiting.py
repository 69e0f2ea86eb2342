"""How much memory the worker needs while thousands of series wait for it."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode.config import Config
from dicomnode.demo.bench_network import config_path, write_config
from dicomnode.demo.bench_place import Detail, Place, Stopwatch, peak_mib
from dicomnode.demo.processes import require_alive, running
from dicomnode.errors import NodeError
from dicomnode.imaging import derived_uid
from dicomnode.ledger import Ledger, ReceivedInstance
from dicomnode.node import open_ledger
from dicomnode.work import WorkClient, prepare, route_job

FEW = 2  # times as many series wait as are routed, in the run that the other is compared with
ROUTED_S = 300.0
WHEN = datetime(2026, 1, 1, tzinfo=UTC)  # every series was complete


def measure_waiting(place: Place, watch: Stopwatch) -> Detail:
    """The worker's peak while it routes so many series, with few and with many more waiting behind them.

    The series have one slice each and no route wants them, so that nothing but the waiting differs.
    """
    size, folder = place.size, place.folder / "waiting"
    config = write_config(folder, model="torso", modality="MR")
    config.node.data_dir.mkdir()
    prepare(config.node.work_database_url, config.node.data_dir)
    ledger = open_ledger(config)
    try:
        few = FEW * size.routed
        with watch:
            _let_wait(place, config, ledger, range(few))
            peak_few = _peak_of_worker(ledger, folder, size.routed)
            _let_wait(place, config, ledger, range(few, size.waiting))
            still = _waiting(ledger)
            peak_many = _peak_of_worker(ledger, folder, size.routed)
    finally:
        ledger.close()
    return {
        "waiting_few": few,
        "waiting_many": still,
        "peak_mib_few": round(peak_few, 1),
        "peak_mib_many": round(peak_many, 1),
        "growth_mib": round(peak_many - peak_few, 1),
    }


def _let_wait(place: Place, config: Config, ledger: Ledger, numbers: range) -> None:
    """Enter complete series of one slice into spool, ledger and queue, as the listener would."""
    source = min(place.series_folder.iterdir())
    batch = [_instance(source, config.node.spool_dir, number) for number in numbers]
    ledger.received.index(batch)
    work = WorkClient(config.node.work_database_url)
    try:
        for instance in batch:
            version = ledger.received.close_series(instance.series_instance_uid, WHEN, "bench")
            if version is not None:
                work.enqueue(route_job(version.version_id))
    finally:
        work.close()


def _instance(source: Path, spool: Path, number: int) -> ReceivedInstance:
    path = Path("series") / f"{number % 100:02d}" / f"{number}.dcm"
    (spool / path).parent.mkdir(parents=True, exist_ok=True)
    os.link(source, spool / path)
    return ReceivedInstance(
        sop_instance_uid=derived_uid("bench instance", str(number)),
        sop_class_uid=str(CTImageStorage),
        series_instance_uid=derived_uid("bench series", str(number)),
        study_instance_uid=derived_uid("bench study", str(number)),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        path=path,
        sha256=f"{number:064x}",
        size_bytes=source.stat().st_size,
        received_at=WHEN,
        calling_ae_title="BENCH",
    )


def _waiting(ledger: Ledger) -> int:
    return len(ledger.received.unrouted(WHEN + timedelta(seconds=1)))


def _peak_of_worker(ledger: Ledger, folder: Path, routed: int) -> float:
    """A fresh worker's peak memory in MiB by the time it has routed so many series."""
    log_path = folder / "work.log"
    enough = _waiting(ledger) - routed
    with running(["run", "work", "--config", str(config_path(folder))], log_path) as process:
        deadline = time.monotonic() + ROUTED_S
        while _waiting(ledger) > enough:
            require_alive(process, log_path)
            if time.monotonic() > deadline:
                raise NodeError(f"expected {routed} series to be routed within {ROUTED_S:.0f} s; see {log_path}")
            time.sleep(0.2)
        return peak_mib(process.pid)
