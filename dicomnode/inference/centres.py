"""Grid rule "centres": `skimage.transform.resize` as nnU-Net calls it, as matrices.

A spline of any order is linear in the voxels and goes axis by axis, so one matrix per axis says all of it. The matrices
are read off `scipy.ndimage.zoom` itself, a unit vector at a time, and kept in bands, because a spline forgets a voxel
within some thirty others. Arithmetic is FP64 as in the original, a slab at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.inference.picture import Shape, Spacing

_ROWS = 48  # of a band's block
_NOTHING = 1e-17  # of a voxel's weight
_SLAB_VOXELS = 1 << 22  # that are FP64 at a time


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    out: slice
    source: slice
    weights: torch.Tensor  # [out, source], FP64


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """A matrix along one axis, in blocks of rows with the columns in which they are not nothing."""

    count: int  # of rows
    blocks: tuple[_Block, ...]


@dataclass(frozen=True, slots=True)
class Apart:
    """One axis that is sampled by itself, after the other two."""

    axis: int
    order: int


def apart_axis(spacing_mm: Spacing, new_spacing_mm: Spacing, above: float) -> int | None:
    """The one axis that is coarser than another by more than a factor: before, else after (nnU-Net's "separate z")."""
    for candidate in (spacing_mm, new_spacing_mm):
        if max(candidate) / min(candidate) > above:
            coarsest = [axis for axis, spacing in enumerate(candidate) if max(candidate) / spacing == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resized(channels: torch.Tensor, shape: Shape, order: int, apart: Apart | None = None) -> torch.Tensor:
    """`[channel, axis 0, axis 1, axis 2]` -> the same in FP32 with so many voxels, the outer faces where they were.

    Values stay within those of the channel (or, where an axis is apart, of the slice), as `resize` clips them.
    """
    if tuple(channels.shape[1:]) == shape:
        return channels.float()
    out = torch.empty((len(channels), *shape), dtype=torch.float32, device=channels.device)
    for source, target in zip(channels, out, strict=True):
        if apart is None:
            _resize_volume(source, target, order)
        else:
            _resize_slices(source.movedim(apart.axis, 0), target.movedim(apart.axis, 0), order, apart.order)
    return out


def _resize_volume(source: torch.Tensor, target: torch.Tensor, order: int) -> None:
    lowest, highest = (float(value) for value in torch.aminmax(source))
    bands = axis_bands(source.shape[0], target.shape[0], order)
    for block, planes in zip(bands.blocks, _planes_for(source, target, order, bands), strict=True):
        mixed = block.weights.to(planes.device) @ planes.reshape(len(planes), -1)
        target[block.out] = mixed.clamp_(lowest, highest).reshape(-1, *target.shape[1:])


def _planes_for(source: torch.Tensor, target: torch.Tensor, order: int, bands: Bands) -> Iterator[torch.Tensor]:
    """For each block of rows the planes that it mixes; a plane is resized once, and dropped when it has been used."""
    _, rows, columns = target.shape
    planes, start = source.new_empty((0, rows, columns), dtype=torch.float64), 0
    for block in bands.blocks:
        kept = planes[max(block.source.start - start, 0) :]
        start = block.source.start
        fresh = [
            resized_planes(source[z].double(), (rows, columns), order)
            for z in _portions(start + len(kept), block.source.stop, source[0].numel())
        ]
        planes = torch.cat([kept, *fresh])
        yield planes[: block.source.stop - start]


def _resize_slices(source: torch.Tensor, target: torch.Tensor, order: int, apart_order: int) -> None:
    """Each slice by itself, clipped by itself; then along the first axis."""
    _, rows, columns = target.shape
    planes = source.new_empty((len(source), rows, columns), dtype=torch.float64)
    for z in _portions(0, len(source), source[0].numel()):
        slices = source[z].double()
        lowest, highest = slices.amin(dim=(1, 2), keepdim=True), slices.amax(dim=(1, 2), keepdim=True)
        planes[z] = resized_planes(slices, (rows, columns), order).clamp_(lowest, highest)
    for block in axis_bands(len(source), len(target), apart_order).blocks:
        mixed = block.weights.to(planes.device) @ planes[block.source].reshape(len(planes[block.source]), -1)
        target[block.out] = mixed.reshape(-1, rows, columns)


def resized_planes(planes: torch.Tensor, shape: tuple[int, int], order: int) -> torch.Tensor:
    """`[plane, row, column]` in FP64 -> so many rows and columns."""
    count, rows, columns = planes.shape
    if columns != shape[1]:
        wide = planes.new_empty((count, rows, shape[1]))
        for block in axis_bands(columns, shape[1], order).blocks:
            wide[..., block.out] = planes[..., block.source] @ block.weights.T.to(planes.device)
        planes = wide
    if rows != shape[0]:
        tall = planes.new_empty((count, *shape))
        for block in axis_bands(rows, shape[0], order).blocks:
            tall[:, block.out] = block.weights.to(planes.device) @ planes[:, block.source]
        planes = tall
    return planes


def _portions(start: int, stop: int, plane_voxels: int) -> Iterator[slice]:
    step = max(1, _SLAB_VOXELS // plane_voxels)
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))


@lru_cache(maxsize=64)
def axis_bands(count: int, new_count: int, order: int) -> Bands:
    """The matrix that takes `count` voxels along an axis to `new_count`."""
    matrix = np.eye(count) if count == new_count else _zoomed_units(count, new_count, order)
    return Bands(new_count, tuple(_block(matrix, first) for first in range(0, new_count, _ROWS)))


def _zoomed_units(count: int, new_count: int, order: int) -> NDArray[np.float64]:
    factor = 1 / (count / new_count)  # as resize computes it
    units = np.eye(count)
    matrix = np.empty((new_count, count))
    for index, unit in enumerate(units):
        matrix[:, index] = ndimage.zoom(unit, factor, order=order, mode="nearest", grid_mode=True)
    return matrix


def _block(matrix: NDArray[np.float64], first: int) -> _Block:
    rows = matrix[first : first + _ROWS]
    used = np.flatnonzero(np.abs(rows).max(axis=0) > _NOTHING)
    source = slice(int(used[0]), int(used[-1]) + 1)
    return _Block(slice(first, first + len(rows)), source, torch.from_numpy(rows[:, source].copy()))
