"""Scores of any kind on the network's grid -> labels on another grid, one plane of that at a time.

Scores are interpolated trilinearly and the highest wins. A weighted mean preserves order: where one class wins at all
corners of a cell, it wins everywhere inside, so only cells that a boundary crosses are interpolated. And of scores that
sum to 1 over n classes the winner has at least 1/n, so a class that stays below 1/n on both planes concerned cannot win
between them.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.segmentation import Labels as SourceLabels

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8 | np.uint16]

_DRIFT_VOXELS = 1e-3  # below this over the whole volume it is rounding, not rotation
_ROUNDING = 1e-5  # of probabilities
_PORTION = 1 << 15  # points


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """Scores of every class on a grid, on that grid's axes."""

    scores: Floats  # [class, slice, row, column]
    winners: Labels  # [slice, row, column], the class with the highest score
    values: Labels  # [class], the label that a class is written as
    sum_to_one: bool = False  # over classes, at every voxel
    reach_voxels: float = math.inf  # so far beyond the outer centres the outer voxel is repeated; then comes 0

    @property
    def crossed(self) -> int:
        """The mark, beside the labels in use, for cells that a boundary crosses."""
        return int(np.iinfo(self.values.dtype).max)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes."""
        _, slices, rows, columns = self.scores.shape
        return slices, rows, columns


@dataclass(frozen=True, slots=True)
class _Steps:
    """Where positions along one axis fall: low index of the cell, weight of the cell's high side, inside or not."""

    low: Indices
    weight: Floats
    inside: Mask


@dataclass(frozen=True, slots=True)
class _Points:
    """Points to interpolate at: flat index of each of the cell's corners, and the weights per axis, last axis first."""

    corners: tuple[Indices, ...]
    weights: tuple[Floats, ...]


def labels_from_scores(
    answer: ClassScores, to_sampled: NDArray[np.float64], shape: tuple[int, int, int], threads: int = 1
) -> SourceLabels:
    """The label with the highest score at every voxel of a grid of `shape`.

    Args:
        to_sampled: 4 x 4, index of a voxel -> index on the grid of the scores.
    """
    parallel = _planes_are_parallel(to_sampled, shape)
    grid = _ParallelPlanes(answer, to_sampled) if parallel else _ObliquePlanes(answer, to_sampled)
    labels: Labels = np.empty(shape, dtype=answer.values.dtype)

    def fill(index: int) -> None:
        grid.fill(labels[index], index)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(shape[0])):
            pass
    return cast(SourceLabels, labels)


def _planes_are_parallel(to_sampled: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    _, rows, columns = shape
    drift = to_sampled[:3, 1:3] * (rows, columns)  # [slice row column] moved by crossing all rows, all columns
    drift[(1, 2), (0, 1)] = 0.0
    return bool(np.abs(drift).max() < _DRIFT_VOXELS)


class _ParallelPlanes:
    """Source planes parallel to the sampled ones: two network planes are blended, then rows and columns."""

    def __init__(self, answer: ClassScores, to_sampled: NDArray[np.float64]) -> None:
        self._answer = answer
        self._to_sampled = to_sampled
        self._cells = _cell_labels(answer)
        self._candidates = _candidates(answer)

    def fill(self, plane: Labels, index: int) -> None:
        """Write the labels of one source slice into `plane` [row, column]."""
        depth, rows, columns = self._axis_steps(index, plane.shape)
        cells = self._cells[depth.low[0]]
        np.take(cells, rows.low[:, None] * cells.shape[1] + columns.low, out=plane, mode="clip")
        crossed = np.flatnonzero(plane == self._answer.crossed)
        shape, fields = self._answer.shape, self._blended(depth)
        for where in _portions(crossed):
            plane.reshape(-1)[where] = self._answer.values[
                _winners(fields, _points_in_plane(where, rows, columns, shape))
            ]
        if not (depth.inside.all() and rows.inside.all() and columns.inside.all()):
            plane[~(depth.inside & rows.inside[:, None] & columns.inside)] = 0

    def _axis_steps(self, index: int, shape: tuple[int, ...]) -> tuple[_Steps, _Steps, _Steps]:
        depth, row, column = self._to_sampled[:3, 0] * index + self._to_sampled[:3, 3]
        depths, rows, columns = self._answer.shape
        return (
            _steps(np.array([depth]), depths, self._answer.reach_voxels),
            _steps(self._to_sampled[1, 1] * np.arange(shape[0]) + row, rows, self._answer.reach_voxels),
            _steps(self._to_sampled[2, 2] * np.arange(shape[1]) + column, columns, self._answer.reach_voxels),
        )

    def _blended(self, depth: _Steps) -> list[tuple[int, Floats]]:
        """Class and flat plane at that depth, of the classes that can win there."""
        low, weight = int(depth.low[0]), depth.weight[0]
        high = min(low + 1, self._answer.shape[0] - 1)
        fields: list[tuple[int, Floats]] = []
        for index in np.flatnonzero(self._candidates[:, low] | self._candidates[:, high]):
            first, second = self._answer.scores[index, low], self._answer.scores[index, high]
            fields.append((int(index), (first * (1 - weight) + second * weight).reshape(-1)))
        return fields


class _ObliquePlanes:
    """Source planes at any angle to the sampled ones: all eight corners of each voxel's cell are looked up."""

    def __init__(self, answer: ClassScores, to_sampled: NDArray[np.float64]) -> None:
        self._answer = answer
        self._to_sampled = to_sampled
        self._cells = _cell_labels(answer)
        self._flat = np.ascontiguousarray(answer.scores).reshape(len(answer.scores), -1)

    def fill(self, plane: Labels, index: int) -> None:
        """Write the labels of one source slice into `plane` [row, column]."""
        steps = [self._steps(axis, index, plane.shape) for axis in range(3)]
        low = np.ravel_multi_index(tuple(s.low for s in steps), self._cells.shape)
        np.take(self._cells, low, out=plane, mode="clip")
        shape, fields = self._answer.shape, list(enumerate(self._flat))
        for where in _portions(np.flatnonzero(plane == self._answer.crossed)):
            plane.reshape(-1)[where] = self._answer.values[_winners(fields, _points_in_volume(where, steps, shape))]
        plane[~(steps[0].inside & steps[1].inside & steps[2].inside)] = 0

    def _steps(self, axis: int, index: int, shape: tuple[int, ...]) -> _Steps:
        along_slice, along_row, along_column, offset = self._to_sampled[axis]
        rows, columns = (np.arange(count) for count in shape)
        positions = (along_slice * index + offset) + along_row * rows[:, None] + along_column * columns
        return _steps(positions, self._answer.shape[axis], self._answer.reach_voxels)


def _steps(positions: NDArray[np.float64], size: int, reach: float) -> _Steps:
    """Positions in voxels along an axis of `size` voxels; beyond the outer centres the outer voxel is repeated."""
    inside = (positions >= -reach) & (positions <= size - 1 + reach)
    low = np.clip(np.floor(positions), 0, max(size - 2, 0)).astype(np.intp)
    weight = np.clip(positions - low, 0.0, min(size - 1, 1.0)).astype(np.float32)
    return _Steps(low, weight, inside)


def _cell_labels(answer: ClassScores) -> Labels:
    """For every cell between 2 x 2 x 2 network voxels the label that wins in all of it, or the mark `crossed`.

    An axis of one voxel has one cell.
    """
    lowest = highest = np.ascontiguousarray(answer.winners)
    for axis in range(3):
        lowest, highest = _over_neighbours(np.minimum, lowest, axis), _over_neighbours(np.maximum, highest, axis)
    cells = answer.values[lowest]
    cells[lowest != highest] = answer.crossed
    return cells


def _over_neighbours(extreme: np.ufunc, voxels: Labels, axis: int) -> Labels:
    if voxels.shape[axis] == 1:
        return voxels
    below, above = [slice(None)] * 3, [slice(None)] * 3
    below[axis], above[axis] = slice(None, -1), slice(1, None)
    return extreme(voxels[tuple(below)], voxels[tuple(above)])


def _candidates(answer: ClassScores) -> Mask:
    """`[class, slice]`: whether the class may win somewhere beside that network slice: if it reaches 1/n there."""
    if not answer.sum_to_one:
        return np.ones(answer.scores.shape[:2], np.bool_)
    return answer.scores.max(axis=(2, 3)) >= 1.0 / len(answer.scores) - _ROUNDING


def _points_in_plane(where: Indices, rows: _Steps, columns: _Steps, shape: tuple[int, int, int]) -> _Points:
    row, column = np.divmod(where, columns.low.size)
    corner = rows.low[row] * shape[2] + columns.low[column]
    return _Points(_corners(corner, shape[1:]), (columns.weight[column], rows.weight[row]))


def _points_in_volume(where: Indices, steps: list[_Steps], shape: tuple[int, int, int]) -> _Points:
    low = tuple(s.low.reshape(-1)[where] for s in steps)
    weights = tuple(s.weight.reshape(-1)[where] for s in reversed(steps))
    return _Points(_corners(np.ravel_multi_index(low, shape), shape), weights)


def _corners(low: Indices, shape: tuple[int, ...]) -> tuple[Indices, ...]:
    """Flat indices of a cell's corners, the last axis varying fastest."""
    corners, stride = [low], 1
    for size in reversed(shape):
        step = stride if size > 1 else 0
        corners = [corner + distance for distance in (0, step) for corner in corners]
        stride *= size
    return tuple(corners)


def _portions(where: Indices) -> list[Indices]:
    """The same in portions whose intermediate arrays stay in the processor's cache."""
    return [where[start : start + _PORTION] for start in range(0, where.size, _PORTION)]


def _winners(fields: list[tuple[int, Floats]], points: _Points) -> NDArray[np.uint16]:
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


def _interpolated(field: Floats, points: _Points) -> Floats:
    heights = [field.take(corner) for corner in points.corners]
    for weight in points.weights:
        heights = [_between(low, high, weight) for low, high in zip(heights[::2], heights[1::2], strict=True)]
    return heights[0]


def _between(low: Floats, high: Floats, weight: Floats) -> Floats:
    high -= low
    high *= weight
    high += low
    return high
