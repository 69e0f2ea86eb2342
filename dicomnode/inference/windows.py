"""A volume through a network: in one forward, or in overlapping windows whose logits are blended.

The blend is MONAI's (`sliding_window_inference`, mode "gaussian"): each window's logits count by a Gaussian of
an eighth of the window's size around its middle.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dicomnode.errors import ModelError, Unavailable

Shape = tuple[int, int, int]
Starts = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # per axis
Forward = Callable[[torch.Tensor], torch.Tensor]  # [1, channel, a0, a1, a2] -> logits [1, class, a0, a1, a2]

_SIGMA = 0.125  # of the window's size
_LEAST_IMPORTANCE = 1e-3
_LEAST_WINDOW = 48  # voxels: in less than that networks of this kind see too little


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Where the windows are: all of one shape, at every combination of the starts along each axis."""

    padded_shape: Shape  # what the volume is padded to, so that windows of the wanted shape fit
    window: Shape
    starts: Starts

    @property
    def count(self) -> int:
        """How many windows there are."""
        return math.prod(len(axis) for axis in self.starts)

    def slices(self) -> list[tuple[slice, ...]]:
        """Each window's place in the padded volume."""
        whole = [
            [slice(start, start + size) for start in axis] for axis, size in zip(self.starts, self.window, strict=True)
        ]
        return list(itertools.product(*whole))


def plan_whole(shape: Shape, multiple: int, overlap: float, most_voxels: int) -> WindowPlan:
    """One window that is the whole volume, padded to a multiple; smaller ones where that is more than `most_voxels`.

    Raises:
        Unavailable: not even small windows fit.
    """
    padded = window = _rounded_up(shape, multiple)
    while math.prod(window) > most_voxels:
        longest = max(range(3), key=window.__getitem__)
        if window[longest] <= max(_LEAST_WINDOW, multiple):
            raise Unavailable(f"a window of {window} voxels needs more memory than is free; wait, or free some")
        window = _rounded_up(tuple(-(-n // 2) if i == longest else n for i, n in enumerate(window)), multiple)
    return WindowPlan(padded, window, _starts(padded, window, overlap))


def plan_windows(shape: Shape, window: Shape, overlap: float) -> WindowPlan:
    """Windows that overlap by a part of their size; the last of each axis ends where the volume ends."""
    first, second, third = (max(count, size) for count, size in zip(shape, window, strict=True))
    return WindowPlan((first, second, third), window, _starts((first, second, third), window, overlap))


def _starts(padded: Shape, window: Shape, overlap: float) -> Starts:
    first, second, third = (_axis_starts(*sizes, overlap) for sizes in zip(padded, window, strict=True))
    return first, second, third


def _axis_starts(count: int, size: int, overlap: float) -> tuple[int, ...]:
    interval = max(int(size * (1 - overlap)), 1)
    windows = -(-(count - size) // interval) + 1
    return tuple(min(index * interval, count - size) for index in range(windows))


def _rounded_up(shape: tuple[int, ...], multiple: int) -> Shape:
    first, second, third = (-(-count // multiple) * multiple for count in shape)
    return first, second, third


def importance_map(window: Shape, sigma: float = _SIGMA) -> torch.Tensor:
    """How much each voxel of a window counts, `[a0, a1, a2]`, from 1 in the middle down to 0.001.

    Args:
        sigma: of the Gaussian, in sizes of the window.
    """
    first, second, third = (_gaussian(size, sigma) for size in window)
    importance = first[:, None, None] * second[:, None] * third
    return importance.clamp_(min=max(float(importance.min()), _LEAST_IMPORTANCE))


def _gaussian(size: int, sigma: float) -> torch.Tensor:
    distance = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return torch.exp(distance**2 / (-2 * (sigma * size) ** 2))


def blended_logits(
    forward: Forward, channels: torch.Tensor, plan: WindowPlan, classes: int, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """`[channel, *padded_shape]` -> logits `[class, *padded_shape]` in FP32 on the same device.

    Args:
        importance: how much each voxel of a window counts, `[a0, a1, a2]`; None: MONAI's Gaussian.

    Raises:
        ModelError: the network gives another shape than the manifest says, or NaN, or infinity.
    """
    places = plan.slices()
    if len(places) == 1:
        return _checked(forward(channels[None]), (classes, *plan.window)).float()
    importance = (importance_map(plan.window) if importance is None else importance).to(channels.device)
    logits = channels.new_zeros((classes, *plan.padded_shape))
    total = channels.new_zeros(plan.padded_shape)
    for place in places:
        window = _checked(forward(channels[(slice(None), *place)][None]), (classes, *plan.window))
        logits[(slice(None), *place)] += window * importance
        total[place] += importance
    logits /= total
    return logits


def _checked(logits: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(logits.shape) != (1, *shape):
        raise ModelError(f"expected logits of shape {[1, *shape]} from the network, found {list(logits.shape)}")
    if not bool(logits.sum(dtype=torch.float32).isfinite()):  # one NaN or infinity makes the sum one
        raise ModelError(
            "expected finite logits from the network, found NaN or infinity; check the weights and the input"
        )
    return logits[0]
