"""Checkpoints written by nnU-Net's own trainer object: its networks, our few seconds of training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from numpy.typing import NDArray
from torch.nn import functional

Float32 = NDArray[np.float32]
PATCHES = 2


def shake(network: torch.nn.Module) -> None:
    """Give norms other scales and shifts than 1 and 0, and decisive last layers: mistakes in them shall show."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".norm." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            if "seg_layers" in name and name.endswith("weight"):
                parameter.normal_(0, 0.5)


def train(trainer: nnUNetTrainer, image: Float32, labels: NDArray[np.int16], iterations: int, seed: int) -> float:
    """Fit the network to patches of one preprocessed case [c, z, y, x]; returns the last loss."""
    rng = np.random.default_rng(seed)
    network = trainer.network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=8e-3)
    loss = torch.zeros(())
    for _ in range(iterations):
        images, targets = _patches(rng, image, labels, trainer.configuration_manager.patch_size)
        optimizer.zero_grad()
        loss = _loss(trainer, network(torch.from_numpy(images))[0], targets)
        loss.backward()
        optimizer.step()
    return float(loss)


def prepared(trainer: nnUNetTrainer, images: Sequence[Path], truth: Path) -> tuple[Float32, NDArray[np.int16]]:
    """Image [c, z, y, x] and labels [1, z, y, x] as nnU-Net's own preprocessing leaves them.

    A cascade's second network sees the labels of the first as further channels; the truth stands for them here.
    """
    settings = trainer.configuration_manager
    case = settings.preprocessor_class(verbose=False).run_case(
        [str(path) for path in images], str(truth), trainer.plans_manager, settings, trainer.dataset_json
    )
    image, labels = case[0], case[1].astype(np.int16)
    if trainer.is_cascaded:
        before = convert_labelmap_to_one_hot(labels[0], trainer.label_manager.foreground_labels, image.dtype)
        image = np.vstack((image, before))
    return image, labels


def save(trainer: nnUNetTrainer, mirroring_axes: Sequence[int] | None, path: Path) -> None:
    """Write the checkpoint as after an epoch: logs with NumPy scalars in them, too."""
    trainer.logger.log("train_losses", np.float32(0.25), 0)
    trainer._best_ema = np.float64(0.75)
    trainer.inference_allowed_mirroring_axes = None if mirroring_axes is None else tuple(mirroring_axes)
    path.parent.mkdir(parents=True)
    trainer.save_checkpoint(str(path))


def _loss(trainer: nnUNetTrainer, logits: torch.Tensor, targets: NDArray[np.int16]) -> torch.Tensor:
    if not trainer.label_manager.has_regions:
        ignored = -100 if trainer.label_manager.ignore_label is None else trainer.label_manager.ignore_label
        weight = torch.tensor([0.3, 0.6] + [2.0] * (logits.shape[1] - 2))  # organs are few voxels
        return functional.cross_entropy(
            logits, torch.from_numpy(targets.astype(np.int64)), weight, ignore_index=ignored
        )
    regions = [np.isin(targets, region) for region in trainer.label_manager.foreground_regions]
    return functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(np.stack(regions, 1)).float())


def _patches(
    rng: np.random.Generator, image: Float32, labels: NDArray[np.int16], patch: Sequence[int]
) -> tuple[Float32, NDArray[np.int16]]:
    missing = [max(p - n, 0) for p, n in zip(_in_3d(patch), image.shape[1:], strict=True)]
    image = np.pad(image, [(0, 0), *((0, m) for m in missing)])
    target = np.pad(np.maximum(labels, 0), [(0, 0), *((0, m) for m in missing)])
    windows = [_window(rng, image.shape[1:], patch) for _ in range(PATCHES)]
    return np.stack([image[w] for w in windows]), np.stack([target[w][0] for w in windows])


def _window(rng: np.random.Generator, shape: Sequence[int], patch: Sequence[int]) -> tuple[slice | int, ...]:
    """A window of the patch's size; a 2d patch is one slice along the first axis."""
    window: list[slice | int] = [slice(None)]
    if len(patch) == 2:
        window.append(int(rng.integers(shape[0] // 4, 3 * shape[0] // 4)))
    for n, p in zip(shape[-len(patch) :], patch, strict=True):
        start = int(rng.integers(0, n - p + 1))
        window.append(slice(start, start + p))
    return tuple(window)


def _in_3d(patch: Sequence[int]) -> list[int]:
    return [1, *patch] if len(patch) == 2 else list(patch)
