"""The node's main job: a real archive routes a real CT series to it and holds a committed SEG at the end."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import UID

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import Inspection, inspect
from dicomnode.audit import AuditHead, verify
from dicomnode.encoding import read_back
from dicomnode.imaging import Segmentation, derived_uid
from dicomnode.ledger import Order, Rung
from dicomnode.models import ModelStore
from dicomnode.offline import segment_paths
from tests.dcmqi import dcmqi_masks
from tests.orthanc import AE_TITLE, DICOM_PORT, NODE_PORT, Orthanc, namespace_or_skip
from tests.peers import program, shared_data
from tests.site import Site

LIVER = 5


@dataclass(frozen=True)
class Outcome:
    """What is there after the archive has routed chaos-liver to the node."""

    files: Sequence[Path]
    seg: Path
    order: Order
    site: Site
    orthanc: Orthanc

    def inspection(self) -> Inspection:
        return inspect(series_from_paths(self.files).series[0])

    def segmentation(self) -> Segmentation:
        package, seen = ModelStore().package("torso"), self.inspection()
        return read_back(self.seg, seen.geometry, seen.sources, package.segments, package.identity)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    files = sorted(shared_data("series/chaos-liver/DICOM_anon").glob("*.dcm"))
    folder = tmp_path_factory.mktemp("hospital")

    def inside(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        return namespace.popen(command, output=log)

    with (
        namespace_or_skip() as namespace,
        Orthanc(namespace, folder / "orthanc", auto_route=True) as orthanc,
        Site(folder / "node", NODE_PORT, (AE_TITLE, DICOM_PORT), inside) as site,
    ):
        site.start()
        orthanc.upload(files)
        [order] = site.wait_until_done()
        [(_uid, orthanc_id)] = orthanc.instances(Modality="SEG").items()
        seg = folder / "seg-of-the-archive.dcm"
        seg.write_bytes(orthanc.file(orthanc_id))
        yield Outcome(files, seg, order, site, orthanc)


def test_every_rung_up_to_the_archives_commitment_is_on_record(outcome: Outcome):
    [delivery] = outcome.site.ledger.delivered.deliveries_of(outcome.order.order_id)
    assert delivery.rung is Rung.COMMITTED
    climbed = [rung for _, rung, _, _ in outcome.site.ledger.delivered.history(delivery.sop_instance_uid)]
    assert climbed == [Rung.ENCODED, Rung.ACCEPTED, Rung.COMMITTED]


def test_the_archive_has_the_bytes_that_were_checked(outcome: Outcome):
    [result] = outcome.site.ledger.ordered.results_of(outcome.order.order_id)
    ours = dcmread(outcome.site.folder / "data" / "spool" / result.path)
    assert dcmread(outcome.seg).PixelData == ours.PixelData
    assert dcmread(outcome.seg) == ours


def test_the_results_do_not_come_back_as_work(outcome: Outcome):
    assert len(outcome.site.orders()) == 1
    assert len(outcome.site.ledger.received.versions()) == 1


def test_the_liver_is_where_the_radiologist_drew_it(outcome: Outcome):
    drawn = _drawn_liver(shared_data("series/chaos-liver/liver_label.nii.gz"), outcome.inspection())
    found = outcome.segmentation().labels == LIVER
    dice = 2 * np.count_nonzero(drawn & found) / (np.count_nonzero(drawn) + np.count_nonzero(found))
    assert dice >= 0.75


def test_the_segs_study_and_patient_are_the_series(outcome: Outcome):
    seg, source = dcmread(outcome.seg, stop_before_pixels=True), dcmread(outcome.files[0], stop_before_pixels=True)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert seg.get(keyword) == source.get(keyword), keyword
    assert "not for diagnostic use" in seg.SeriesDescription.lower()


def test_the_validators_find_no_error(outcome: Outcome):
    one = subprocess.run([program("dciodvfy"), "-new", outcome.seg], capture_output=True, text=True, check=False)
    assert "Error" not in one.stderr, one.stderr
    every = [program("dcentvfy"), outcome.seg, *outcome.files]
    study = subprocess.run(every, capture_output=True, text=True, check=False)
    assert "Error" not in study.stderr, study.stderr


def test_dcmqi_reads_from_the_archives_file_what_the_network_said(outcome: Outcome, tmp_path: Path):
    [report] = segment_paths(outcome.files, "torso", tmp_path / "offline", None, say=lambda _: None)
    labels = _nifti_labels(Path(report["files"][-1]))
    package = ModelStore().package("torso")
    masks = dcmqi_masks(outcome.seg, tmp_path / "dcmqi", outcome.inspection().geometry)
    assert len(masks) == len(package.segments)
    for segment in package.segments:
        assert np.array_equal(masks[segment.number], np.isin(labels, segment.labels)), segment.name


def test_the_audit_log_tells_the_whole_story_and_is_intact(outcome: Outcome):
    anchored = outcome.site.ledger.last_audit_head()
    assert anchored is not None
    assert verify(outcome.site.audit_dir, [AuditHead(*anchored)]).problems == ()
    log = (outcome.site.audit_dir / "audit.jsonl").read_text()
    story = ["series completed", "routed", "gate verdicts", "inference", "encoded", "checked", "sent", "committed"]
    places = [log.index(f'"event":"{event}"') for event in story]
    assert places == sorted(places)
    source = dcmread(outcome.files[0], stop_before_pixels=True)
    for identity in (str(source.PatientID), str(source.PatientName)):
        assert f'"{identity}"' not in log


def test_slices_that_come_late_make_a_second_version_with_a_result_of_its_own(outcome: Outcome):
    """Last in this file: it adds to the archive's study."""
    last, before = (dcmread(path) for path in outcome.files[:-3:-1])
    step_mm = np.array(last.ImagePositionPatient, float) - np.array(before.ImagePositionPatient, float)
    last.ImagePositionPatient = [float(v) for v in np.array(last.ImagePositionPatient, float) + step_mm]
    last.SOPInstanceUID = last.file_meta.MediaStorageSOPInstanceUID = UID(
        derived_uid("late slice", last.SOPInstanceUID)
    )
    path = outcome.seg.with_name("late.dcm")
    last.save_as(path)
    outcome.orthanc.upload([path])
    outcome.site.wait_until_done(orders=2)
    versions = outcome.site.ledger.received.versions()
    assert sorted((v["number"], v["instances"]) for v in versions) == [(1, 78), (2, 79)]
    assert len(outcome.orthanc.instances(Modality="SEG")) == 2
    assert f"replaces order {outcome.order.order_id}" in (outcome.site.audit_dir / "audit.jsonl").read_text()


def _nifti_labels(path: Path) -> NDArray[np.uint8]:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _drawn_liver(path: Path, seen: Inspection) -> NDArray[np.bool_]:
    """The manual mask on the grid of the series, matched voxel by voxel through LPS."""
    image = SimpleITK.ReadImage(str(path))
    geometry = seen.geometry
    reference = SimpleITK.Image([int(n) for n in reversed(geometry.shape)], SimpleITK.sitkUInt8)
    reference.SetOrigin(geometry.position_mm(0).tolist())
    reference.SetSpacing(list(reversed(geometry.spacing_mm)))
    reference.SetDirection(geometry.directions[:, ::-1].ravel().tolist())
    matched = SimpleITK.Resample(image, reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    return SimpleITK.GetArrayFromImage(matched) > 0
