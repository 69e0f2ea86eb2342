"""Scores of classes on planes parallel to the scanner's slices -> labels of those slices, as the planes arrive.

Scores are interpolated trilinearly and the highest class wins, so boundaries fall between the network's
voxels; labels carried back by nearest neighbour would show its steps. Where few cells between the network's voxels are
crossed by a boundary, only the source voxels in those are interpolated; elsewhere tiles of them (see `tiles`).
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.inference.gathering import Floats, Points, Steps, cell_labels, corners, highest_class, portions, steps
from dicomnode.inference.tiles import Side, candidates, highest, mixed, tile_side, tile_sides, tops

Labels = NDArray[np.uint8 | np.uint16]
Shape = tuple[int, int, int]
Place = TypeVar("Place")

_DRIFT_VOXELS = 1e-3  # below this over the whole volume it is rounding, not rotation
_MOST_SLICES = 24  # labelled together
_MOST_CELLS = 16  # along the slices, of the network's grid around these
_TILE_ROWS, _TILE_COLUMNS = 32, 64
_LONE_ROWS, _LONE_COLUMNS = 64, 256  # where tiles are one or two slices thick
_MANY_CROSSED = 0.35  # of the cells: above it every voxel is interpolated


@dataclass(frozen=True, slots=True, eq=False)
class GridMap:
    """Where the voxels of a source grid lie on a sampled grid."""

    to_sampled: NDArray[np.float64]  # 4 x 4, index of a source voxel -> index on the sampled grid
    shape: Shape  # of the source grid
    sampled_shape: Shape
    reach_voxels: float = math.inf  # so far beyond the outer centres the outer voxel is repeated; then comes 0

    @property
    def is_parallel(self) -> bool:
        """Whether planes are parallel to planes and rows to rows; slices of a tilted gantry may slide."""
        _, rows, columns = self.shape
        drift = self.to_sampled[:3, 1:3] * (rows, columns)  # moved by crossing all rows, all columns
        drift[(1, 2), (0, 1)] = 0.0
        return bool(np.abs(drift).max() < _DRIFT_VOXELS)

    @property
    def is_sheared(self) -> bool:
        """Whether the slices slide."""
        return bool(np.abs(self.to_sampled[1:3, 0] * self.shape[0]).max() > _DRIFT_VOXELS)

    def along(self, axis: int, index: int = 0) -> Steps:
        """Where the slices fall, or the rows or columns of the source slice `index`; for parallel planes."""
        shift = self.to_sampled[axis, 3] + (self.to_sampled[axis, 0] * index if axis else 0.0)
        positions = self.to_sampled[axis, axis] * np.arange(self.shape[axis]) + shift
        return steps(positions, self.sampled_shape[axis], self.reach_voxels)


@dataclass(frozen=True, slots=True, eq=False)
class _Planes:
    """Neighbouring planes of the sampled grid."""

    first: int
    scores: torch.Tensor  # [class, plane, row, column]
    winners: torch.Tensor  # [plane, row, column]

    @property
    def end(self) -> int:
        return self.first + len(self.winners)

    def between(self, planes: slice) -> "_Planes":
        here = slice(planes.start - self.first, planes.stop - self.first)
        return _Planes(planes.start, self.scores[:, here], self.winners[here])


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Source slices that are labelled together, and what there is around them."""

    slices: Side
    is_inside: NDArray[np.bool_]  # of the slices
    rows: Steps
    columns: Steps
    around: _Planes
    cells: Labels  # [plane, row, column], see `cell_labels`; none on a GPU


class SourcePlanes:
    """Labels `[slice, row, column]` of a source grid whose planes are parallel to those of a sampled grid.

    Slabs of the sampled grid are given in any order; nothing of them is kept, so neighbouring slabs have a plane in
    common. Source voxels out of reach of the sampled grid, and slices that no slab had on both sides, are 0.
    """

    def __init__(self, grids: GridMap, values: Labels, *, sum_to_one: bool = False, threads: int = 1) -> None:
        """Begin with nothing labelled.

        Args:
            grids: parallel ones.
            values: [class], the label that a class is written as; less than the highest number of its type.
            sum_to_one: the scores of all classes are probabilities; fewer classes are then looked at.
            threads: that label at the same time.

        Raises:
            ValueError: the planes are not parallel.
        """
        if not grids.is_parallel:
            raise ValueError("expected grids of parallel planes, found one turned against the other")
        self._grids, self._values, self._sum_to_one, self._threads = grids, values, sum_to_one, threads
        self._crossed = int(np.iinfo(values.dtype).max)
        self._depth = grids.along(0)
        self._is_labelled = np.zeros(grids.shape[0], np.bool_)
        self.labels: Labels = np.zeros(grids.shape, dtype=values.dtype)

    def add(self, first: int, scores: torch.Tensor, winners: torch.Tensor | None = None) -> None:
        """Take the planes from `first` on, FP32 `[class, plane, row, column]`.

        Labels every source slice that has both planes around it among them. `winners` is the class with the highest
        score, `[plane, row, column]`, where the caller has it.
        """
        planes = _Planes(first, scores, _winners(scores) if winners is None else winners)
        highs = np.minimum(self._depth.low + 1, self._grids.sampled_shape[0] - 1)
        ready = ~self._is_labelled & (self._depth.low >= planes.first) & (highs < planes.end)
        # Under autocast the matrix products would be in half precision.
        with torch.autocast(scores.device.type, enabled=False):
            for slices in self._together(np.flatnonzero(ready)):
                self._label(self._batch(slices, planes))
        self._is_labelled |= ready

    def _together(self, ready: NDArray[np.intp]) -> Iterator[slice]:
        """Neighbouring slices that are labelled together."""
        start = 0
        for index in range(1, ready.size + 1):
            is_full = index - start >= (1 if self._grids.is_sheared else _MOST_SLICES)
            if index == ready.size or is_full or self._cells_between(ready[start], ready[index]) > _MOST_CELLS:
                yield slice(int(ready[start]), int(ready[index - 1]) + 1)
                start = index

    def _cells_between(self, first: np.intp, last: np.intp) -> int:
        return abs(int(self._depth.low[last] - self._depth.low[first])) + 1

    def _batch(self, slices: slice, planes: _Planes) -> _Batch:
        device = planes.scores.device
        side = tile_side(self._depth, slices, self._grids.sampled_shape[0], device)
        around = planes.between(side.sampled)
        rows, columns = self._grids.along(1, slices.start), self._grids.along(2, slices.start)
        cells = np.empty((0, 0, 0), self._values.dtype)
        if device.type == "cpu":
            cells = cell_labels(np.ascontiguousarray(around.winners.numpy()), self._values, self._crossed)
        return _Batch(side, self._depth.inside[slices], rows, columns, around, cells)

    def _label(self, batch: _Batch) -> None:
        """Label the slices of a batch in the cheaper of the two ways."""
        if not batch.cells.size or (batch.cells == self._crossed).mean() > _MANY_CROSSED:
            self._label_tiles(batch)
        else:
            self._label_points(batch)
        labels = self.labels[batch.slices.source]
        for axis, inside in enumerate((batch.is_inside, batch.rows.inside, batch.columns.inside)):
            labels[(*(slice(None),) * axis, ~inside)] = 0

    def _label_tiles(self, batch: _Batch) -> None:
        """Interpolate every voxel."""
        device = batch.around.scores.device
        height, width = self._tile_size(batch)
        bands = tile_sides(batch.rows, height, self._grids.sampled_shape[1], device)
        blocks = tile_sides(batch.columns, width, self._grids.sampled_shape[2], device)
        is_candidate = self._candidates(batch, bands, blocks)
        fill = partial(self._fill_band, batch, blocks)
        _for_each(self._threads if device.type == "cpu" else 1, fill, list(zip(bands, is_candidate, strict=True)))

    def _candidates(self, batch: _Batch, bands: list[Side], blocks: list[Side]) -> NDArray[np.bool_]:
        """Whether a class may win in a tile, `[band, class, block]`."""
        if not self._sum_to_one:
            return np.ones((len(bands), len(batch.around.scores), len(blocks)), np.bool_)
        return candidates(tops(batch.around.scores, bands, blocks))

    def _tile_size(self, batch: _Batch) -> tuple[int, int]:
        """Rows and columns of a tile: what stays in the processor's cache, and everything on a GPU."""
        if batch.around.scores.device.type != "cpu":
            return self._grids.shape[1], self._grids.shape[2]
        return (_TILE_ROWS, _TILE_COLUMNS) if len(batch.slices.mix) > 2 else (_LONE_ROWS, _LONE_COLUMNS)

    def _fill_band(self, batch: _Batch, blocks: list[Side], place: tuple[Side, NDArray[np.bool_]]) -> None:
        """Label the tiles of one band of rows, of which the candidates `[class, block]` are known."""
        band, is_candidate = place
        for block, is_wanted in zip(blocks, is_candidate.T, strict=True):
            classes = np.flatnonzero(is_wanted)
            part = batch.around.scores[:, :, band.sampled, block.sampled]
            if classes.size < len(part):
                part = part[torch.from_numpy(classes).to(part.device)]
            winners = highest(mixed(part, batch.slices, band, block)).cpu().numpy()
            self.labels[batch.slices.source, band.source, block.source] = self._values[classes][winners]

    def _label_points(self, batch: _Batch) -> None:
        """Label voxels of cells that one class owns by the cell, and interpolate the others."""
        whole_rows = tile_sides(
            batch.columns, batch.columns.low.size, self._grids.sampled_shape[2], torch.device("cpu")
        )
        bands = tile_sides(batch.rows, _TILE_ROWS, self._grids.sampled_shape[1], torch.device("cpu"))
        is_candidate = self._candidates(batch, bands, whole_rows)[..., 0]  # [band, class]
        fill = partial(self._fill_slice, batch, is_candidate)
        _for_each(self._threads, fill, list(range(batch.slices.source.start, batch.slices.source.stop)))

    def _fill_slice(self, batch: _Batch, is_candidate: NDArray[np.bool_], index: int) -> None:
        rows, columns, plane = batch.rows, batch.columns, self.labels[index]
        low = int(self._depth.low[index]) - batch.around.first
        np.take(batch.cells[low][rows.low], columns.low, axis=1, out=plane, mode="clip")
        fields = _Fields(batch.around.scores, low, float(self._depth.weight[index]))
        flat = plane.reshape(-1)
        for where in portions(np.flatnonzero(plane == self._crossed)):
            row, column = np.divmod(where, columns.low.size)
            corner = rows.low[row] * self._grids.sampled_shape[2] + columns.low[column]
            points = Points(corners(corner, self._grids.sampled_shape[1:]), (columns.weight[column], rows.weight[row]))
            bands = is_candidate[row[0] // _TILE_ROWS : row[-1] // _TILE_ROWS + 1]
            classes = np.flatnonzero(bands.any(axis=0))
            flat[where] = self._values[highest_class(((int(c), fields.plane(int(c))) for c in classes), points)]


class _Fields:
    """Flat planes of the classes' scores between two network planes, made when they are asked for."""

    def __init__(self, scores: torch.Tensor, low: int, weight: float) -> None:
        self._scores, self._weight = scores, weight
        self._low, self._high = low, min(low + 1, scores.shape[1] - 1)
        self._made: dict[int, Floats] = {}

    def plane(self, index: int) -> Floats:
        """The plane of one class."""
        if index not in self._made:
            low, high = self._scores[index, self._low], self._scores[index, self._high]
            self._made[index] = torch.lerp(low, high, self._weight).numpy().reshape(-1)
        return self._made[index]


def _winners(scores: torch.Tensor) -> torch.Tensor:
    """The highest class, plane by plane: those of all planes would not stay in the cache."""
    return torch.stack([highest(plane) for plane in scores.unbind(dim=1)])


def _for_each(threads: int, fill: Callable[[Place], None], places: list[Place]) -> None:
    """Fill all places, several at the same time, each by one thread of torch."""
    if threads == 1:
        for place in places:
            fill(place)
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        for _ in pool.map(fill, places):
            pass
    torch.set_num_threads(before)
