"""Scores on a network's grid -> labels on the grid that was resampled to it by rule "centres", as nnU-Net does it.

nnU-Net interpolates each class linearly over the whole volume in FP64, rounds to the halves that its logits are, and
takes the highest, of equals the first. Here the same sums are made in the same order, so the labels are the same to the
voxel, but only where they can decide something: between eight network voxels of one winner, whose lead is larger than
the rounding, that winner wins everywhere. Memory beside scores and labels is a few planes per thread.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.inference.deciding import Codes, Decision, Floating, LabelArray
from dicomnode.inference.picture import Shape

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]

_POINTS = 1 << 18  # times classes: the arrays of so many FP64 stay near the processor
_PLANES = 4  # of cells at a time: the arrays of each class stay near the processor


@dataclass(frozen=True, slots=True)
class Taps:
    """Along one axis: the two voxels that each new one lies between, and their weights."""

    low: Indices
    high: Indices
    low_weight: Doubles
    high_weight: Doubles


AxisTaps = tuple[Taps, Taps, Taps]


def linear_taps(count: int, new_count: int) -> Taps:
    """The weights of `scipy.ndimage.zoom` of order 1 in grid mode.

    Beyond the outer centres both voxels are the outer one, and each has its weight: their sum is not always 1.
    """
    at = _positions(count, new_count)
    low = np.floor(at)
    low_weight = 1.0 - (at - low)
    first, second = (np.clip(low + step, 0, count - 1).astype(np.intp) for step in (0, 1))
    return Taps(first, second, low_weight, 1.0 - low_weight)


def nearest_taps(count: int, new_count: int) -> Taps:
    """The nearest voxel, of two equally near the upper."""
    index = np.floor(np.clip(_positions(count, new_count), 0, count - 1) + 0.5).astype(np.intp)
    return Taps(index, index, np.ones(new_count), np.zeros(new_count))


def _positions(count: int, new_count: int) -> Doubles:
    return (np.arange(new_count, dtype=np.float64) + 0.5) * (count / new_count) - 0.5


def labels_between(scores: torch.Tensor, taps: AxisTaps, decision: Decision, threads: int = 1) -> LabelArray:
    """`[class, axis 0, axis 1, axis 2]` on the CPU -> labels at the taps' voxels, `[axis 0, axis 1, axis 2]`."""
    shape = (taps[0].low.size, taps[1].low.size, taps[2].low.size)
    if tuple(scores.shape[1:]) == shape:
        return _labels_in_place(scores, decision)
    grid = _Grid(scores, taps, decision, threads)
    labels = np.empty(shape, decision.dtype)

    def fill(index: int) -> None:
        labels[index] = grid.plane(index)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(shape[0])):
            pass
    return labels


def _labels_in_place(scores: torch.Tensor, decision: Decision) -> LabelArray:
    """Nothing was resampled: nnU-Net decides the scores as they are."""
    planes = [decision.labels(decision.codes(plane.flatten(1).numpy())) for plane in scores.unbind(1)]
    return np.stack(planes).reshape(scores.shape[1:])


class _Grid:
    """Scores, the cells between them that need no look, and where the new voxels lie."""

    def __init__(self, scores: torch.Tensor, taps: AxisTaps, decision: Decision, threads: int) -> None:
        self._taps, self._decision = taps, decision
        self._cells = cells_of(scores, decision, threads)
        self._scores = scores.contiguous().flatten(1).numpy()
        self._portion = max(64, _POINTS // len(scores))

    def plane(self, index: int) -> LabelArray:
        """The labels `[axis 1, axis 2]` of one new plane."""
        depth, rows, columns = self._taps
        cells = self._cells[depth.low[index]]
        codes = np.take(cells, rows.low[:, None] * cells.shape[1] + columns.low).reshape(-1)
        crossed = np.flatnonzero(codes < 0)
        for first in range(0, crossed.size, self._portion):
            where = crossed[first : first + self._portion]
            codes[where] = self._decision.codes_of_sums(self._sums(index, *np.divmod(where, columns.low.size)))
        return self._decision.labels(codes).reshape(rows.low.size, columns.low.size)

    def _sums(self, index: int, row: Indices, column: Indices) -> Doubles:
        """`[class, point]`, added in the order in which `zoom` adds."""
        sums = np.zeros((len(self._scores), row.size))
        for corner, weights in self._corners(index, row, column):
            values = _widened(self._scores.take(corner, axis=1), _DOUBLES)
            for weight in weights:
                values *= weight
            sums += values
        return sums

    def _corners(self, index: int, row: Indices, column: Indices) -> Iterator[tuple[Indices, tuple[Doubles, ...]]]:
        """Of each corner of the points' cells the flat index of its voxel and the weights along the three axes."""
        depth, rows, columns = self._taps
        _, height, width = self._cells.shape
        for z, z_weight in ((depth.low[index], depth.low_weight[index]), (depth.high[index], depth.high_weight[index])):
            if z_weight == 0:
                continue
            for y, y_weight in ((rows.low[row], rows.low_weight[row]), (rows.high[row], rows.high_weight[row])):
                start = (z * height + y) * width
                yield start + columns.low[column], (z_weight, y_weight, columns.low_weight[column])
                yield start + columns.high[column], (z_weight, y_weight, columns.high_weight[column])


def cells_of(scores: torch.Tensor, decision: Decision, threads: int = 1) -> Codes:
    """For every cell, named by its lowest voxel, the code that holds everywhere in it; -1: it depends on where."""
    _, depth, height, width = scores.shape
    values = scores.numpy()
    cells = np.empty((depth, height, width), np.int64 if decision.is_wide else np.int32)

    def fill(first: int) -> None:
        slab = _widened(np.ascontiguousarray(values[:, first : first + _PLANES + 1]), _SINGLES)
        cells[first : first + _PLANES] = _cells(slab, decision)[:_PLANES]

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(0, depth, _PLANES)):
            pass
    return cells


def _widened(values: Floating, table: Floating) -> Floating:
    """Halves by a table of all there are, several times faster than numpy's conversion; other numbers as they are."""
    return table.take(values.view(np.uint16)) if values.dtype == np.float16 else values.astype(table.dtype)


_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
_SINGLES, _DOUBLES = _HALVES.astype(np.float32), _HALVES.astype(np.float64)


def _cells(slab: Floating, decision: Decision) -> Codes:
    codes, lead, needed = decision.leads(slab)
    lowest = highest = codes
    for axis in range(3):
        lowest, highest = _over_cells(np.minimum, lowest, axis), _over_cells(np.maximum, highest, axis)
        lead, needed = _over_cells(np.minimum, lead, axis), _over_cells(np.maximum, needed, axis)
    lowest[(lowest != highest) | (lead <= needed)] = -1
    return lowest


def _over_cells(extreme: np.ufunc, voxels: NDArray[Any], axis: int) -> NDArray[Any]:
    """Of each voxel and the next along an axis; the last stays."""
    found, below, above = voxels.copy(), [slice(None)] * 3, [slice(None)] * 3
    below[axis], above[axis] = slice(None, -1), slice(1, None)
    extreme(voxels[tuple(below)], voxels[tuple(above)], out=found[tuple(below)])
    return found


def resampled_taps(shape: Shape, new_shape: Shape, apart_axis: int | None) -> AxisTaps:
    """From a network's grid of `shape` to one of `new_shape`; an axis that is apart takes its nearest voxel."""
    first, second, third = (
        (nearest_taps if axis == apart_axis else linear_taps)(count, new_count)
        for axis, (count, new_count) in enumerate(zip(shape, new_shape, strict=True))
    )
    return first, second, third
