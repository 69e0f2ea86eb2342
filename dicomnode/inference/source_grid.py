"""Scores of classes on the network's grid -> labels on the scanner's grid.

Scores are interpolated trilinearly and the highest class wins, so boundaries fall between the network's voxels. Grids
of parallel planes (also of a tilted gantry) go by `source_planes`, which needs no more than a slab of the scores at a
time; others need all of them.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.imaging.segmentation import Labels as SourceLabels
from dicomnode.inference.gathering import Indices, Points, Steps, cell_labels, corners, highest_class, portions, steps
from dicomnode.inference.source_planes import GridMap, SourcePlanes

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8 | np.uint16]


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


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest dtype that holds the labels of so many classes and one mark beside them."""
    return np.uint8 if classes <= np.iinfo(np.uint8).max else np.uint16


def labels_from_scores(
    answer: ClassScores, to_sampled: NDArray[np.float64], shape: tuple[int, int, int], threads: int = 1
) -> SourceLabels:
    """The label with the highest score at every voxel of a grid of `shape`.

    Args:
        to_sampled: 4 x 4, index of a voxel -> index on the grid of the scores.
    """
    grids = GridMap(to_sampled, shape, answer.shape, answer.reach_voxels)
    if grids.is_parallel:
        planes = SourcePlanes(grids, answer.values, sum_to_one=answer.sum_to_one, threads=threads)
        winners = torch.from_numpy(np.ascontiguousarray(answer.winners))
        planes.add(0, torch.from_numpy(np.ascontiguousarray(answer.scores)), winners)
        return cast(SourceLabels, planes.labels)
    return cast(SourceLabels, _oblique_labels(answer, grids, threads))


def _oblique_labels(answer: ClassScores, grids: GridMap, threads: int) -> Labels:
    planes = _ObliquePlanes(answer, grids.to_sampled)
    labels: Labels = np.empty(grids.shape, dtype=answer.values.dtype)

    def fill(index: int) -> None:
        planes.fill(labels[index], index)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(len(labels))):
            pass
    return labels


class _ObliquePlanes:
    """Source planes at any angle to the sampled ones: all eight corners of each voxel's cell are looked up."""

    def __init__(self, answer: ClassScores, to_sampled: NDArray[np.float64]) -> None:
        self._answer = answer
        self._to_sampled = to_sampled
        self._cells = cell_labels(np.ascontiguousarray(answer.winners), answer.values, answer.crossed)
        self._flat = np.ascontiguousarray(answer.scores).reshape(len(answer.scores), -1)

    def fill(self, plane: Labels, index: int) -> None:
        """Write the labels of one source slice into `plane` [row, column]."""
        along = [self._steps(axis, index, plane.shape) for axis in range(3)]
        low = np.ravel_multi_index(tuple(s.low for s in along), self._cells.shape)
        np.take(self._cells, low, out=plane, mode="clip")
        shape, fields = self._answer.shape, list(enumerate(self._flat))
        for where in portions(np.flatnonzero(plane == self._answer.crossed)):
            winners = highest_class(fields, _points_in_volume(where, along, shape))
            plane.reshape(-1)[where] = self._answer.values[winners]
        plane[~(along[0].inside & along[1].inside & along[2].inside)] = 0

    def _steps(self, axis: int, index: int, shape: tuple[int, ...]) -> Steps:
        along_slice, along_row, along_column, offset = self._to_sampled[axis]
        rows, columns = (np.arange(count) for count in shape)
        positions = (along_slice * index + offset) + along_row * rows[:, None] + along_column * columns
        return steps(positions, self._answer.shape[axis], self._answer.reach_voxels)


def _points_in_volume(where: Indices, along: list[Steps], shape: tuple[int, int, int]) -> Points:
    low = tuple(s.low.reshape(-1)[where] for s in along)
    weights = tuple(s.weight.reshape(-1)[where] for s in reversed(along))
    return Points(corners(np.ravel_multi_index(low, shape), shape), weights)
