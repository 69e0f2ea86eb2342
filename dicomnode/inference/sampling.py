"""Grid rules: where the voxels of a resampled grid are, each as the software that models were trained with has it.

Every rule is affine along each axis: new index i lies at `scale * i + offset` of the old axis. Linear sampling takes
two voxels per axis; splines of a higher order are linear in the voxels too, so along one axis they are a matrix, found
by giving scipy the unit vectors. Sampled in FP64, as scipy, scikit-image and MONAI do.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.inference.picture import Sampled, Shape, Spacing
from dicomnode.models.before import GridRule, Order

Positions = NDArray[np.float64]  # [new index], in voxels of the old axis
Indices = NDArray[np.intp]
_Edge = Literal["nearest", "constant"]  # what is beyond the outer voxels: the same again, or 0


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid."""

    voxels: int
    mm: float


@dataclass(frozen=True, slots=True)
class Rule:
    """How a piece of software lays one grid over another."""

    count: Callable[[Axis, float], int]  # voxels of an axis at another spacing
    step: Callable[[Axis, Axis], tuple[float, float]]  # old axis, new axis -> scale, offset
    nearest: Callable[[Positions], Positions]  # which voxel is nearest
    edge: _Edge

    def positions(self, old: Axis, new: Axis) -> Positions:
        """Where the voxels of the new axis lie on the old one."""
        scale, offset = self.step(old, new)
        return np.arange(new.voxels, dtype=np.float64) * scale + offset


def _half_up(positions: Positions) -> Positions:
    return np.floor(positions + 0.5)


def _count_of_faces(old: Axis, mm: float) -> int:
    return max(1, round(old.mm / mm * old.voxels))


def _step_of_faces(old: Axis, new: Axis) -> tuple[float, float]:
    scale = old.voxels / new.voxels
    return scale, 0.5 * scale - 0.5


def _count_of_corners(old: Axis, mm: float) -> int:
    return max(1, round(old.voxels * (old.mm / mm)))


def _step_of_corners(old: Axis, new: Axis) -> tuple[float, float]:
    return ((old.voxels - 1) / (new.voxels - 1) if new.voxels > 1 else 1.0), 0.0


def _count_of_monai(old: Axis, mm: float) -> int:
    """`compute_shape_offset` of monai.data.utils, without scale_extent."""
    return int(np.round((old.voxels - 1) * old.mm / mm + 1.0))


def _step_of_monai(old: Axis, new: Axis) -> tuple[float, float]:
    return new.mm / old.mm, 0.0


# "faces" is not here: that grid is made by `Scene.resample`.
RULES: Mapping[GridRule, Rule] = {
    "centres": Rule(_count_of_faces, _step_of_faces, _half_up, "nearest"),
    "corners": Rule(_count_of_corners, _step_of_corners, _half_up, "constant"),
    "monai": Rule(_count_of_monai, _step_of_monai, np.rint, "nearest"),  # exactly: `monai_grid`
}


def plan_sampling(shape: Shape, spacing_mm: Spacing, new_spacing_mm: Spacing, grid: GridRule) -> Sampled:
    """The move to another spacing by a rule of the table."""
    rule, to_index, counts = RULES[grid], np.eye(4), [0, 0, 0]
    for axis, (voxels, mm, new_mm) in enumerate(zip(shape, spacing_mm, new_spacing_mm, strict=True)):
        old = Axis(voxels, mm)
        counts[axis] = rule.count(old, new_mm)
        scale, offset = rule.step(old, Axis(counts[axis], new_mm))
        to_index[axis, axis], to_index[axis, 3] = (1 / scale, -offset / scale) if scale else (1.0, 0.0)
    return Sampled(to_index, shape, spacing_mm, (counts[0], counts[1], counts[2]), new_spacing_mm, grid)


def axes_of(move: Sampled) -> tuple[list[Axis], list[Axis]]:
    """The three axes before and after a move."""
    old = [Axis(voxels, mm) for voxels, mm in zip(move.shape, move.spacing_mm, strict=True)]
    new = [Axis(voxels, mm) for voxels, mm in zip(move.new_shape, move.new_spacing_mm, strict=True)]
    return old, new


def positions_back(move: Sampled) -> list[Positions]:
    """Where the voxels of the grid before the move lie on the grid after it, axis by axis, as the software has it."""
    if move.back:
        return list(move.back)
    old, new = axes_of(move)
    if move.grid in RULES:
        return [RULES[move.grid].positions(n, o) for o, n in zip(old, new, strict=True)]
    scales, offsets = np.diag(move.to_index), move.to_index[:3, 3]
    return [np.arange(o.voxels) * scale + offset for o, scale, offset in zip(old, scales, offsets, strict=False)]


def nearest_indices(positions: Positions, voxels: int, grid: GridRule) -> Indices:
    """The nearest of so many voxels to each position."""
    nearest = RULES[grid].nearest if grid in RULES else _half_up
    return np.clip(nearest(positions), 0, voxels - 1).astype(np.intp)


def sample(voxels: torch.Tensor, move: Sampled, order: Order) -> torch.Tensor:
    """`[channel, old axes]` -> `[channel, new axes]` in FP32, each channel by itself."""
    old, new = axes_of(move)
    rule = RULES[move.grid]
    at = move.forth or [rule.positions(o, n) for o, n in zip(old, new, strict=True)]
    along = [AxisSampler(p, o.voxels, order, rule, voxels.device) for p, o in zip(at, old, strict=True)]
    sampled = voxels.new_empty((len(voxels), *move.new_shape), dtype=torch.float32)
    for channel, wanted in zip(voxels, sampled, strict=True):
        planes = torch.stack([along[2](along[1](plane.double(), 0), 1) for plane in channel])
        along[0].write(planes, wanted)
    return sampled


class AxisSampler:
    """Samples one axis at given positions: by two voxels each, or by a matrix where the order is above 1."""

    def __init__(self, positions: Positions, voxels: int, order: Order, rule: Rule, device: torch.device) -> None:
        self._matrix: torch.Tensor | None = None
        if order >= 2:
            matrix = spline_matrix(tuple(positions.tolist()), voxels, order, rule.edge)
            self._matrix = torch.from_numpy(matrix).to(device)
        at = rule.nearest(positions) if order == 0 else positions
        inside = (at >= 0) & (at <= voxels - 1)
        at = np.clip(at, 0, voxels - 1)
        low = np.minimum(np.floor(at), max(voxels - 2, 0))
        self._low = torch.from_numpy(low.astype(np.int64)).to(device)
        self._high = (self._low + 1).clamp_(max=voxels - 1)
        self._weight = torch.from_numpy(at - low).to(device)
        self._kept = None if rule.edge == "nearest" or inside.all() else torch.from_numpy(inside).to(device)

    def part(self, where: slice) -> "AxisSampler":
        """The same at some of the positions."""
        part = copy(self)
        part._matrix = None if self._matrix is None else self._matrix[where]
        part._low, part._high, part._weight = self._low[where], self._high[where], self._weight[where]
        part._kept = None if self._kept is None else self._kept[where]
        return part

    def __call__(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """Values in FP64 -> the same, sampled along `axis`."""
        if self._matrix is not None:
            return torch.movedim(torch.tensordot(self._matrix, values.movedim(axis, 0), dims=1), 0, axis)
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        low, high = values.index_select(axis, self._low), values.index_select(axis, self._high)
        between = torch.lerp(low, high, self._weight.view(shape))
        return between if self._kept is None else between * self._kept.view(shape)

    def write(self, planes: torch.Tensor, wanted: torch.Tensor) -> None:
        """Sample the first axis of `planes` into `wanted`, plane by plane."""
        if self._matrix is not None:
            wanted.copy_(torch.tensordot(self._matrix, planes, dims=1))
            return
        for index, plane in enumerate(wanted):
            low, high = planes[int(self._low[index])], planes[int(self._high[index])]
            plane.copy_(torch.lerp(low, high, self._weight[index]))
            if self._kept is not None and not self._kept[index]:
                plane.zero_()


@lru_cache(maxsize=24)
def spline_matrix(positions: tuple[float, ...], voxels: int, order: Order, edge: _Edge) -> NDArray[np.float64]:
    """`[new index, old index]`: what each old voxel counts at each position, of a spline of `order`."""
    at = np.array([positions])
    columns = [ndimage.map_coordinates(unit, at, order=order, mode=edge) for unit in np.eye(voxels)]
    return np.stack(columns, axis=1)
