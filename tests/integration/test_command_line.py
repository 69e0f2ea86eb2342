"""The command `dicomnode`: what a person types, what it prints, and how it ends."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from dicomnode.audit import AuditEvent, AuditLog, AuditRecord
from dicomnode.cli import main
from dicomnode.demo.archive import StandInArchive
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from dicomnode.ledger import OrderState, Rung
from tests.site import Site, torso_series
from tests.unit.test_delivery_steps import Site as DeliverySite


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """Runs `dicomnode ...` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["dicomnode", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = self._capsys.readouterr()
        return Ended(int(end.value.code or 0), printed.out, printed.err)


@pytest.fixture
def dicomnode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "node", 11999, ("ARCHIVE", 9))


def test_init_makes_a_configuration_that_loads_and_does_not_overwrite_one(dicomnode: Command, tmp_path: Path):
    assert dicomnode("init", tmp_path / "site").code == 0
    config = tmp_path / "site" / "node.toml"
    assert dicomnode("models", "list", "--config", config, "--json").code == 0
    again = dicomnode("init", tmp_path / "site")
    assert again.code == 2
    assert "expected no node.toml" in again.err


@pytest.mark.parametrize("command", ["serve", "run listen", "series", "jobs", "audit verify", "echo pacs"])
def test_a_typo_in_the_configuration_is_one_sentence_and_exit_code_2(dicomnode: Command, site: Site, command: str):
    text = site.config_path.read_text().replace("ae_title =", "ae_titel =", 1)
    site.config_path.write_text(text)
    ended = dicomnode(*command.split(), "--config", site.config_path)
    assert ended.code == 2
    assert str(site.config_path) in ended.err
    assert "ae_titel" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model = "torso"', 'model = "torsoo"', "expected one of the models"),
        ('Modality = "CT"', 'Modalitee = "CT"', "expected a DICOM keyword"),
        ("[limits]", '[geometry]\ntoo_few_slices = "repair"\n[limits]', "too_few_slices"),
    ],
)
def test_what_only_an_owner_understands_is_checked_before_the_start_too(
    dicomnode: Command, site: Site, old: str, new: str, said: str
):
    site.config_path.write_text(site.config_path.read_text().replace(old, new))
    ended = dicomnode("serve", "--config", site.config_path)
    assert ended.code == 2
    assert said in ended.err


def test_a_missing_configuration_says_how_to_make_one(dicomnode: Command, tmp_path: Path):
    ended = dicomnode("jobs", "--config", tmp_path / "none.toml")
    assert ended.code == 2
    assert "dicomnode init DIR" in ended.err


def test_wrong_usage_is_exit_code_2(dicomnode: Command):
    assert dicomnode("segment").code == 2
    assert dicomnode("retri", "x").code == 2


def test_segment_writes_seg_nifti_picture_and_report(dicomnode: Command, tmp_path: Path):
    paths = torso_series(tmp_path / "series", spacing_mm=(6.0, 3.0, 3.0))
    (tmp_path / "series" / "notes.txt").write_text("not DICOM")
    ended = dicomnode("segment", tmp_path / "series", "--model", "torso", "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    [report] = json.loads(ended.out)
    assert report["outcome"] == "segmented"
    assert {Path(f).name for f in report["files"]} == {"seg.dcm", "labels.nii.gz", "overlay.png"}
    assert all(Path(f).is_file() for f in report["files"])
    assert "notes.txt" in ended.err
    seg = next(Path(f) for f in report["files"] if f.endswith("seg.dcm"))
    assert dcmread(seg).StudyInstanceUID == dcmread(paths[0]).StudyInstanceUID
    assert json.loads((seg.parent / "report.json").read_text())["volumes_ml"]["Liver"] > 100


def test_segment_refuses_a_broken_series_with_its_verdict_and_does_the_other(dicomnode: Command, tmp_path: Path):
    good = torso_series(tmp_path / "good")
    bad = torso_series(tmp_path / "bad", seed=2)
    bad[len(bad) // 2].unlink()
    ended = dicomnode("segment", tmp_path / "good", tmp_path / "bad", "--out", tmp_path / "out", "--json")
    assert ended.code == 1
    outcomes = {r["outcome"]: r for r in json.loads(ended.out)}
    assert outcomes["segmented"]["instances"] == len(good)
    assert "missing_slices" in outcomes["refused"]["verdicts"][0]
    assert "12.0" in outcomes["refused"]["verdicts"][0]


def test_segment_of_nothing_and_with_an_unknown_model_say_so(dicomnode: Command, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "expected DICOM images" in dicomnode("segment", tmp_path / "empty", "--out", tmp_path / "out").err
    ended = dicomnode("segment", tmp_path / "empty", "--model", "heart9", "--out", tmp_path / "out")
    assert ended.code == 1
    assert "expected one of the models" in ended.err


def test_a_model_for_another_modality_is_refused(dicomnode: Command, tmp_path: Path):
    voxels = np.zeros((4, 16, 16), np.int16)
    affine = np.array([[0.0, 0, 5, 0], [0, 5, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]])
    identity = SeriesIdentity("mr", modality="MR")
    slices = build_ct_slices(voxels, Geometry(affine, voxels.shape, identity.frame_of_reference_uid), identity)
    for ds in slices:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    write_series(slices, tmp_path / "mr")
    ended = dicomnode("segment", tmp_path / "mr", "--out", tmp_path / "out", "--json")
    assert ended.code == 1
    assert "expects modality CT, found MR" in json.loads(ended.out)[0]["verdicts"][0]


def test_models_list_names_an_altered_model_and_goes_on(dicomnode: Command, site: Site):
    import shutil

    from dicomnode.models.store import SHIPPED_PACKAGES

    altered = site.folder / "data" / "models" / "other"
    shutil.copytree(SHIPPED_PACKAGES / "torso", altered)
    manifest = (altered / "manifest.toml").read_text().replace('name = "torso"', 'name = "other"', 1)
    (altered / "manifest.toml").write_text(manifest)
    weights = bytearray((altered / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(weights)
    rows = json.loads(dicomnode("models", "list", "--config", site.config_path, "--json").out)
    states = {row["name"]: row["state"] for row in rows}
    assert states["torso"] == "intact"
    assert "altered" in states["other"]


def test_models_show_prints_the_card_and_the_manifest(dicomnode: Command):
    assert "not for diagnostic use" in dicomnode("models", "show", "torso", "--config", "/none").out.lower()
    manifest = json.loads(dicomnode("models", "show", "torso", "--config", "/none", "--json").out)
    assert manifest["name"] == "torso"


def test_echo_and_send_to_a_peer_and_to_nobody(dicomnode: Command, tmp_path: Path):
    paths = torso_series(tmp_path / "series", spacing_mm=(60.0, 6.0, 6.0))
    with StandInArchive(tmp_path / "archive", "ARCHIVE") as archive:
        site = Site(tmp_path / "node", 11999, ("ARCHIVE", archive.port))
        assert dicomnode("echo", "pacs", "--config", site.config_path).code == 0
        sent = dicomnode("send", tmp_path / "series", "--to", "pacs", "--config", site.config_path)
        assert sent.code == 0
        assert f"{len(paths)} of {len(paths)} instances accepted" in sent.out
        assert len(archive.kept()) == len(paths)
    gone = dicomnode("echo", "pacs", "--config", site.config_path)
    assert gone.code == 1
    assert "is it running there?" in gone.err
    assert dicomnode("echo", "nobody", "--config", site.config_path).code == 2


def test_a_fresh_node_lists_nothing_and_its_audit_log_is_intact(dicomnode: Command, site: Site):
    assert json.loads(dicomnode("series", "--config", site.config_path, "--json").out) == []
    assert "nothing yet" in dicomnode("jobs", "--config", site.config_path).out
    assert dicomnode("jobs", "--state", "asleep", "--config", site.config_path).code == 2
    assert dicomnode("audit", "verify", "--config", site.config_path).code == 0


def test_audit_verify_fails_when_a_record_was_changed(dicomnode: Command, site: Site):
    log = AuditLog(site.audit_dir)
    for number in range(3):
        log.append(AuditRecord(datetime(2026, 1, 1, tzinfo=UTC), AuditEvent.ROUTED, "work", detail=f"series {number}"))
    path = site.audit_dir / "audit.jsonl"
    path.write_text(path.read_text().replace("series 1", "series 9"))
    ended = dicomnode("audit", "verify", "--config", site.config_path)
    assert ended.code == 1
    assert "NOT INTACT" in ended.out


def test_jobs_shows_how_far_a_delivery_has_come_and_retry_starts_a_parked_one_again(dicomnode: Command, tmp_path: Path):
    with StandInArchive(tmp_path / "archive", "ARCHIVE") as archive:
        delivering = DeliverySite(tmp_path / "data", archive)
        delivering.ledger.delivered.park(delivering.uid, "pacs", "refused: 0xC000")
        delivering.ledger.delivered.raise_rung(
            delivering.uid, "folder", Rung.ACCEPTED, datetime(2026, 1, 1, tzinfo=UTC), "written"
        )
        delivering.ledger.ordered.settle("o1", datetime(2026, 1, 1, tzinfo=UTC))
        config = tmp_path / "node.toml"
        config.write_text('[node]\ndata_dir = "data"\n')
        [job] = json.loads(dicomnode("jobs", "--state", "parked", "--config", config, "--json").out)
        assert any("PARKED: refused: 0xC000" in line for line in job["deliveries"])
        assert dicomnode("retry", "nonsense", "--config", config).code == 1
        retried = dicomnode("retry", "o1", "--config", config)
        assert retried.code == 0, retried.err
        assert "1 deliveries of order o1 started again" in retried.out
        assert not delivering.ledger.delivered.delivery(delivering.uid, "pacs").parked
        assert delivering.ledger.ordered.order("o1").state is OrderState.DELIVERING
        assert dicomnode("retry", "o1", "--config", config).code == 1


def test_a_host_that_only_listens_is_told_what_the_worker_needs(tmp_path: Path):
    without_torch = "import sys; sys.modules['torch'] = None; from dicomnode.cli import main; main()"
    command = [sys.executable, "-c", without_torch, "segment", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "'torch'" in done.stderr
    assert "dicomnode[infer]" in done.stderr
    assert "Traceback" not in done.stderr
