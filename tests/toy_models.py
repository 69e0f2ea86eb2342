"""Model packages whose answer is known exactly: networks of MONAI with weights set by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from dicomnode.assembly.resample import resample
from dicomnode.imaging import Geometry, SampledVolume, SliceSource, Volume
from dicomnode.inference import Engine, Precision
from dicomnode.inference.networks import NETWORKS
from dicomnode.models import ModelPackage, ModelStore

FRAME = "1.2.826.0.1.3680043.8.498.1"
Document = dict[str, Any]
State = dict[str, torch.Tensor]
Array = NDArray[np.float64]


def toy_manifest(name: str = "toy") -> Document:
    """A manifest of a two-class network that may see one voxel around; tests change what they are about."""
    return {
        "format": 2,
        "name": name,
        "version": "1.0.0",
        "title": "Toy",
        "licence": {"name": "MIT"},
        "intended_use": "tests",
        "diagnostic": False,
        "provenance": "weights set by hand",
        "digests": {"weights.safetensors": "0" * 64},
        "input": {"modalities": ["CT"]},
        "networks": {"toy": toy_network()},
        "stages": [toy_stage()],
        "segments": [segment(1, "Bright", [1])],
    }


def toy_network(out_channels: int = 2, in_channels: int = 1) -> Document:
    """One [networks] table."""
    arguments: Document = {
        "spatial_dims": 3,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": [2, 2],
        "strides": [1],
        "kernel_size": 3,
        "up_kernel_size": 3,
        "num_res_units": 0,
        "norm": "batch",
    }
    return {"name": "UNet", "arguments": arguments, "in_channels": in_channels, "out_channels": out_channels}


def toy_stage() -> Document:
    """One [[stages]] table: to SPL at 3, 2, 1.5 mm, in one window, probabilities back."""
    return {
        "networks": ["toy"],
        "before": [
            {"step": "orient", "axes": "SPL"},
            {"step": "resample", "spacing_mm": [3.0, 2.0, 1.5]},
            {"step": "pad", "multiple": 8, "value": -1024},
            {"step": "channels", "views": [{"clip": [-1000.0, 1000.0], "to": [-1.0, 1.0]}]},
        ],
        "windows": {"patch": "whole", "multiple": 8},
        "after": [
            {"step": "activate", "function": "softmax"},
            {"step": "back", "order": 1},
            {"step": "decide"},
        ],
    }


def segment(number: int, name: str, labels: list[int]) -> Document:
    """One [[segments]] table."""
    category, type_ = ["91723000", "SCT", "Anatomical Structure"], ["10200004", "SCT", "Liver"]
    table = {"number": number, "name": name, "labels": labels, "category": category, "type": type_}
    return {**table, "colour_rgb": [200, 100, 50]}


def bright_where(steepness: float = 1.0, look: tuple[int, int, int] = (0, 0, 0)) -> State:
    """Weights of the toy network that call a voxel bright where the voxel at `look` from it is above 0.

    Everything is linear: the down convolution copies its input (moved by `look`), the activations are the identity,
    and the last convolution gives logits -steepness * x and steepness * x.
    """
    state = {key: torch.zeros_like(tensor) for key, tensor in _toy_network().state_dict().items()}
    for key, tensor in state.items():
        if key.endswith(("adn.A.weight", "adn.N.weight", "adn.N.running_var")):
            tensor.fill_(1.0)  # PReLU of slope 1 and a batch norm of mean 0 and variance 1 are the identity
    state["model.0.conv.weight"][0, 0, 1 + look[0], 1 + look[1], 1 + look[2]] = 1.0
    state["model.2.conv.weight"][0, :, 1, 1, 1] = torch.tensor([-steepness, steepness])
    return state


def write_package(folder: Path, manifest: Document, *states: State) -> ModelPackage:
    """Write the manifest and the weights of its networks in order, one file each, whose digest the manifest gets.

    No weights given: those of `bright_where`.
    """
    contents = [save({k: tensor.contiguous() for k, tensor in state.items()}) for state in states or [bright_where()]]
    files = [network.get("file", "weights.safetensors") for network in manifest["networks"].values()]
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in zip(files, contents, strict=True)}
    return write_raw_package(folder, {**manifest, "digests": digests}, *contents)


def write_raw_package(folder: Path, manifest: Document, *contents: bytes) -> ModelPackage:
    """Write a package as it is said."""
    home = folder / str(manifest["name"])
    home.mkdir(parents=True, exist_ok=True)
    for file, content in zip(manifest["digests"], contents, strict=True):
        (home / file).write_bytes(content)
    (home / "manifest.toml").write_text(to_toml(manifest), encoding="utf-8")
    return ModelStore([folder]).package(home.name)


def to_toml(document: Document) -> str:
    """A document as TOML, each top-level key on its line."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in document.items())


def upright_geometry(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], directions: Array | None = None
) -> Geometry:
    """A grid centred near the origin; `directions`: unit LPS vectors of slice, row, column as columns."""
    axes = np.array([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]]) if directions is None else directions
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(affine, shape, FRAME)


def resampled_geometry(source: Geometry, spacing_mm: tuple[float, float, float]) -> Geometry:
    """An upright grid of that spacing along the source's axes that covers the source's box, as assembly makes it."""
    axes = np.column_stack([source.normal, np.cross(source.normal, source.directions[:, 2]), source.directions[:, 2]])
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in source.shape], indexing="ij"), -1).reshape(-1, 3)
    along = source.to_patient_mm(corners) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    first, second, third = (int(np.ceil(extent / mm)) for extent, mm in zip(high - low, spacing_mm, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing_mm)
    affine[:3, 3] = axes @ ((low + high - (np.array([first, second, third]) - 1) * np.array(spacing_mm)) / 2)
    return Geometry(affine, (first, second, third), source.frame_of_reference_uid)


def voxel_centres_mm(geometry: Geometry) -> Array:
    """`[slice, row, column, xyz]` in LPS."""
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    return geometry.to_patient_mm(indices.astype(np.float64)).reshape(*geometry.shape, 3)


def sphere_depth_mm(points: Array, centre_mm: tuple[float, float, float], radius_mm: float) -> Array:
    """How deep points lie inside a sphere; negative outside."""
    return radius_mm - np.linalg.norm(points - np.array(centre_mm), axis=-1)


def volume_on(geometry: Geometry, voxels: NDArray[Any] | None = None) -> Volume:
    """A volume on a grid, of air where no voxels are given."""
    sources = tuple(SliceSource(f"1.2.{index}", "1.2.840.10008.5.1.4.1.1.2") for index in range(geometry.shape[0]))
    return Volume(np.full(geometry.shape, -1000, np.int16) if voxels is None else voxels, geometry, sources)


def toy_engine(sampled: SampledVolume | None = None, **options: Any) -> Engine:
    """An engine on one thread of the CPU in FP32 whose "resampled" volume is the one that is given."""
    chosen: Document = {"device": "cpu", "threads": 1, "precision": Precision.FP32, **options}
    return Engine(resample if sampled is None else lambda *_: sampled, **chosen)


def sampled_depth(geometry: Geometry, depth_mm: Array) -> SampledVolume:
    """A volume whose HU are 20 per mm of depth, between -1000 and 1000."""
    return SampledVolume(np.clip(20 * depth_mm, -1000, 1000).astype(np.float32), geometry)


def _toy_network() -> torch.nn.Module:
    return NETWORKS["UNet"](**toy_network()["arguments"])


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return json.dumps(value)
