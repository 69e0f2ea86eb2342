"""A real archive forwards to the listener and reports a storage commitment to it."""

from collections.abc import Generator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from dicomnode.config import Config, Destination, Peer, parse_config
from dicomnode.destinations import Archive
from dicomnode.imaging import derived_uid
from dicomnode.receive import Listener, Outcome, Spool
from tests.listening import Node, Told, wait_until
from tests.orthanc import AE_TITLE, DICOM_PORT, NODE_AE_TITLE, NODE_PORT, Orthanc, namespace_or_skip
from tests.peers import shared_data

ORTHANC = {"name": "orthanc", "ae_title": AE_TITLE, "host": "127.0.0.1", "port": DICOM_PORT}


def config_beside_orthanc(folder: Path) -> Config:
    node = {"ae_title": NODE_AE_TITLE, "port": NODE_PORT, "data_dir": str(folder)}
    return parse_config({"node": node, "peers": [ORTHANC], "limits": {"min_free_bytes": 0}}, "test")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Node, Orthanc]]:
    folder = tmp_path_factory.mktemp("both")
    config, told = config_beside_orthanc(folder), Told()
    spool = Spool(config.node.spool_dir, 0)
    with namespace_or_skip() as namespace, Orthanc(namespace, folder / "orthanc") as orthanc, namespace.entered():
        listener = Listener(config, spool, told.events())
        listener.start()
        yield Node(listener, spool, told), orthanc
        listener.stop(grace_s=1.0)


def test_a_series_that_orthanc_forwards_is_kept_with_its_pixels(both: tuple[Node, Orthanc]) -> None:
    node, orthanc = both
    sources = [dcmread(p) for p in sorted(shared_data("series/torchio-small").rglob("*")) if p.is_file()]
    orthanc.upload([Path(str(ds.filename)) for ds in sources])
    (series,) = {orthanc.get(f"/instances/{i}/series")["ID"] for i in orthanc.instances().values()}
    orthanc.post("/modalities/NODE/store", {"Resources": [series], "Synchronous": True})
    wait_until(lambda: len(node.told.received) == len(sources), "every instance to arrive")
    wait_until(lambda: bool(node.told.ended), "Orthanc to release its association")
    assert (node.told.ended[-1].outcome, node.told.ended[-1].refused) == (Outcome.RELEASED, 0)
    kept = {i.sop_instance_uid: dcmread(node.spool.root / i.path) for i in node.told.received}
    assert {uid: ds.PixelData for uid, ds in kept.items()} == {ds.SOPInstanceUID: ds.PixelData for ds in sources}


def test_orthanc_reports_a_commitment_to_the_listener(both: tuple[Node, Orthanc]) -> None:
    node, orthanc = both
    uid = next(iter(orthanc.instances()))
    transaction, unknown = derived_uid("transaction"), derived_uid("never sent")
    peer = Peer.model_validate(ORTHANC)
    archive = Archive(Destination(name="home", peer="orthanc", timeout_s=10.0), peer, NODE_AE_TITLE)
    references = [(CTImageStorage, uid), (CTImageStorage, unknown)]
    archive.request_commitment(transaction, references, wait_s=0.0)
    wait_until(lambda: bool(node.told.reports), "Orthanc's report")
    (report,) = node.told.reports
    assert (report.transaction_uid, report.committed) == (transaction, (uid,))
    assert [failed for failed, _ in report.failed] == [unknown]
