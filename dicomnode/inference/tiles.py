"""Tiles of source voxels from the class probabilities around them: every voxel interpolated, by matrix products.

Trilinear interpolation is separable, so a tile is three products of small matrices with a part of the network's grid.
A voxel costs a quarter of what gathering its corners costs, so this is the way where boundaries are everywhere, and on
a GPU always.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.inference.gathering import Steps

_ROUNDING = 1e-5  # of probabilities


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a tile: its source indices, the network's voxels around them, and how these are mixed."""

    source: slice
    sampled: slice
    mix: torch.Tensor  # [source, sampled]


def tile_side(along: Steps, source: slice, size: int, device: torch.device) -> Side:
    """The side of a tile that is made of some of the positions along an axis of `size` network voxels."""
    low, weight = along.low[source], along.weight[source]
    first, last = int(low.min()), min(int(low.max()) + 1, size - 1)
    mix = np.zeros((low.size, last + 1 - first), np.float32)
    mix[np.arange(low.size), low - first] = 1 - weight
    mix[np.arange(low.size), np.minimum(low + 1, last) - first] += weight
    return Side(source, slice(first, last + 1), torch.from_numpy(mix).to(device))


def tile_sides(along: Steps, length: int, size: int, device: torch.device) -> list[Side]:
    """The sides of tiles of that length, one after the other, that cover the axis."""
    ends = range(length, along.low.size + length, length)
    return [tile_side(along, slice(end - length, min(end, along.low.size)), size, device) for end in ends]


def mixed(part: torch.Tensor, slices: Side, rows: Side, columns: Side) -> torch.Tensor:
    """`[class, plane, row, column]` of the network -> `[class, slice, row, column]` of the source."""
    classes, planes, height, width = part.shape
    deep = torch.matmul(slices.mix, part.reshape(classes, planes, height * width))
    wide = torch.matmul(deep.view(-1, width), columns.mix.T).view(-1, height, len(columns.mix))
    return torch.matmul(rows.mix, wide).view(classes, len(slices.mix), len(rows.mix), len(columns.mix))


def tops(probabilities: torch.Tensor, bands: list[Side], blocks: list[Side]) -> NDArray[np.float32]:
    """The highest probability of each class around each tile, `[band, class, block]`."""
    highest = probabilities.amax(dim=1)
    rows = [highest[:, band.sampled].amax(dim=1) for band in bands]
    found = [torch.stack([row[:, block.sampled].amax(dim=1) for block in blocks], dim=1) for row in rows]
    return torch.stack(found).cpu().numpy()


def candidates(top: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a class may win somewhere in a tile, `[band, class, block]`; `top` is the highest it reaches around it.

    Probabilities sum to 1. What the losers reach at most leaves at least so much for the others together, and the
    winner has at least its share of that: whoever stays below the share is a loser. The more losers are known, the
    higher the share.
    """
    ascending = np.sort(top, axis=1)
    classes = top.shape[1]
    losers = np.arange(1, classes)[:, None]
    share = (1.0 - np.cumsum(ascending[:, :-1], axis=1)) / (classes - losers)
    count = ((ascending[:, :-1] < share - _ROUNDING) * losers).max(axis=1, keepdims=True, initial=0)
    return top >= np.take_along_axis(ascending, count, axis=1)


def highest(heights: torch.Tensor) -> torch.Tensor:
    """The first index of those that are highest, `[class, ...]` -> `[...]`.

    On the CPU a running maximum beats argmax; indices ascend, so the last one that rose above all before it is the
    largest.
    """
    if heights.device.type != "cpu":
        return heights.argmax(0)
    fields = heights.numpy()
    kind = np.uint8 if len(fields) <= np.iinfo(np.uint8).max else np.uint16
    best, winners = fields[0].copy(), np.zeros(fields.shape[1:], kind)
    for index in range(1, len(fields)):
        np.maximum(winners, (fields[index] > best) * kind(index), out=winners)
        np.maximum(best, fields[index], out=best)
    return torch.from_numpy(winners)
