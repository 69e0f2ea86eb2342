"""What the segmentation bundles of the MONAI model zoo have in common, and how their tiny networks are trained."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

Json = dict[str, Any]

DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def head(*imports: str, **settings: Any) -> Json:
    """The settings that open a bundle, in their usual order; `settings` come where the bundle's own differ."""
    return {
        "imports": [f"$import {name}" for name in imports],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/images",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": DEVICE,
        **settings,
    }


def transform(target: str, keys: str = "image", **arguments: Any) -> Json:
    """One dictionary transform."""
    return {"_target_": target, "keys": keys, **arguments}


def compose(*transforms: Json) -> Json:
    """A Compose of them."""
    return {"_target_": "Compose", "transforms": list(transforms)}


def loading(workers: int = 4) -> Json:
    """Data set and loader."""
    return {
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": workers,
        },
    }


def sliding_window(patch: int, overlap: Any, **more: Any) -> Json:
    """The inferer."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": [patch] * 3,
        "sw_batch_size": 4,
        "overlap": overlap,
        **more,
    }


def softmax() -> Json:
    """Activationsd."""
    return transform("Activationsd", "pred", softmax=True)


def argmax() -> Json:
    """AsDiscreted."""
    return transform("AsDiscreted", "pred", argmax=True)


def invert(*, nearest: bool, **more: Any) -> Json:
    """Invertd, back to the image's own grid."""
    settings: Json = {"transform": "@preprocessing", "orig_keys": "image", **more}
    return transform("Invertd", "pred", **settings, nearest_interp=nearest, to_tensor=True)


def save_as_named() -> Json:
    """SaveImaged with every setting by reference."""
    names = ("output_dir", "output_ext", "output_dtype", "output_postfix", "separate_folder")
    return transform("SaveImaged", "pred", **{name: f"@{name}" for name in names})


NAMED_OUTPUT: Json = {
    "output_ext": ".nii.gz",
    "output_dtype": "$numpy.float32",
    "output_postfix": "trans",
    "separate_folder": True,
}


def evaluating(*, checkpoint: str = "'/models/model.pt'", as_handler: bool = False) -> Json:
    """Handlers, evaluator and what runs; the checkpoint is loaded by a handler or by an object of its own."""
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": f"$@bundle_root + {checkpoint}",
        "load_dict": {"model": "@network"},
    }
    statistics = {"_target_": "StatsHandler", "iteration_log": False}
    evaluator = {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": True,
    }
    seeding = "$monai.utils.set_determinism(seed=123)"
    if as_handler:
        parts = {"handlers": [loader, statistics], "evaluator": evaluator, "initialize": [seeding]}
    else:
        initialize = [seeding, "$@checkpointloader(@evaluator)"]
        parts = {"handlers": [statistics], "evaluator": evaluator, "checkpointloader": loader, "initialize": initialize}
    return {**parts, "run": ["$@evaluator.run()"]}


def metadata(name: str, channels: dict[str, str], inputs: int = 1, patch: int = 32, modality: str = "CT") -> Json:
    """metadata.json; importers should trust inference.json, so the numbers here are what a careless author leaves."""

    def shape(kind: str, count: int, channel_def: dict[str, str]) -> Json:
        return {
            "type": "image",
            "format": kind,
            "modality": modality,
            "num_channels": count,
            "spatial_shape": [patch] * 3,
            "dtype": "float32",
            "value_range": [0, 1],
            "is_patch_data": True,
            "channel_def": channel_def,
        }

    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "made for a test"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "name": name,
        "task": name,
        "description": f"{name}: random or hardly trained weights, made for a test",
        "authors": "dicomnode",
        "copyright": "dicomnode",
        "intended_use": "A test, not to be used for diagnostic purposes",
        "network_data_format": {
            "inputs": {
                "image": shape(
                    "hounsfield", inputs, {str(i): "image" if inputs == 1 else f"c{i}" for i in range(inputs)}
                )
            },
            "outputs": {"pred": shape("segmentation", len(channels), channels)},
        },
    }


def fit(network: torch.nn.Module, image: torch.Tensor, classes: int, iterations: int, *, regions: bool) -> None:
    """Teach the network to tell levels of a smoothed image [1, c, x, y, z] apart: labels become shapes, not noise."""
    smooth = functional.avg_pool3d(image[:, :1], 5, stride=1, padding=2)
    edges = torch.quantile(smooth.flatten()[::7], torch.linspace(0, 1, classes + 1)[1:-1])
    levels = torch.bucketize(smooth[:, 0], edges)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    network.train()
    for _ in range(iterations):
        optimizer.zero_grad()
        logits = network(image)
        if regions:
            nested = torch.stack([levels >= n + 1 for n in range(logits.shape[1])], 1).float()
            loss = functional.binary_cross_entropy_with_logits(logits, nested)
        else:
            loss = functional.cross_entropy(logits, levels)
        loss.backward()
        optimizer.step()


def shake(network: torch.nn.Module) -> None:
    """Give norms other scales, shifts and running statistics than they are born with: mistakes in them shall show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point() and value.ndim == 1:
                scale = 0.05 if name.endswith("running_var") else 0.1
                value.add_(torch.rand(value.shape, generator=generator) * scale)


def centre_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """The middle of [c, x, y, z] as [1, c, s, s, s], for training; s at most `size`, a multiple of 16."""
    sizes = [min(size, n // 16 * 16) for n in image.shape[1:]]
    starts = [(n - s) // 2 for n, s in zip(image.shape[1:], sizes, strict=True)]
    window = tuple(slice(a, a + s) for a, s in zip(starts, sizes, strict=True))
    return torch.as_tensor(np.asarray(image)[(slice(None), *window)].copy())[None]
