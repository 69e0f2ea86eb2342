"""Steps `assemble` to `ship` for models that found nothing: because nothing is there, or because they never looked."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode.audit import AuditLog
from dicomnode.config import Config, parse_config
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.ledger import Ledger, Order, OrderState, ReceivedInstance
from dicomnode.node import model_store, site_models
from dicomnode.offline import segment_paths
from dicomnode.segmenting import Segmenter
from dicomnode.steps.recorder import Recorder
from dicomnode.steps.segmenting import Segmenting
from tests.toy_models import (
    Document,
    bright_where,
    toy_engine,
    toy_manifest,
    toy_network,
    toy_stage,
    upright_geometry,
    write_package,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
IDENTITY = SeriesIdentity("nothing to see")
SHAPE = (4, 16, 16)


@dataclass
class Site:
    """A ledger with one series of air, and the steps."""

    root: Path
    config: Config = field(init=False)
    ledger: Ledger = field(init=False)
    version_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.config = parse_config({"node": {"ae_title": "NODE", "data_dir": str(self.root)}}, "test", self.root)
        self.ledger = Ledger(f"sqlite:///{self.root / 'ledger.sqlite'}", self.config.node.spool_dir)
        self.ledger.prepare()
        self.ledger.received.index([_received(path) for path in self.write_air()])
        version = self.ledger.received.close_series(IDENTITY.series_instance_uid, NOON, "test")
        assert version is not None
        self.version_id = version.version_id

    def write_air(self) -> list[Path]:
        slices = build_ct_slices(np.full(SHAPE, -1000, np.int16), upright_geometry(SHAPE, (3.0, 2.0, 2.0)), IDENTITY)
        return write_series(slices, self.config.node.spool_dir)

    def carried_out(self, model: str) -> Order:
        order = Order(model, self.version_id, "r", model, ("seg",), (), 1, OrderState.WAITING, "", 1)
        self.ledger.ordered.place(order, NOON)
        recorder = Recorder("work", self.ledger, AuditLog(self.root / "audit"))
        segmenter = Segmenter(toy_engine(), model_store(self.config))
        steps = Segmenting(self.config, self.ledger, recorder, segmenter)
        for step in (steps.assemble, steps.infer, steps.encode, steps.check, steps.ship):
            step(model)
        return self.ledger.ordered.order(model)

    def detail_of(self, order: Order, step: str) -> Document:
        (detail,) = (done.detail for done in self.ledger.ordered.steps_of(order.order_id) if done.name == step)
        return json.loads(detail)


def _received(path: Path) -> ReceivedInstance:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    uids = (
        str(dcmread(path).SOPInstanceUID),
        CTImageStorage,
        IDENTITY.series_instance_uid,
        IDENTITY.study_instance_uid,
    )
    return ReceivedInstance(*uids, ExplicitVRLittleEndian, Path(path.name), digest, len(content), NOON, "SCANNER")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    write_package(site_models(made.config), toy_manifest("plain"))
    write_package(site_models(made.config), _in_two_stages(), bright_where(), bright_where())
    yield made
    made.ledger.close()


def _in_two_stages() -> dict[str, Any]:
    """A fine stage that looks only at what a coarse one found."""
    box = {"step": "crop-to-stage", "stage": "coarse", "labels": [1]}
    fine = {**toy_stage(), "name": "fine", "networks": ["fine"]}
    fine["before"] = [box, *fine["before"]]
    return {
        **toy_manifest("cascade"),
        "networks": {name: {**toy_network(), "file": f"{name}.safetensors"} for name in ("coarse", "fine")},
        "stages": [{**toy_stage(), "name": "coarse", "networks": ["coarse"], "writes": "nothing"}, fine],
    }


def test_an_order_says_whether_nothing_is_there_or_a_stage_never_looked(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dicomnode.segmenting"):
        plain, cascade = site.carried_out("plain"), site.carried_out("cascade")
    assert (plain.state, plain.detail) == (OrderState.DONE, "nothing found: no structure has a voxel")
    assert (cascade.state, cascade.detail) == (
        OrderState.DONE,
        "nothing found; stage fine had nothing to look at",
    )
    assert [(record.getMessage(), record.__dict__["fields"]["order"]) for record in caplog.records] == [
        ("stages had nothing to look at", "cascade")
    ]


def test_the_record_of_an_inference_names_the_whole_package(site: Site) -> None:
    order = site.carried_out("plain")
    package = model_store(site.config).package("plain")
    assert site.detail_of(order, "infer")["package_sha256"] == package.identity.package_sha256
    said = [json.loads(line) for log in (site.root / "audit").iterdir() for line in log.read_text().splitlines()]
    assert any(package.identity.package_sha256 in json.dumps(record) for record in said)


def test_a_report_on_the_command_line_says_that_a_stage_never_looked(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nae_title = "NODE"\ndata_dir = {json.dumps(str(site.root))}\n')
    [report] = segment_paths(site.write_air(), "cascade", tmp_path / "out", config, lambda _: None)
    assert report["outcome"] == "nothing found"
    assert report["verdicts"][-1] == "stage fine had nothing to look at"
