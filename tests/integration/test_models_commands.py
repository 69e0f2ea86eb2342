"""`dicomnode models ...` over the life of a model: import, list, verify, test, accept its licence, replace, remove."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.errors import ModelError
from dicomnode.imaging import Geometry
from dicomnode.inference.device import Precision, choose_precision
from dicomnode.models import ModelStore
from dicomnode.models.store import SHIPPED_PACKAGES
from dicomnode.node import model_store
from dicomnode.segmenting import Segmenter
from tests.integration.test_command_line import Command
from tests.programs import Bright, Fine, onnx_program, program_manifest, torchscript, write_program
from tests.site import Site
from tests.toy_models import Document, segment, toy_engine, upright_geometry, volume_on

PROGRAMS = {"model.ts": ("torchscript", torchscript), "model.onnx": ("onnx", onnx_program)}
RESEARCH = {"name": "Research only", "must_be_accepted": True, "text": "https://example.org"}


@pytest.fixture
def dicomnode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "node", 11999, ("ARCHIVE", 9))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series in which some voxels are above 0 HU."""
    identity = SeriesIdentity(seed="models")
    affine = upright_geometry((20, 40, 36), (3.0, 1.5, 1.5)).affine
    geometry = Geometry(affine, (20, 40, 36), identity.frame_of_reference_uid)
    voxels = np.full(geometry.shape, -900, np.int16)
    voxels[5:15, 10:30, 8:28] = 300
    folder = tmp_path_factory.mktemp("series")
    write_series(build_ct_slices(voxels, geometry, identity), folder)
    return folder


class Models:
    """The subcommands on one node."""

    def __init__(self, dicomnode: Command, site: Site) -> None:
        self._dicomnode, self._site = dicomnode, site

    def said(self, *arguments: object) -> Any:
        """What a command says that succeeds, from its JSON."""
        ended = self._dicomnode("models", *arguments, "--config", self._site.config_path, "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def done(self, *arguments: object) -> str:
        ended = self._dicomnode("models", *arguments, "--config", self._site.config_path)
        assert ended.code == 0, ended.err
        return ended.out

    def refused(self, *arguments: object) -> str:
        """What a command says that fails with one sentence."""
        ended = self._dicomnode("models", *arguments, "--config", self._site.config_path)
        assert ended.code == 1, ended.out + ended.err
        assert "Traceback" not in ended.err
        return ended.err


@pytest.fixture
def models(dicomnode: Command, site: Site) -> Models:
    return Models(dicomnode, site)


def program(folder: Path, file: str = "model.ts", content: bytes | None = None, **changes: Any) -> Path:
    """A program with a manifest beside it."""
    runner, make = PROGRAMS[file]
    return write_program(folder, file, make() if content is None else content, {**manifest(runner, file), **changes})


def manifest(runner: str = "torchscript", file: str = "model.ts", **changes: Any) -> Document:
    return program_manifest(runner, file, **changes)


def home_of(site: Site, name: str = "bright") -> Path:
    return site.folder / "data" / "models" / name


@pytest.mark.parametrize("file", PROGRAMS)
def test_a_model_from_import_to_removal(models: Models, site: Site, series: Path, tmp_path: Path, file: str):
    row = models.said("import", program(tmp_path / "made", file))
    assert (row["name"], row["kind"], row["segments"]) == ("bright", "package", ["Bright"])
    assert {"name": "bright", "state": "intact"}.items() <= models.said("list")[0].items()
    assert [(row["check"], row["ok"]) for row in models.said("verify", "bright")] == [("SHA-256", True)]

    trial = models.said("test", "bright", series, "--keep")
    assert trial["volumes_ml"] == {"Bright": pytest.approx(10 * 20 * 20 * 3.0 * 1.5 * 1.5 / 1000, abs=0.1)}
    half = Precision.FP32 if file == "model.onnx" else choose_precision(torch.device("cpu"))
    assert set(trial["seconds"]) == {"fp32", str(half)}
    if half is not Precision.FP32:
        assert trial["kept"]["verified"] == {str(half): 1.0}
        assert getattr(ModelStore([home_of(site).parent]).package("bright").manifest.verified, half) == 1.0

    checks = models.said("verify", "bright")
    assert {row["check"] for row in checks} == {"SHA-256", "fp32", str(half)}
    assert all(row["ok"] for row in checks)
    assert "at worst 1.00000 (Bright)" in checks[-1]["found"]

    golden = home_of(site) / trial["kept"]["golden"]
    golden.write_bytes(golden.read_bytes() + b"0")
    assert f"{golden.name}: expected SHA-256" in models.refused("verify", "bright")

    assert str(home_of(site)) in models.done("remove", "bright")
    assert not home_of(site).exists()
    assert "expected one of the models" in models.refused("remove", "bright")


def test_half_precision_that_disagrees_is_verified_no_more_and_not_held_against_the_model(
    models: Models, site: Site, series: Path, tmp_path: Path
):
    half = choose_precision(torch.device("cpu"))
    if half is Precision.FP32:
        pytest.skip("this processor does not compute in BF16")
    close = Bright()
    close.conv.weight.data[:, 0, 1, 1, 1] = torch.tensor([1.0, 1.001])  # one number in BF16
    verified = {str(half): 0.9999}
    models.done("import", program(tmp_path / "made", content=torchscript(close), verified=verified))
    trial = models.said("test", "bright", series, "--keep")
    assert trial["agreement_with_fp32"] == {str(half): 0.0}
    assert trial["kept"]["verified"] == {}
    assert getattr(ModelStore([home_of(site).parent]).package("bright").manifest.verified, half) is None
    assert {row["check"] for row in models.said("verify", "bright")} == {"SHA-256", "fp32"}


def test_half_precision_that_loses_a_small_structure_is_not_verified(models: Models, site: Site, tmp_path: Path):
    half = choose_precision(torch.device("cpu"))
    if half is Precision.FP32:
        pytest.skip("this processor does not compute in BF16")
    identity = SeriesIdentity(seed="small structure")
    voxels = np.full((48, 96, 96), 300, np.int16)
    voxels[20:25, 40:45, 40:46] = 301
    affine = upright_geometry((48, 96, 96), (3, 2, 2)).affine
    geometry = Geometry(affine, (48, 96, 96), identity.frame_of_reference_uid)
    write_series(build_ct_slices(voxels, geometry, identity), tmp_path / "small")
    networks = {"toy": {**manifest()["networks"]["toy"], "out_channels": 3}}
    segments = [segment(1, "Large", [1]), segment(2, "Small", [2])]
    content = torchscript(Fine())
    models.done("import", program(tmp_path / "made", content=content, networks=networks, segments=segments))
    trial = models.said("test", "bright", tmp_path / "small", "--keep")
    assert trial["agreement_with_fp32"][str(half)] >= 0.999
    assert trial["worst_label"][str(half)] == {"label": 2, "structure": "Small", "dice": 0.0}
    assert trial["kept"]["verified"] == {}
    assert getattr(ModelStore([home_of(site).parent]).package("bright").manifest.verified, half) is None
    assert "at worst 0.00000 (Small)" in models.done("test", "bright", tmp_path / "small")


def test_a_series_in_which_nothing_is_found_is_not_kept(models: Models, tmp_path: Path):
    models.done("import", program(tmp_path / "made"))
    identity = SeriesIdentity(seed="air")
    geometry = Geometry(upright_geometry((8, 16, 16), (3, 2, 2)).affine, (8, 16, 16), identity.frame_of_reference_uid)
    write_series(build_ct_slices(np.full((8, 16, 16), -900, np.int16), geometry, identity), tmp_path / "air")
    assert models.said("test", "bright", tmp_path / "air")["volumes_ml"] == {"Bright": 0.0}
    assert "the model found nothing in this series" in models.refused("test", "bright", tmp_path / "air", "--keep")


def test_a_model_is_tried_on_one_series_of_its_modality(models: Models, series: Path, tmp_path: Path):
    models.done("import", program(tmp_path / "made", input={"modalities": ["MR"]}))
    assert "model bright expects modality MR, found CT" in models.refused("test", "bright", series)
    (tmp_path / "empty").mkdir()
    assert "expected one series" in models.refused("test", "bright", tmp_path / "empty")


def test_a_shipped_model_is_neither_changed_nor_removed_nor_hidden(models: Models, series: Path, tmp_path: Path):
    before = (SHIPPED_PACKAGES / "torso" / "manifest.toml").read_bytes()
    assert "is shipped with the node and stays as it is" in models.refused("test", "torso", series, "--keep")
    assert "is shipped with the node and cannot be removed" in models.refused("remove", "torso")
    made = program(tmp_path / "made")
    assert "'torso' is shipped with the node; import this one under" in models.refused(
        "import", made, "--name", "torso"
    )
    assert (SHIPPED_PACKAGES / "torso" / "manifest.toml").read_bytes() == before
    assert models.said("verify", "torso")[0]["ok"]


def test_a_model_of_a_route_is_imported_first_or_last_but_not_removed(models: Models, site: Site, tmp_path: Path):
    site.config_path.write_text(site.config_path.read_text().replace('model = "torso"', 'model = "bright"'))
    models.done("import", program(tmp_path / "made"))
    assert "model 'bright' is named by the routes ['torso']; change them first" in models.refused("remove", "bright")
    assert home_of(site).is_dir()


def test_a_second_model_of_a_name_is_refused_unless_it_replaces_the_first(models: Models, site: Site, tmp_path: Path):
    models.done("import", program(tmp_path / "one"))
    newer = program(tmp_path / "two", version="2.0.0")
    assert "installed already" in models.refused("import", newer)
    assert models.said("list")[0]["version"] == "1.0.0"
    assert models.said("import", newer, "--replace")["version"] == "2.0.0"
    assert models.said("import", newer, "--name", "bright.2")["name"] == "bright.2"
    assert [row["version"] for row in models.said("list") if row["name"] != "torso"] == ["2.0.0", "2.0.0"]


def test_a_licence_is_asked_for_before_a_model_runs_and_again_for_other_weights(
    models: Models, dicomnode: Command, site: Site, series: Path, tmp_path: Path
):
    models.done("import", program(tmp_path / "one", licence=RESEARCH))
    assert "which was not accepted" in models.refused("test", "bright", series)
    offline = ("segment", series, "--model", "bright", "--config", site.config_path, "--json", "--out")
    waiting = json.loads(dicomnode(*offline, tmp_path / "a").out)
    assert waiting[0]["outcome"] == "refused"
    assert "dicomnode models accept-licence bright --by NAME" in waiting[0]["verdicts"][0]

    assert "which was not accepted" in models.said("list")[0]["state"]
    assert "accept-licence bright --by NAME" in models.done("show", "bright")
    accepted = models.done("accept-licence", "bright", "--by", "Dr Somebody").splitlines()
    assert accepted[:3] == ["licence of bright: Research only", "https://example.org", "accepted by Dr Somebody"]
    assert models.said("list")[0]["state"] == "intact"
    assert "accepted by Dr Somebody" in models.done("show", "bright")
    assert json.loads(dicomnode(*offline, tmp_path / "b").out)[0]["outcome"] == "segmented"
    models.done("test", "bright", series, "--keep")
    assert json.loads(dicomnode(*offline, tmp_path / "c").out)[0]["outcome"] == "segmented"

    other = Bright()
    other.conv.weight.data *= 2
    models.done("import", program(tmp_path / "two", content=torchscript(other), licence=RESEARCH), "--replace")
    assert json.loads(dicomnode(*offline, tmp_path / "d").out)[0]["outcome"] == "refused"


def test_the_worker_does_not_run_a_model_whose_licence_was_not_accepted(models: Models, site: Site, tmp_path: Path):
    from dicomnode.config import read_config

    models.done("import", program(tmp_path / "made", licence=RESEARCH))
    segmenter = Segmenter(toy_engine(), model_store(read_config(site.config_path)))
    volume = volume_on(upright_geometry((16, 16, 16), (3.0, 2.0, 2.0)))
    with pytest.raises(ModelError, match="was not accepted"):
        segmenter.segment(volume, "CT", "bright")
    models.done("accept-licence", "bright", "--by", "Somebody")
    assert not segmenter.segment(volume, "CT", "bright")[0].labels.any()


def test_a_licence_that_asks_for_nothing_cannot_be_accepted(models: Models, tmp_path: Path):
    models.done("import", program(tmp_path / "made"))
    assert "nothing has to be accepted" in models.refused("accept-licence", "bright")


def test_a_licence_is_shown_before_the_card(models: Models):
    shown = models.done("show", "torso")
    assert shown.startswith("licence of torso: ")
    card = (SHIPPED_PACKAGES / "torso" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert shown.index("licence of torso") < shown.index(card.splitlines()[0])


@pytest.mark.parametrize("away", ["ledger", "audit log"])
def test_no_model_is_changed_that_cannot_be_put_on_record(
    models: Models, site: Site, series: Path, tmp_path: Path, away: str
):
    models.done("import", program(tmp_path / "one", licence=RESEARCH))
    models.done("accept-licence", "bright", "--by", "Somebody")
    before = contents(home_of(site))
    place = site.audit_dir if away == "audit log" else next((site.folder / "data").glob("*ledger*"))
    place.rename(tmp_path / "away")
    (place / "in the way").mkdir(parents=True) if away == "ledger" else place.write_text("in the way")
    newer = program(tmp_path / "two", version="2.0.0", licence=RESEARCH)
    for command in (
        ("import", newer, "--replace"),
        ("import", newer, "--name", "other"),
        ("accept-licence", "bright", "--by", "Somebody Else"),
        ("test", "bright", series, "--keep"),
        ("remove", "bright"),
    ):
        models.refused(*command)
        assert contents(home_of(site)) == before
        assert not home_of(site, "other").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_whose_replacement_was_killed_halfway_can_be_removed(models: Models, site: Site, tmp_path: Path):
    models.done("import", program(tmp_path / "made"))
    home_of(site).rename(home_of(site, ".bright.4711.old"))
    assert [row["name"] for row in models.said("list")] == ["torso"]
    models.done("remove", "bright")
    assert not home_of(site, ".bright.4711.old").exists()


def test_every_change_is_on_record(models: Models, dicomnode: Command, site: Site, series: Path, tmp_path: Path):
    digest = models.said("import", program(tmp_path / "made", licence=RESEARCH))["sha256"]
    models.done("accept-licence", "bright", "--by", "Dr Somebody")
    models.done("test", "bright", series, "--keep")
    models.done("remove", "bright")
    lines = [json.loads(line) for path in sorted(site.audit_dir.iterdir()) for line in path.read_text().splitlines()]
    text = json.dumps(lines)
    for detail in ("imported from a package", "accepted by Dr Somebody", "golden case added", "model bright removed"):
        assert text.count(detail) == 1, detail
    assert text.count(digest) == 3
    assert dicomnode("audit", "verify", "--config", site.config_path).code == 0


@pytest.mark.parametrize("name", ["../outside", "/etc", ".", "..", "", "a b", "ä", ".hidden", "a/b", "x" * 65])
def test_an_odd_name_is_refused_everywhere(models: Models, site: Site, tmp_path: Path, name: str):
    if name:
        assert "key 'name'" in models.refused("import", program(tmp_path / "made"), "--name", name)
    for command in ("remove", "verify", "accept-licence"):
        assert "expected one of the models ['torso'], found" in models.refused(command, name)
    assert not (site.folder / "data" / "models").exists() or not list((site.folder / "data" / "models").iterdir())


def test_a_path_with_nothing_known_is_refused_with_what_is_known(models: Models, tmp_path: Path):
    assert "there is no such file or folder" in models.refused("import", tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    assert "recognised none" in models.refused("import", tmp_path / "folder")
    assert "which has no use for folds" in models.refused("import", program(tmp_path / "made"), "--folds", "1")


def test_a_program_without_a_manifest_is_sent_to_the_documentation(models: Models, tmp_path: Path):
    path = program(tmp_path / "made")
    (path.parent / "manifest.toml").rename(tmp_path / "elsewhere.toml")
    assert "a program needs a manifest written by hand, see docs/models.md" in models.refused("import", path)
    models.done("import", path, "--manifest", tmp_path / "elsewhere.toml")


@pytest.mark.parametrize("file", PROGRAMS)
def test_the_manifest_in_the_documentation_is_one_for_a_program(models: Models, tmp_path: Path, file: str):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    section = page.partition("## A TorchScript or ONNX program")[2]
    example = section.partition("```toml\n")[2].partition("```")[0]
    assert "liver-program" in example
    path = tmp_path / file
    path.write_bytes(PROGRAMS[file][1]())
    written = tmp_path / "liver.toml"
    written.write_text(example.replace("torchscript", PROGRAMS[file][0]).replace("model.ts", file))
    assert models.said("import", path, "--manifest", written)["name"] == "liver-program"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": "x"}, "key 'stages'"),
        ({"digests": {"model.ts": "0" * 64}}, "model.ts: expected SHA-256 0000"),
        ({"networks": {"toy": {**manifest()["networks"]["toy"], "file": "other.ts"}}}, "other.ts: cannot be read"),
        ({"networks": {"toy": {**manifest()["networks"]["toy"], "file": "../model.ts"}}}, "key 'networks.toy.file'"),
        (
            {"networks": {"toy": {**manifest()["networks"]["toy"], "out_channels": 3}}},
            "expected logits of shape [1, 3,",
        ),
        ({"networks": {"toy": {**manifest()["networks"]["toy"], "in_channels": 2}}}, "but got 2 channels instead"),
    ],
)
def test_a_manifest_that_does_not_fit_the_program_is_refused(
    models: Models, site: Site, tmp_path: Path, change: Document, said: str
):
    assert said in models.refused("import", program(tmp_path / "made", **change))
    assert not home_of(site).exists()


def test_a_program_that_cannot_answer_is_not_installed(models: Models, site: Site, tmp_path: Path):
    fixed = program(tmp_path / "fixed", "model.onnx", onnx_program(shape=(1, 1, 8, 8, 8)))
    assert "say windows.patch = [8, 8, 8]" in models.refused("import", fixed)
    cut = program(tmp_path / "cut", content=torchscript()[:1000])
    assert "expected a TorchScript program, found a damaged one" in models.refused("import", cut)
    assert not home_of(site).exists()


def test_a_program_for_windows_of_any_size_gets_to_know_what_a_forward_takes(
    models: Models, site: Site, tmp_path: Path
):
    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bright = Bright()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bright(x) + x.repeat(1, 64, 1, 1, 1).mean(1, keepdim=True) * 0

    stages = [{**manifest()["stages"][0], "windows": {"patch": "whole", "multiple": 4}}]
    models.done("import", program(tmp_path / "made", content=torchscript(Wide()), stages=stages))
    memory = ModelStore([home_of(site).parent]).package("bright").manifest.memory
    assert memory is not None
    assert 60 * 4 <= memory.bytes_per_voxel <= 5 * 64 * 4  # pages that were there already are not seen


def test_altered_weights_are_said_by_verify_and_by_list(models: Models, site: Site, tmp_path: Path):
    models.done("import", program(tmp_path / "made"))
    weights = home_of(site) / "model.ts"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.ts: expected SHA-256" in models.refused("verify", "bright")
    assert "the file was altered" in models.said("list")[0]["state"]
    shutil.rmtree(home_of(site))
    assert [row["name"] for row in models.said("list")] == ["torso"]
