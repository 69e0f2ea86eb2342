"""`dicomnode demo`: the whole way in front of your eyes, over the network, with a real node.

A stand-in archive in this process sends a CT series to a node that runs as on a hospital's machine (`dicomnode serve`
in processes of its own, SQLite, files), and gets a checked SEG back, with storage commitment.
"""

import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import assemble
from dicomnode.audit import AuditHead, verify
from dicomnode.config import Config, read_config
from dicomnode.demo.archive import Kept, StandInArchive
from dicomnode.demo.processes import as_peer, free_port, running, wait_until_it_answers
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.encoding import read_back
from dicomnode.encoding.overlay import write_overlay
from dicomnode.errors import NodeError
from dicomnode.imaging import Geometry, Segmentation, Series
from dicomnode.ledger import Ledger, Order, OrderState
from dicomnode.models import ModelStore
from dicomnode.node import open_ledger

Say = Callable[[str], None]

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SEED = 20260
SPACING_MM = (3.0, 1.5, 1.5)  # slice, row, column
FINISHED_S = 900.0
FINISHED = (OrderState.DONE, OrderState.PARKED)

NODE_TOML = """\
# The node of `dicomnode demo`; config/node.toml explains every key.
[node]
ae_title = "DICOMNODE"
port = {node_port}
data_dir = "data"

[[peers]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive_port}

[[destinations]]
name = "archive"
peer = "archive"

[[routes]]
name = "demo"
match = {{ Modality = "CT" }}
model = "torso"
destinations = ["archive"]

[completion]
association_end_s = 1.0

[limits]
min_free_bytes = 200000000
"""


@dataclass(slots=True)
class _Clock:
    """Says each line with the seconds since the start."""

    say: Say
    began: float = field(default_factory=time.monotonic)

    def __call__(self, line: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.1f} s  {line}")


def run_demo(series_folder: Path | None, folder: Path, say: Say) -> int:
    """Send a series (a procedural torso if none is given) through a node; the exit code.

    Raises:
        NodeError: no series in the folder, or the node does not come up or does not finish.
    """
    clock = _Clock(say)
    shutil.rmtree(folder / "node", ignore_errors=True)
    shutil.rmtree(folder / "archive", ignore_errors=True)
    series = _own_series(series_folder, clock) if series_folder else _phantom_series(folder / "series", clock)
    config_path = folder / "node" / "node.toml"
    node_port = free_port()
    with StandInArchive(folder / "archive", "ARCHIVE", callers={"DICOMNODE": ("127.0.0.1", node_port)}) as archive:
        config_path.parent.mkdir(parents=True)
        config_path.write_text(NODE_TOML.format(node_port=node_port, archive_port=archive.port), encoding="utf-8")
        with _running_node(config_path, clock) as config:
            order = _through_the_node(series, archive, config, clock)
            return _show(order, series, archive, config, folder, clock)


def _phantom_series(folder: Path, clock: _Clock) -> Series:
    from dicomnode.training.phantoms import build_torso_ct  # scipy is needed for this only

    clock("making a procedural torso CT (your own: --series DIR, or make demo SERIES=DIR)")
    voxels_hu, _labels = build_torso_ct(SEED, SPACING_MM)
    slice_mm, row_mm, column_mm = SPACING_MM
    slices, rows, columns = voxels_hu.shape
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = slice_mm, row_mm, column_mm, 1.0
    affine[:3, 3] = (-columns * column_mm / 2, -rows * row_mm / 2, -slices * slice_mm / 2)
    identity = SeriesIdentity(f"demo {SEED}")
    geometry = Geometry(affine, (slices, rows, columns), identity.frame_of_reference_uid)
    shutil.rmtree(folder, ignore_errors=True)
    paths = write_series(build_ct_slices(voxels_hu, geometry, identity), folder)
    return series_from_paths(paths).series[0]


def _own_series(folder: Path, clock: _Clock) -> Series:
    found = series_from_paths([folder])
    for rejected in found.rejected[:5]:
        clock(f"left out {rejected.path.name}: {rejected.reason}")
    if not found.series:
        raise NodeError(f"expected DICOM images in {folder}, found none")
    largest = max(found.series, key=lambda s: len(s.instances))
    if len(found.series) > 1:
        clock(f"{len(found.series)} series found, taking the one with the most instances")
    return largest


@contextmanager
def _running_node(config_path: Path, clock: _Clock) -> Generator[Config]:
    """`dicomnode serve` in a process of its own, its log beside its configuration."""
    config = read_config(config_path)
    log_path = config_path.parent / "node.log"
    clock(f"starting a node: dicomnode serve --config {config_path} (log: {log_path})")
    with running(["serve", "--config", str(config_path)], log_path) as process:
        wait_until_it_answers(config, process, log_path)
        clock(f"the node answers C-ECHO as {config.node.ae_title} on port {config.node.port}")
        yield config


def _through_the_node(series: Series, archive: StandInArchive, config: Config, clock: _Clock) -> Order:
    paths = [instance.path for instance in series.instances]
    megabytes = sum(instance.size_bytes for instance in series.instances) / 1e6
    clock(f"the archive sends {len(paths)} instances ({megabytes:.0f} MB) by C-STORE")
    began = time.monotonic()
    answers = archive.forward(paths, as_peer(config))
    seconds = time.monotonic() - began
    if refused := [a for a in answers if not a.kept]:
        raise NodeError(f"{len(refused)} of {len(answers)} instances were refused: {refused[0].sentence}")
    clock(f"every instance is on the node's disk and acknowledged ({megabytes / seconds:.0f} MB/s)")
    ledger = open_ledger(config)
    try:
        return _follow(series, ledger, clock)
    finally:
        ledger.close()


def _follow(series: Series, ledger: Ledger, clock: _Clock) -> Order:
    """Say what the ledger says, as it says it, until the order is finished."""
    said: set[str] = set()
    deadline = time.monotonic() + FINISHED_S
    while time.monotonic() < deadline:
        for version in ledger.received.versions({"series_instance_uid": series.series_instance_uid}):
            _say_once(f"series complete: {version['evidence']}", said, clock)
            orders = ledger.ordered.orders_of(str(version["version_id"]))
            for order in orders:
                _say_progress(order, ledger, said, clock)
                if order.state in FINISHED:
                    return order
            if version["state"] in ("unmatched", "refused"):
                raise NodeError(f"the node does not segment this series: {version['detail']}")
        time.sleep(0.1)
    raise NodeError(f"expected the order to be finished within {FINISHED_S:.0f} s; see the node's log")


def _say_progress(order: Order, ledger: Ledger, said: set[str], clock: _Clock) -> None:
    _say_once(f"route {order.route!r} orders model {order.model!r}", said, clock)
    for step in ledger.ordered.steps_of(order.order_id):
        _say_once(f"{step.name:<9} {step.seconds:6.2f} s", said, clock)
    for result in ledger.ordered.results_of(order.order_id):
        for destination, rung, _at, detail in ledger.delivered.history(result.sop_instance_uid):
            _say_once(f"{destination}: {rung.name.lower()} ({detail})", said, clock)


def _say_once(line: str, said: set[str], clock: _Clock) -> None:
    if line not in said:
        said.add(line)
        clock(line)


def _show(order: Order, series: Series, archive: StandInArchive, config: Config, folder: Path, clock: _Clock) -> int:
    if order.state is OrderState.PARKED:
        clock(f"the node put the order aside: {order.detail}")
        return 1
    segs = archive.kept(SEG)
    if not segs:
        clock(f"no SEG: {order.detail}")
        return 1
    segmentation = _read_back(segs[-1], series)
    clock("what the archive has now, read back from its file:")
    for name, volume_ml in segmentation.volumes_ml().items():
        clock(f"    {name:<16} {volume_ml:9.1f} ml")
    picture = folder / "overlay.png"
    write_overlay(picture, assemble(inspect(series)), segmentation)
    _say_audit(config, clock)
    clock(f"SEG      {segs[-1].path.resolve()}")
    clock(f"picture  {picture.resolve()}")
    clock("this model is a demonstration, not for diagnostic use")
    return 0


def _read_back(seg: Kept, series: Series) -> Segmentation:
    package = ModelStore().package("torso")
    inspection = inspect(series)
    return read_back(seg.path, inspection.geometry, inspection.sources, package.segments, package.identity)


def _say_audit(config: Config, clock: _Clock) -> None:
    ledger = open_ledger(config)
    anchored = ledger.last_audit_head()
    ledger.close()
    found = verify(config.node.audit_dir, [AuditHead(*anchored)] if anchored else [])
    clock(f"audit log: {found.records} records, {'intact' if found.is_intact else 'NOT INTACT'}")
