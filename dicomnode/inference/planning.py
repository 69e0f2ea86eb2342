"""Which windows a stage's volume goes through a network in, and how their logits are blended: a table of styles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from dicomnode.inference.forwarding import of_slices
from dicomnode.inference.nnunet_windows import blended_halves, plan_nnunet_windows, slice_by_slice
from dicomnode.inference.picture import Shape
from dicomnode.inference.windows import Forward, WindowPlan, blended_logits, importance_map, plan_whole, plan_windows
from dicomnode.models.stages import Network, Windows

Patch = tuple[int, int] | tuple[int, int, int]  # voxels of the last two axes, or of all three

_SLICES_AT_ONCE = 8  # through a network of two dimensions


@dataclass(frozen=True, slots=True)
class Style:
    """How windows lie, how a network of two dimensions is shown them, and what comes of them."""

    plan: Callable[[Shape, Patch, float], WindowPlan]  # the volume's shape, the patch, the overlap
    of_slices: Callable[[Forward], Forward]
    # [channel, *padded_shape] -> logits [class, *padded_shape] on the same device
    blend: Callable[[Forward, torch.Tensor, WindowPlan, Windows, int], torch.Tensor]


def _plan_as_monai(shape: Shape, patch: Patch, overlap: float) -> WindowPlan:
    if len(patch) == 3:
        return plan_windows(shape, patch, overlap)
    some = min(_SLICES_AT_ONCE, shape[0])
    plan = plan_windows(shape, (some, *patch), overlap)
    starts = tuple(min(first, shape[0] - some) for first in range(0, shape[0], some))
    return replace(plan, starts=(starts, plan.starts[1], plan.starts[2]))


def _blend_as_monai(
    forward: Forward, channels: torch.Tensor, plan: WindowPlan, windows: Windows, classes: int
) -> torch.Tensor:
    return blended_logits(forward, channels, plan, classes, importance_of(windows, plan))


def _blend_as_nnunet(
    forward: Forward, channels: torch.Tensor, plan: WindowPlan, windows: Windows, classes: int
) -> torch.Tensor:
    del windows
    return blended_halves(forward, channels, plan, classes)


STYLES: Mapping[str, Style] = {
    "monai": Style(_plan_as_monai, of_slices, _blend_as_monai),
    "nnunet": Style(plan_nnunet_windows, slice_by_slice, _blend_as_nnunet),
}


def importance_of(windows: Windows, plan: WindowPlan) -> torch.Tensor:
    """How much each voxel of a window counts in style "monai", `[a0, a1, a2]`."""
    is_constant = windows.blending == "constant"
    return torch.ones(plan.window) if is_constant else importance_map(plan.window, windows.sigma)


def plan_stage(shape: Shape, windows: Windows, network: Network, most_voxels: int) -> WindowPlan:
    """The windows for a volume of `shape`; `most_voxels` bounds those of "whole".

    Raises:
        Unavailable: no window is small enough.
    """
    style = STYLES[windows.style]
    if not isinstance(windows.patch, str):
        return style.plan(shape, windows.patch, windows.overlap)
    if network.dimensions == 3:
        return plan_whole(shape, windows.multiple, windows.overlap, most_voxels)
    rows, columns = (-(-count // windows.multiple) * windows.multiple for count in shape[1:])
    return style.plan(shape, (rows, columns), windows.overlap)
