"""A volume through a network as nnU-Net does it: windows evenly spread, blended by a Gaussian, in half precision.

nnU-Net adds up and divides in halves whatever the network computes in. That decides voxels whose classes are close, so
it is done the same way here, and the halves are what goes back to the scanner's grid.
"""

from functools import lru_cache, reduce

import numpy as np
import torch
from scipy import ndimage

from dicomnode.errors import ModelError
from dicomnode.inference.windows import Forward, Shape, WindowPlan

Patch = tuple[int, int] | Shape  # voxels of the last two axes, or of all three

_SIGMA = 0.125  # of the patch
_HIGHEST = 10  # importance, so that halves hold the lowest too


def plan_nnunet_windows(shape: Shape, patch: Patch, overlap: float) -> WindowPlan:
    """As few windows per axis as keep `overlap`, evenly spread; a patch of two axes goes slice by slice."""
    window = patch if len(patch) == 3 else (1, *patch)
    first, second, third = (max(count, size) for count, size in zip(shape, window, strict=True))
    padded = (first, second, third)
    starts = [_starts(count, size, overlap) for count, size in zip(padded, window, strict=True)]
    if len(patch) == 2:
        starts[0] = tuple(range(first))
    return WindowPlan(padded, window, (starts[0], starts[1], starts[2]))


def _starts(count: int, size: int, overlap: float) -> tuple[int, ...]:
    """`compute_steps_for_sliding_window`."""
    step = round(1 - overlap, 12)  # nnU-Net keeps the step, we its complement: the rounding must not add a window
    windows = int(np.ceil((count - size) / (size * step))) + 1
    step = (count - size) / (windows - 1) if windows > 1 else 0.0
    return tuple(round(step * index) for index in range(windows))


@lru_cache(maxsize=4)
def nnunet_importance(patch: Shape) -> torch.Tensor:
    """How much each voxel of a window counts, in halves: `compute_gaussian`, nowhere 0."""
    profiles = [_gaussian(size) for size in patch]
    outer = reduce(lambda left, right: left[..., None] * right, profiles)
    importance = torch.from_numpy(outer / (outer.max() / _HIGHEST)).to(torch.float16)
    importance[importance == 0] = importance[importance != 0].min()
    return importance


def _gaussian(size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A Gaussian filter's answer to a unit; in several axes it is the product of those, to the last bit."""
    unit = np.zeros(size)
    unit[size // 2] = 1.0
    return np.asarray(ndimage.gaussian_filter(unit, size * _SIGMA, 0, mode="constant", cval=0))


def slice_by_slice(forward: Forward) -> Forward:
    """A network of two dimensions, `[1, channel, row, column]`, for windows of one slice."""
    return lambda window: forward(window[:, :, 0])[:, :, None]


def blended_halves(forward: Forward, channels: torch.Tensor, plan: WindowPlan, classes: int) -> torch.Tensor:
    """`[channel, *padded_shape]` -> logits `[class, *padded_shape]` in halves on the same device.

    Raises:
        ModelError: the network gives another shape than the manifest says, or NaN, infinity or more than halves hold.
    """
    importance = nnunet_importance(plan.window).to(channels.device)
    logits = torch.zeros((classes, *plan.padded_shape), dtype=torch.float16, device=channels.device)
    total = torch.zeros(plan.padded_shape, dtype=torch.float16, device=channels.device)
    for place in plan.slices():
        window = channels[(slice(None), *place)][None].clone(memory_format=torch.contiguous_format)
        said = _checked(forward(window), (classes, *plan.window))
        said *= importance
        logits[(slice(None), *place)] += said
        total[place] += importance
    logits /= total
    return _finite(logits)


def _checked(logits: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(logits.shape) != (1, *shape):
        raise ModelError(f"expected logits of shape {[1, *shape]} from the network, found {list(logits.shape)}")
    said = logits[0]
    return said.float() if said.dtype == torch.bfloat16 else said


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """Halves that are all numbers: a sum of them says so at once, and cannot itself leave FP32."""
    sums = [field.sum(dtype=torch.float32) for field in logits]  # class by class: the sum makes a copy in FP32
    if not bool(torch.stack(sums).isfinite().all()):
        raise ModelError(
            "expected logits within what half precision holds, found NaN or infinity; check the weights and the input"
        )
    return logits
