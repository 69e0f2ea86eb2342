"""Interpolation between the voxels around scattered points, and which class is highest there."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Labels = NDArray[np.uint8 | np.uint16]

_PORTION = 1 << 15  # points


@dataclass(frozen=True, slots=True)
class Steps:
    """Where positions along an axis fall: low index of the cell, weight of the cell's high side, inside or not."""

    low: Indices
    weight: Floats
    inside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Points:
    """Points to interpolate at: flat index of each of the cell's corners, and the weights per axis, last axis first."""

    corners: tuple[Indices, ...]
    weights: tuple[Floats, ...]


def steps(positions: NDArray[np.float64], size: int, reach: float) -> Steps:
    """Positions in voxels along an axis of `size` voxels; beyond the outer centres the outer voxel is repeated."""
    inside = (positions >= -reach) & (positions <= size - 1 + reach)
    low = np.clip(np.floor(positions), 0, max(size - 2, 0)).astype(np.intp)
    weight = np.clip(positions - low, 0.0, min(size - 1, 1.0)).astype(np.float32)
    return Steps(low, weight, inside)


def cell_labels(winners: Labels, values: Labels, crossed: int) -> Labels:
    """For every cell between 2 x 2 x 2 voxels the value of the class that wins in all of it, or the mark `crossed`.

    A weighted mean preserves order: a class that wins at all corners of a cell wins everywhere inside. An axis of one
    voxel has one cell.
    """
    lowest = highest = winners
    for axis in range(3):
        lowest, highest = _over_neighbours(np.minimum, lowest, axis), _over_neighbours(np.maximum, highest, axis)
    cells = values[lowest]
    cells[lowest != highest] = crossed
    return cells


def _over_neighbours(extreme: np.ufunc, voxels: Labels, axis: int) -> Labels:
    if voxels.shape[axis] == 1:
        return voxels
    below, above = [slice(None)] * 3, [slice(None)] * 3
    below[axis], above[axis] = slice(None, -1), slice(1, None)
    return extreme(voxels[tuple(below)], voxels[tuple(above)])


def corners(low: Indices, shape: tuple[int, ...]) -> tuple[Indices, ...]:
    """Flat indices of a cell's corners, the last axis varying fastest."""
    found, stride = [low], 1
    for size in reversed(shape):
        step = stride if size > 1 else 0
        found = [corner + distance for distance in (0, step) for corner in found]
        stride *= size
    return tuple(found)


def portions(where: Indices) -> list[Indices]:
    """The same in portions whose intermediate arrays stay in the processor's cache."""
    return [where[start : start + _PORTION] for start in range(0, where.size, _PORTION)]


def highest_class(fields: Iterable[tuple[int, Floats]], points: Points) -> NDArray[np.uint16]:
    """The class whose field is highest at each point; of equals the first.

    A running maximum beats argmax; classes ascend, so the last one that rose above all before it is the largest.
    """
    count = points.corners[0].size
    best, winners = np.full(count, -np.inf, np.float32), np.zeros(count, np.uint16)
    for index, field in fields:
        heights = _interpolated(field, points)
        np.maximum(winners, (heights > best) * np.uint16(index), out=winners)
        np.maximum(best, heights, out=best)
    return winners


def _interpolated(field: Floats, points: Points) -> Floats:
    heights = [field.take(corner) for corner in points.corners]
    for weight in points.weights:
        heights = [_between(low, high, weight) for low, high in zip(heights[::2], heights[1::2], strict=True)]
    return heights[0]


def _between(low: Floats, high: Floats, weight: Floats) -> Floats:
    high -= low
    high *= weight
    high += low
    return high
