"""A result folder of nnU-Net v2: `dataset.json`, `plans.json`, `fold_*/checkpoint_*.pth`; and the weights in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from dicomnode.errors import ModelError
from dicomnode.importers.checkpoints import read_checkpoint, tensors_of
from dicomnode.importers.nnunet_zip import folders_in
from dicomnode.inference.nnunet_networks import without_repetitions
from dicomnode.inference.runners.nnunet_network import network_without_weights
from dicomnode.models.stages import Network

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")  # the first that is there
_FILES = ("plans.json", "dataset.json")


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One checkpoint, read."""

    name: str  # "0" to "4", or "all"
    path: Path
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]  # of the patch
    tensors: Mapping[str, torch.Tensor]


def is_nnunet_folder(path: Path) -> bool:
    """Whether `path` looks like a result folder, or like a folder or .zip that holds just one."""
    return _result_folder(path) is not None or (path.is_file() and len(folders_in(path)) == 1)


def result_folder(path: Path) -> Path:
    """The folder with plans.json: `path` itself, or the only one within it.

    Raises:
        ModelError: there is none, or there are several.
    """
    found = _result_folder(path)
    if found is None:
        several = sorted(plans.parent.name for plans in path.glob("*/plans.json")) if path.is_dir() else []
        what = f"several: {', '.join(several)}; name one of them" if several else "none; name the folder nnU-Net wrote"
        raise ModelError(f"{path}: expected plans.json, dataset.json and fold_* in it, found {what}")
    return found


def _result_folder(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    candidates = [path, *sorted(plans.parent for plans in path.glob("*/plans.json"))]
    found = [folder for folder in candidates if all((folder / name).is_file() for name in _FILES)]
    return found[0] if found and (found[0] == path or len(found) == 1) else None


def read_folds(folder: Path, wanted: tuple[str, ...] = (), checkpoint: str | None = None) -> list[Fold]:
    """The folds of a result folder, those wanted or all but `fold_all`, as nnU-Net takes them.

    Raises:
        ModelError: one is missing, unreadable, or another network than the others.
    """
    names = wanted or _folds_there(folder, checkpoint)
    folds = [_read(name, _checkpoint(folder, name, checkpoint)) for name in names]
    first = folds[0]
    for fold in folds[1:]:
        for key in ("configuration", "trainer", "mirror_axes"):
            if (expected := getattr(first, key)) != (found := getattr(fold, key)):
                raise ModelError(
                    f"{fold.path}: {key}: expected {expected!r} as in {first.path.parent.name}, found {found!r}"
                )
    return folds


def _folds_there(folder: Path, checkpoint: str | None) -> tuple[str, ...]:
    names = (checkpoint,) if checkpoint else _CHECKPOINTS
    found = sorted({path.parent.name.removeprefix("fold_") for name in names for path in folder.glob(f"fold_*/{name}")})
    numbered = tuple(name for name in found if name != "all")
    if not found:
        raise ModelError(f"{folder}: expected fold_0/{names[0]} or of another fold, found none; copy the trained folds")
    return numbered or ("all",)


def _checkpoint(folder: Path, fold: str, checkpoint: str | None) -> Path:
    candidates = [folder / f"fold_{fold}" / name for name in ((checkpoint,) if checkpoint else _CHECKPOINTS)]
    for path in candidates:
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in folder.glob("fold_*"))) or "no fold"
    raise ModelError(f"{candidates[0]}: expected a checkpoint of fold {fold}, found none; there is {there}")


def _read(name: str, path: Path) -> Fold:
    content = read_checkpoint(path)
    trainer, configuration = content.get("trainer_name"), _at(content.get("init_args"), "configuration")
    if not isinstance(trainer, str) or not isinstance(configuration, str) or "network_weights" not in content:
        expected = "network_weights, trainer_name and init_args.configuration"
        found = ", ".join(sorted(content)[:8])
        raise ModelError(f"{path}: expected a checkpoint of nnU-Net v2 with {expected}, found {found}")
    axes = content.get("inference_allowed_mirroring_axes")
    tensors = _shortened(tensors_of(content["network_weights"], f"{path}: network_weights"))
    return Fold(name, path, configuration, trainer, _axes(axes, path), tensors)


def _at(table: object, key: str) -> object:
    return cast(Mapping[object, object], table).get(key) if isinstance(table, Mapping) else None


def _axes(value: object, path: Path) -> tuple[int, ...]:
    axes = [] if value is None else value
    if not isinstance(axes, list | tuple):
        raise ModelError(f"{path}: inference_allowed_mirroring_axes: expected axes, found {type(axes).__name__}")
    listed = tuple(cast(list[object], axes))
    numbers = tuple(axis for axis in listed if isinstance(axis, int) and 0 <= axis <= 2)
    if len(numbers) != len(listed) or len(set(numbers)) != len(numbers):
        raise ModelError(f"{path}: inference_allowed_mirroring_axes: expected each axis once, found {listed}")
    return numbers


def _shortened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what wrappers put before every name, and without what is said twice."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return without_repetitions(state)


def check_tensors(fold: Fold, network: Network, where: str) -> None:
    """That the tensors of a fold are those of the network that the plans describe.

    Raises:
        ModelError: one is missing, too many, or of another shape; names it with both shapes.
    """
    with torch.device("meta"):  # shapes without memory
        expected = {
            name: tuple(tensor.shape) for name, tensor in network_without_weights(network, where).state_dict().items()
        }
    found = {name: tuple(tensor.shape) for name, tensor in fold.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            says = [_shape(shapes.get(name)) for shapes in (expected, found)]
            problem = f"expected {says[0]}, as {where} describes the network, found {says[1]}"
            raise ModelError(
                f"{fold.path}: network_weights.{name}: {problem}; import weights and plans of one training"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no tensor" if shape is None else f"shape {list(shape)}"
