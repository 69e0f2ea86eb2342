"""Make the MONAI bundle cases with MONAI itself; make.sh runs it in the oracles' environment: SwinUNETR needs einops.

Everything is what the bundle's configuration says, built by MONAI's ConfigParser: loader, transforms, inferer. Only
the loop around them stands here, since the evaluators need ignite.

usage: make_monai.py CASES_FOLDER [NAME ...]
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from case_folder import generator_digest, is_current, make_case, remove_others
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from monai.engines.utils import engine_apply_transform
from monai.inferers import SlidingWindowInfererAdapt
from monai.transforms import reset_ops_id
from monai.utils import set_determinism
from monai_bundles import Bundle, bundles
from monai_parts import centre_crop, fit, shake
from phantoms import channels, organs, write_image


def main(cases_folder: Path, wanted: list[str]) -> None:
    """Make every case that these scripts would make differently by now, or those named."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    digest = generator_digest()
    for bundle in bundles():
        folder = cases_folder / bundle.name
        if (wanted and bundle.name not in wanted) or is_current(folder, digest):
            continue
        began = time.monotonic()
        make_case(folder, digest, lambda unfinished, bundle=bundle: _write(bundle, unfinished))
        print(f"oracles: {bundle.name} ({time.monotonic() - began:.1f} s)", flush=True)
    remove_others(cases_folder, "monai-", {bundle.name for bundle in bundles()})


def _write(bundle: Bundle, folder: Path) -> dict[str, Any]:
    labels = organs(bundle.grid, seed=3, count=3, size=bundle.body_size)
    images = [
        write_image(channel, bundle.grid, folder / f"input/image_{index:04d}.nii.gz")
        for index, channel in enumerate(channels(bundle.kind, labels, seed=3))
    ]
    model = folder / "model"
    config = _write_bundle(bundle, model)
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        set_determinism(11)
        parser = _parser(bundle, config, images, model, Path(scratch))
        _predict(bundle, parser, model / "models" / bundle.weights)
        (saved,) = Path(scratch).rglob("*.nii.gz")
        expected = folder / "expected" / "image.nii.gz"
        expected.parent.mkdir()
        expected.write_bytes(saved.read_bytes())
    return {
        "family": "monai",
        "about": bundle.about,
        "model": str(model.relative_to(folder)),
        "input": [str(image.relative_to(folder)) for image in images],
        "labels": str(expected.relative_to(folder)),
        "label_prompt": bundle.label_prompt,
        "replaced_for_the_oracle": bundle.oracle,
        "weights": "trained" if bundle.iterations else "random",
        "versions": {name: version(name) for name in ("monai", "torch", "numpy", "nibabel")},
    }


def _write_bundle(bundle: Bundle, model: Path) -> Path:
    for name in ("configs", "models", "docs"):
        (model / name).mkdir(parents=True)
    (model / "LICENSE").write_text("Made for a test; no rights reserved.\n")
    (model / "docs" / "README.md").write_text(f"# {bundle.metadata['name']}\n\n{bundle.about}\n")
    (model / "configs" / "metadata.json").write_text(json.dumps(bundle.metadata, indent=4))
    for name in bundle.scripts:
        (model / "scripts").mkdir(exist_ok=True)
        (model / "scripts" / f"{name}.py").write_text('raise SystemExit("a bundle\'s scripts were run")\n')
    config = model / "configs" / ("inference.yaml" if bundle.yaml else "inference.json")
    dump = yaml.safe_dump(bundle.inference, sort_keys=False) if bundle.yaml else json.dumps(bundle.inference, indent=4)
    config.write_text(dump)
    return config


def _parser(bundle: Bundle, config: Path, images: Sequence[Path], model: Path, out: Path) -> ConfigParser:
    """MONAI's own reading of the configuration, with this case's paths and what this machine's MONAI lacks replaced."""
    parser = ConfigParser()
    parser.read_config(str(config))
    parser["bundle_root"] = str(model)
    parser["output_dir"] = str(out)
    parser["device"] = "$torch.device('cpu')"
    parser["dataloader#num_workers"] = 0
    paths = [str(image) for image in images]
    if "input_dict" in parser:
        prompt = {} if bundle.label_prompt is None else {"label_prompt": list(bundle.label_prompt)}
        parser["input_dict"] = {"image": paths[0], **prompt}
    else:
        parser["datalist"] = [paths[0] if len(paths) == 1 else paths]
    for key, value in bundle.oracle.items():
        _replace(parser, key, value)
    return parser


def _replace(parser: ConfigParser, key: str, value: object) -> None:
    """Set a value of the configuration, or remove it (None): in a transform's arguments None is not absence."""
    if value is not None:
        parser[key] = value
        return
    parent, _, name = key.rpartition("#")
    del parser[parent][name]


def _predict(bundle: Bundle, parser: ConfigParser, weights: Path) -> None:
    """Make the weights, run the bundle on them and let its SaveImaged save."""
    (batch,) = parser.get_parsed_content("dataloader")
    network = parser.get_parsed_content("network")
    shake(network)
    if bundle.iterations:
        crop = centre_crop(batch["image"][0], 32)
        fit(network, crop, bundle.classes, bundle.iterations, regions=bundle.regions)
    network.eval()
    _save(bundle, network, weights)
    with torch.no_grad():
        output = _infer(bundle, parser, network, batch)
    reset_ops_id(batch["image"])
    before, after = decollate_batch(batch)[0], decollate_batch(output)[0]
    engine_apply_transform(before, after, parser.get_parsed_content("postprocessing"))


def _save(bundle: Bundle, network: torch.nn.Module, path: Path) -> None:
    if path.suffix == ".ts":
        torch.jit.script(network).save(str(path))
        return
    torch.save({"model": network.state_dict()} if bundle.wrapped else network.state_dict(), path)


def _infer(bundle: Bundle, parser: ConfigParser, network: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    if not bundle.scripts:
        return {"image": batch["image"], "pred": parser.get_parsed_content("inferer")(batch["image"], network)}
    return {"image": batch["image"], **_infer_prompted(parser, network, batch)}


def _infer_prompted(parser: ConfigParser, network: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """What the scripts of vista3d 0.6.0 do without points.

    They ask MONAI's adaptive inferer with roi_size, sw_batch_size and replicate padding alone: the configuration's
    overlap and the Gaussian weights of older versions are not used, MONAI's 0.25 and constant weights are.
    """
    prompt = batch.get("label_prompt")
    asked = [int(label) for label in (parser.get_parsed_content("everything_labels") if prompt is None else prompt)]
    classes = torch.tensor(asked).unsqueeze(-1)
    inferer = SlidingWindowInfererAdapt(
        roi_size=parser.get_parsed_content("patch_size"),
        sw_batch_size=parser.get_parsed_content("sw_batch_size"),
        with_coord=True,
        padding_mode="replicate",
    )
    pred = inferer(
        batch["image"], network, transpose=True, point_coords=None, point_labels=None, class_vector=classes,
        prompt_class=classes.clone(), prev_mask=None, labels=None, label_set=None,
    )  # fmt: skip
    return {"pred": pred, "label_prompt": classes.unsqueeze(0)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
