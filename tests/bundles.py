"""Small MONAI bundles, modelled on published ones: the same components and keys, small networks, random weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.unet import UNet

Config = dict[str, Any]

NETWORK: Config = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}


def transform(name: str, **arguments: object) -> Config:
    """A transform of the image."""
    return {"_target_": name, "keys": "image", **arguments}


def answer_transform(name: str, **arguments: object) -> Config:
    """A transform of what the network said."""
    return {"_target_": name, "keys": "pred", **arguments}


def compose(*transforms: Config) -> Config:
    """Transforms one after the other."""
    return {"_target_": "Compose", "transforms": list(transforms)}


def invert(*, nearest: bool) -> Config:
    """The inverse of the preprocessing."""
    return answer_transform("Invertd", transform="@preprocessing", orig_keys="image", nearest_interp=nearest)


def inference_config() -> Config:
    """After spleen_ct_segmentation: softmax, inverted linearly, argmax."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(NETWORK),
        "network": "$@network_def.to(@device)",
        "preprocessing": compose(
            transform("LoadImaged"),
            transform("EnsureChannelFirstd"),
            transform("Orientationd", axcodes="RAS"),
            transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
            transform("ScaleIntensityRanged", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
            transform("EnsureTyped"),
        ),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 4, "overlap": 0.5},
        "postprocessing": compose(
            answer_transform("Activationsd", softmax=True),
            invert(nearest=False),
            answer_transform("AsDiscreted", argmax=True),
            answer_transform("SaveImaged", output_dir="@output_dir"),
        ),
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }


def metadata_config(names: Mapping[int, str] | None = None, inputs: int = 1) -> Config:
    """What a published bundle says about itself, and names for the channels of its answer."""
    names = names or {0: "background", 1: "spleen"}
    return {
        "version": "0.5.3",
        "monai_version": "1.4.0",
        "name": "Spleen CT segmentation",
        "task": "Spleen",
        "authors": "MONAI team",
        "copyright": "Copyright (c) the authors",
        "intended_use": "An example, not for diagnosis",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": inputs}},
            "outputs": {"pred": {"num_channels": len(names), "channel_def": {str(k): v for k, v in names.items()}}},
        },
    }


def unet_weights(network: Config | None = None) -> dict[str, torch.Tensor]:
    """Random weights of the UNet that a config names."""
    torch.manual_seed(7)
    arguments = {key: value for key, value in (network or NETWORK).items() if key != "_target_"}
    return UNet(**arguments).state_dict()


def write_bundle(
    folder: Path,
    change: Callable[[Config], object] | None = None,
    metadata: Config | None = None,
    weights: object = None,
) -> Path:
    """Write the spleen bundle to a folder, its inference config changed.

    Args:
        change: works on the config in place.
        metadata: None: the spleen's.
        weights: what models/model.pt holds; None: random weights of the config's UNet.
    """
    config = inference_config()
    if change is not None:
        change(config)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/inference.json").write_text(json.dumps(config))
    (folder / "configs/metadata.json").write_text(json.dumps(metadata or metadata_config()))
    torch.save(unet_weights() if weights is None else weights, folder / "models/model.pt")
    return folder
