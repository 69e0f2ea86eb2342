"""Networks as the windows need them: of any number of dimensions, mirrored, told by name when they fail."""

from collections.abc import Sequence
from itertools import combinations

import torch

from dicomnode.inference.windows import Forward


def of_slices(forward: Forward) -> Forward:
    """A network of two dimensions as one of three: `[1, channel, slice, row, column]`, each slice by itself."""

    def each(window: torch.Tensor) -> torch.Tensor:
        logits = forward(window[0].transpose(0, 1).contiguous())  # [slice, class, row, column]
        return logits.transpose(0, 1)[None]

    return each


def mirrored(forward: Forward, axes: Sequence[int]) -> Forward:
    """The mean over all flips along some of the three axes, each turned back (test-time mirroring)."""
    if not axes:
        return forward
    flips = [[2 + axis for axis in some] for count in range(1, len(axes) + 1) for some in combinations(axes, count)]

    def mean(window: torch.Tensor) -> torch.Tensor:
        total = forward(window)
        for flip in flips:
            total = total + forward(window.flip(flip)).flip(flip)
        return total / (len(flips) + 1)

    return mean
