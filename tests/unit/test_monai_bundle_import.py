"""MONAI bundles -> manifests: each step where the bundle has it; what cannot be said is refused by its key."""

import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported
from dicomnode.importers.monai_bundle import BundleOptions, import_monai_bundle, is_monai_bundle
from dicomnode.models import after, before
from tests.bundles import (
    NETWORK,
    Config,
    answer_transform,
    compose,
    invert,
    metadata_config,
    transform,
    unet_weights,
    write_bundle,
)

Change = Callable[[Config], object]


def imported(folder: Path, options: BundleOptions | None = None) -> Imported:
    return import_monai_bundle(folder, {}, folder.parent / "labels.toml", options)


def refusal(folder: Path, change: Change | None = None, **parts: Any) -> str:
    """Why the spleen bundle is refused after a change."""
    with pytest.raises(ModelError) as caught:
        imported(write_bundle(folder / "bundle", change, **parts))
    return str(caught.value)


def before_steps(folder: Path, *transforms: Config) -> tuple[before.BeforeStep, ...]:
    """The steps that some transforms behind the loading become, the first orientation left out."""

    def change(config: Config) -> None:
        config["preprocessing"] = compose(transform("LoadImaged"), *transforms)

    first, *steps = imported(write_bundle(folder / "bundle", change)).manifest.stages[0].before
    assert isinstance(first, before.Orient)
    return tuple(steps)


def after_steps(folder: Path, *transforms: Config) -> tuple[after.AfterStep, ...]:
    def change(config: Config) -> None:
        config["postprocessing"] = compose(*transforms)

    return imported(write_bundle(folder / "bundle", change)).manifest.stages[0].after


def test_a_bundle_becomes_a_package_whose_steps_stand_where_the_bundle_has_them(tmp_path: Path):
    package = imported(write_bundle(tmp_path / "spleen ct"))
    manifest, stage = package.manifest, package.manifest.stages[0]
    assert (manifest.name, manifest.version, manifest.title) == ("spleen-ct", "0.5.3", "Spleen CT segmentation")
    assert manifest.input.modalities == ("CT",)
    assert [step.step for step in stage.before] == ["orient", "resample", "scale"]
    assert [step.step for step in stage.after] == ["activate", "back", "decide"]
    assert stage.windows.patch == (16, 16, 16)
    assert (stage.windows.overlap, stage.windows.blending) == (0.5, "constant")
    assert [segment.name for segment in manifest.segments] == ["Spleen"]
    assert manifest.digests == {name: hashlib.sha256(content).hexdigest() for name, content in package.files.items()}
    assert manifest.origin is not None
    assert set(manifest.origin.files) == {"configs/inference.json", "configs/metadata.json", "models/model.pt"}


def test_the_weights_are_those_of_the_bundle_wherever_the_checkpoint_keeps_them(tmp_path: Path):
    state = unet_weights()
    spread = {f"module.{name}": tensor for name, tensor in state.items()}
    for number, weights in enumerate((state, {"model": state, "epoch": 3}, {"state_dict": spread})):
        package = imported(write_bundle(tmp_path / str(number), weights=weights))
        stored = safetensors.torch.load(package.files["weights.safetensors"])
        assert set(stored) == set(state)
        assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())


def test_a_bundle_in_a_zip_is_the_same_as_in_its_folder(tmp_path: Path):
    folder = write_bundle(tmp_path / "spleen")
    archive = Path(shutil.make_archive(str(tmp_path / "downloaded"), "zip", tmp_path, "spleen"))
    assert is_monai_bundle(folder)
    assert is_monai_bundle(archive)
    assert imported(archive).manifest == imported(folder).manifest


def test_a_folder_with_something_else_is_no_bundle(tmp_path: Path):
    (tmp_path / "configs").mkdir()
    assert not is_monai_bundle(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK no archive")
    assert not is_monai_bundle(tmp_path / "x.zip")


def test_yaml_and_several_files_are_read_as_well(tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "configs/larger.yaml").write_text(
        "inferer:\n  _target_: SlidingWindowInferer\n  roi_size: [32, 32, 16]\n"
    )
    stage = imported(folder, BundleOptions(configs=("inference", "larger"))).manifest.stages[0]
    assert stage.windows.patch == (32, 32, 16)


def test_a_torchscript_file_is_taken_where_there_is_no_checkpoint(tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "models/model.pt").unlink()
    (folder / "models/model.ts").write_bytes(b"the program")
    package = imported(folder)
    network = package.manifest.networks["main"]
    assert (network.runner, network.file, network.out_channels) == ("torchscript", "model.ts", 2)
    assert package.files == {"model.ts": b"the program"}


def test_arguments_that_monai_has_no_more_are_adapted(tmp_path: Path):
    from monai.networks.nets.swin_unetr import SwinUNETR

    def change(config: Config) -> None:
        names = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "feature_size": 12, "use_checkpoint": False}
        config["network_def"] = {"_target_": "monai.networks.nets.SwinUNETR", "img_size": 96, **names}

    weights = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).state_dict()
    network = imported(write_bundle(tmp_path / "bundle", change, weights=weights)).manifest.networks["main"]
    assert network.name == "SwinUNETR"
    assert "img_size" not in network.arguments


BEFORE: list[tuple[Config, dict[str, Any]]] = [
    (transform("Spacingd", pixdim=[1.5, -1, 2], mode="nearest"), {"spacing_mm": (1.5, "keep", 2.0), "order": 0}),
    (transform("Spacingd", pixdim=1.5), {"spacing_mm": (1.5, 1.5, 1.5), "grid": "monai", "order": 1}),
    (transform("NormalizeIntensityd", nonzero="True"), {"step": "z-score", "over": "nonzero", "per_channel": False}),
    (transform("NormalizeIntensityd", channel_wise=True), {"step": "z-score", "over": "all", "per_channel": True}),
    (transform("NormalizeIntensityd", subtrahend=3, divisor=2), {"step": "standardise", "mean": 3, "deviation": 2}),
    (transform("ScaleIntensityd", minv=-1, maxv=1), {"step": "scale-of-volume", "to": (-1, 1)}),
    (
        transform("ScaleIntensityRangePercentilesd", lower=1, upper=99, b_min=0, b_max=1, clip=True),
        {"step": "scale-percentiles", "percentiles": (1, 99), "clip": True},
    ),
    (
        transform("CropForegroundd", source_key="image", select_fn="$lambda x: x > -500.5", margin=[2, 2, 2]),
        {"step": "crop-foreground", "above": -500.5, "margin": 2, "margin_within": True},
    ),
    (
        transform("CropForegroundd", source_key="image", margin=1, allow_smaller=False, k_divisible=16),
        {"margin": 1, "margin_within": False, "multiple": 16},
    ),
    (transform("SpatialPadd", spatial_size=[64, -1, 32], mode="edge"), {"at_least": (64, 0, 32), "value": "edge"}),
    (transform("DivisiblePadd", k=16, method="end"), {"step": "pad", "multiple": 16, "side": "end"}),
    (transform("ThresholdIntensityd", threshold=-1000, above=True, cval=-1000), {"step": "clip"}),
    (transform("CastToTyped", dtype="$torch.int16"), {"step": "truncate"}),
    (transform("ScaleIntensityRangeD", a_min=0, a_max=2), {"step": "scale", "to": (0, 1), "clip": False}),
]


@pytest.mark.parametrize(("given", "expected"), BEFORE, ids=[f"{n}-{t['_target_']}" for n, (t, _) in enumerate(BEFORE)])
def test_a_transform_becomes_the_step_that_does_the_same(given: Config, expected: dict[str, Any], tmp_path: Path):
    steps = before_steps(tmp_path, transform("Orientationd", axcodes="RAS"), given)
    assert len(steps) == 1
    assert {name: getattr(steps[0], name) for name in expected} == expected


def test_without_an_orientation_the_axes_are_those_in_which_monai_reads_a_series(tmp_path: Path):
    def change(config: Config) -> None:
        spacing = transform("Spacingd", pixdim=[1, 2, 3])
        config["preprocessing"] = compose(transform("LoadImaged"), spacing, transform("Orientationd", axcodes="RAS"))

    steps = imported(write_bundle(tmp_path / "bundle", change)).manifest.stages[0].before
    assert [getattr(step, "axes", None) for step in steps] == ["column-row-slice", None, "RAS"]


def test_labels_that_are_decided_first_come_back_from_the_nearest_voxel(tmp_path: Path):
    largest = answer_transform("KeepLargestConnectedComponentd", applied_labels=[1])
    fill = answer_transform("FillHolesd", applied_labels=[1])
    steps = after_steps(tmp_path, answer_transform("AsDiscreted", argmax=True), largest, fill, invert(nearest=True))
    assert [step.step for step in steps] == ["decide", "largest-components", "fill-holes", "back"]
    back = steps[-1]
    assert isinstance(back, after.Back)
    assert back.order == 0


def test_a_threshold_of_one_channel_decides_as_monai_does_at_the_threshold_itself(tmp_path: Path):
    def change(config: Config) -> None:
        config["network_def"]["out_channels"] = 1
        config["postprocessing"] = compose(
            answer_transform("Activationsd", sigmoid=True),
            invert(nearest=False),
            answer_transform("AsDiscreted", threshold=0.5),
        )

    weights = unet_weights({**NETWORK, "out_channels": 1})
    metadata = metadata_config({0: "spleen"})
    package = imported(write_bundle(tmp_path / "bundle", change, metadata, weights))
    decide = package.manifest.stages[0].after[-1]
    assert isinstance(decide, after.Decide)
    threshold = torch.tensor(decide.threshold)
    assert bool(torch.tensor(0.5) > threshold)  # MONAI: >=
    assert not bool(torch.nextafter(torch.tensor(0.5), torch.tensor(0.0)) > threshold)
    assert [segment.labels for segment in package.manifest.segments] == [(1,)]


def test_regions_that_overlap_are_segments_of_their_own(tmp_path: Path):
    def change(config: Config) -> None:
        config["postprocessing"] = compose(
            answer_transform("Activationsd", sigmoid=True),
            invert(nearest=False),
            answer_transform("AsDiscreted", threshold=0.5),
        )

    package = imported(write_bundle(tmp_path / "bundle", change, metadata_config({0: "liver", 1: "spleen"})))
    assert [(segment.name, segment.labels) for segment in package.manifest.segments] == [
        ("Liver", (1, 3)),
        ("Spleen", (2, 3)),
    ]


def brats_answers(formula: str) -> Change:
    """After brats_mri_segmentation: three regions that overlap become labels by a formula."""
    inverse, threshold = invert(nearest=False), answer_transform("AsDiscreted", threshold=0.5)
    return answered(
        answer_transform("Activationsd", sigmoid=True), inverse, threshold, answer_transform("Lambdad", func=formula)
    )


def test_the_formula_that_names_sets_of_regions_is_recognised_and_others_are_refused(tmp_path: Path):
    formula = "$lambda x: torch.where(x[[1]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))"
    problem = refusal(tmp_path / "a", brats_answers(formula))  # all is understood but what the labels mean
    assert "'label 1', 'label 4'" in problem
    for number, other in enumerate(("torch.where(x[[5]] > 0, 4, 0)", "torch.where(x[[0]] > 1, 4, 0)", "x * 2")):
        problem = refusal(tmp_path / str(number), brats_answers(f"$lambda x: {other}"))
        assert "inference.json: postprocessing::transforms::3::func: expected" in problem


def without(key: str) -> Change:
    return lambda config: config.pop(key)


def preprocessed(*transforms: Config) -> Change:
    def change(config: Config) -> None:
        config["preprocessing"] = compose(transform("LoadImaged"), *transforms)

    return change


def answered(*transforms: Config) -> Change:
    def change(config: Config) -> None:
        config["postprocessing"] = compose(*transforms)

    return change


def at(key: str, value: object) -> Change:
    def change(config: Config) -> None:
        *path, last = key.split("::")
        place: Any = config
        for part in path:
            place = place[int(part) if part.isdecimal() else part]
        place[last] = value

    return change


ARGMAX = answer_transform("AsDiscreted", argmax=True)
LAZY = {**compose(transform("LoadImaged")), "lazy": True}
REFUSED: list[tuple[str, Change, str]] = [
    (
        "unknown target",
        preprocessed(transform("scripts.mine.Evild")),
        "preprocessing::transforms::1::_target_: expected",
    ),
    ("unknown handler", at("handlers::0::_target_", "scripts.Spy"), "handlers::0::_target_: expected"),
    ("callable of python", at("inferer::_target_", "os.system"), "inferer::_target_: expected"),
    (
        "unknown transform",
        preprocessed(transform("Resized", spatial_size=[64, 64, 64])),
        "preprocessing::transforms::1",
    ),
    ("unknown argument", at("inferer::extra", 1), "inferer::extra: expected no argument"),
    ("unknown network", at("network_def::_target_", "DiNTS"), "network_def::_target_: expected"),
    ("unknown network argument", at("network_def::extra", 1), "network_def: expected arguments that UNet takes"),
    ("two dimensions", at("network_def::spatial_dims", 2), "network_def::spatial_dims: expected 3, found 2"),
    ("spline", preprocessed(transform("Spacingd", pixdim=[1, 1, 1], mode=3)), "preprocessing::transforms::1::mode"),
    ("diagonal", preprocessed(transform("Spacingd", pixdim=[1], diagonal=True)), "::1::diagonal: expected False"),
    ("letters", preprocessed(transform("Orientationd", axcodes="RAR")), "preprocessing::transforms::1: expected"),
    (
        "range",
        preprocessed(transform("ScaleIntensityRanged", a_min=3, a_max=1)),
        "preprocessing::transforms::1: expected",
    ),
    ("infinite", preprocessed(transform("ScaleIntensityRanged", a_min=-1e999, a_max=1)), "inference.json: expected"),
    (
        "lambda",
        preprocessed(transform("Lambdad", func="$lambda x: x")),
        "preprocessing::transforms::1: expected one of",
    ),
    (
        "select",
        preprocessed(transform("CropForegroundd", source_key="image", select_fn="$lambda x: x < 0")),
        "select_fn",
    ),
    ("lazy", at("preprocessing", LAZY), "preprocessing::lazy: expected None, False"),
    ("other key", preprocessed({"_target_": "EnsureTyped", "keys": ["image", "label"]}), "::1::keys: expected the one"),
    ("no decision", answered(invert(nearest=True)), "postprocessing: expected a transform that decides"),
    ("no return", answered(ARGMAX), "postprocessing: expected Invertd behind Spacingd"),
    ("labels interpolated", answered(ARGMAX, invert(nearest=False)), "postprocessing::transforms::1::nearest_interp"),
    ("two decisions", answered(ARGMAX, ARGMAX), "postprocessing::transforms::1: expected one decision"),
    ("other answer", answered(answer_transform("Activationsd", other="$torch.exp")), "postprocessing::transforms::0"),
    ("answer lambda", answered(ARGMAX, answer_transform("Lambdad", func="$lambda x: x + 1")), "transforms::1::func"),
    ("window", at("inferer::roi_size", [96, 96]), "inferer::roi_size: expected three whole numbers"),
    ("reflection", at("inferer::padding_mode", "reflect"), "inferer::padding_mode: expected 'constant' or 'replicate'"),
    ("callable mode", at("inferer::_mode_", "callable"), "inferer::_mode_: expected 'default'"),
    ("no inferer", without("inferer"), "expected a key of the config, found a reference to 'inferer'"),
    ("no preprocessing", without("preprocessing"), "found a reference to 'preprocessing'"),
    ("no weights of that name", at("checkpointloader::load_path", "models/other.pt"), "checkpointloader::load_path"),
    ("hostile, used", at("inferer::overlap", "$__import__('os').getpid()"), "inferer::overlap: expected an expression"),
    ("hostile, unused", at("output_dir", "$__import__('os').system('true')"), "output_dir: expected an expression"),
]


@pytest.mark.parametrize(("change", "key"), [pytest.param(c, k, id=name) for name, c, k in REFUSED])
def test_what_cannot_be_expressed_is_refused_with_its_key(change: Change, key: str, tmp_path: Path):
    assert key in refusal(tmp_path, change)


def test_a_bundle_with_code_of_its_own_is_refused_and_none_of_it_is_run(tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "scripts").mkdir()
    (folder / "scripts/__init__.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(ModelError, match=r"scripts/: expected a bundle without code of its own, found 1 Python files"):
        imported(folder)
    assert not (tmp_path / "trace").exists()


class Opens:
    """What a pickle with code in it holds: a call of `open` that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_is_not_run(tmp_path: Path):
    trace = tmp_path / "trace"
    assert "could run code" in refusal(tmp_path / "a", weights={"model": unet_weights(), "extra": Opens(trace)})
    folder = write_bundle(tmp_path / "b")
    (folder / "models/model.pt").write_bytes(pickle.dumps(Opens(trace)))
    with pytest.raises(ModelError, match=r"model\.pt"):
        imported(folder)
    assert not trace.exists()


def test_a_checkpoint_that_is_cut_short_or_of_another_network_is_refused(tmp_path: Path):
    folder = write_bundle(tmp_path / "cut")
    content = (folder / "models/model.pt").read_bytes()
    (folder / "models/model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model\.pt: expected"):
        imported(folder)
    other = unet_weights({**NETWORK, "channels": [4, 12]})
    assert "network_def: expected in models/model.pt the tensors of UNet" in refusal(tmp_path, weights=other)
    unknown = {**unet_weights(), "surplus": torch.zeros(1)}
    assert "surplus" in refusal(tmp_path / "surplus", weights=unknown)
    infinite = {name: tensor.float() * torch.inf for name, tensor in unet_weights().items()}
    assert "finite" in refusal(tmp_path / "infinite", weights=infinite)


def test_files_that_are_missing_double_or_of_another_language_are_named(tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    config = (folder / "configs/inference.json").read_text()
    (folder / "configs/inference.yaml").write_text("{}")
    with pytest.raises(ModelError, match=r"found configs/inference\.json, configs/inference\.yaml"):
        imported(folder)
    (folder / "configs/inference.yaml").unlink()
    (folder / "configs/inference.json").write_text(config[:-5])
    with pytest.raises(ModelError, match=r"configs/inference\.json: expected JSON"):
        imported(folder)
    (folder / "configs/inference.json").unlink()
    with pytest.raises(ModelError, match=r"expected one file configs/inference\.json or \.yaml, found none"):
        imported(folder)


YAML_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (YAML_BOMB, r"an alias"),
        ("a: !!python/object/apply:os.system ['true']\n", r"plain YAML"),
        ("a: " + "[" * 200 + "]" * 200, r"levels of nesting"),
        ("a: 2020-01-01\n", r"found a date"),
        ("- a\n- b\n", r"expected a table of keys"),
        ("a: '" + "x" * (5 << 20) + "'\n", r"expected at most 4194304 bytes"),
    ],
    ids=["aliases", "tags", "deep", "dates", "a list", "huge"],
)
def test_yaml_that_is_more_than_plain_values_is_refused(text: str, problem: str, tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "configs/inference.json").unlink()
    (folder / "configs/inference.yaml").write_text(text)
    with pytest.raises(ModelError, match=problem):
        imported(folder)


def test_metadata_of_another_network_is_refused(tmp_path: Path):
    three = metadata_config({0: "background", 1: "spleen", 2: "liver"})
    problem = refusal(tmp_path / "a", metadata=three)
    assert "metadata.json: network_data_format::outputs::pred::num_channels: expected 2" in problem
    two_images = metadata_config(inputs=2)
    assert "inputs::image::num_channels: expected 1" in refusal(tmp_path / "b", metadata=two_images)


def test_a_label_without_a_code_asks_for_a_mapping_file_and_leaves_a_template(tmp_path: Path):
    unknown = metadata_config({0: "background", 1: "Thing of its own"})
    assert "Thing of its own" in refusal(tmp_path, metadata=unknown)
    assert "Thing of its own" in (tmp_path / "labels.toml").read_text()


def test_a_licence_that_restricts_the_use_has_to_be_accepted(tmp_path: Path):
    folder = write_bundle(tmp_path / "bundle")
    assert not imported(folder).manifest.licence.must_be_accepted
    (folder / "LICENSE").write_text("NVIDIA Source Code License-NC\n\nnon-commercial use only\n")
    licence = imported(folder).manifest.licence
    assert licence.must_be_accepted
    assert licence.name == "NVIDIA Source Code License-NC"


def test_a_zip_with_a_path_that_leaves_it_is_read_without_leaving_anything_behind(tmp_path: Path):
    folder = write_bundle(tmp_path / "spleen")
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.*"):
            file.write(path, path.relative_to(folder).as_posix())
        file.writestr("../escaped.txt", "x")
    before_import = sorted(tmp_path.rglob("*"))
    assert imported(archive).manifest.name == "bundle"
    assert sorted(tmp_path.rglob("*")) == before_import
    assert json.loads((folder / "configs/metadata.json").read_text())["version"] == "0.5.3"
