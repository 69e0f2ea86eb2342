"""Linear sampling exactly as scipy.ndimage.zoom has it (mode "nearest"), down to the last bit of FP64.

TotalSegmentator cuts what zoom gives to whole numbers. In even tissue the sum of eight weighted voxels may end just
below the number that all of them are, and then becomes the next lower one: only the same sum in the same order does so.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from dicomnode.inference.picture import Shape

_PLANES = 16  # of the result, that are made at once


def zoom_linear(voxels: torch.Tensor, shape: Shape) -> torch.Tensor:
    """`[channel, old axes]` -> `[channel, *shape]` in FP64; the outermost voxels stay where they are."""
    if voxels.device.type == "cpu":
        return _by_scipy(voxels, shape)
    return zoom_on_device(voxels, shape)


def _by_scipy(voxels: torch.Tensor, shape: Shape) -> torch.Tensor:
    zoomed = np.empty((len(voxels), *shape))
    for channel, wanted in zip(voxels, zoomed, strict=True):
        zoom = [new / old for new, old in zip(shape, channel.shape, strict=True)]
        ndimage.zoom(channel.numpy(), zoom, output=wanted, order=1, mode="nearest")
    return torch.from_numpy(zoomed)


def zoom_on_device(voxels: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The same by tensor operations, on any device."""
    axes = [_Cells.along(old, new, voxels.device) for old, new in zip(voxels.shape[1:], shape, strict=True)]
    zoomed = torch.zeros((len(voxels), *shape), dtype=torch.float64, device=voxels.device)
    for start in range(0, shape[0], _PLANES):
        part = slice(start, start + _PLANES)
        cells = [axes[0].part(part), *axes[1:]]
        for corner in product((0, 1), repeat=3):  # scipy's order: the last axis runs first
            zoomed[:, part] += _weighted(voxels, cells, corner)
    return zoomed


@dataclass(frozen=True, slots=True)
class _Cells:
    """Along one axis of the result: the two voxels around each position, and their weights."""

    indices: tuple[torch.Tensor, torch.Tensor]
    weights: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def along(cls, old: int, new: int, device: torch.device) -> "_Cells":
        """`old` voxels under `new` ones; a position may lie beyond the last voxel by the last bit, as in scipy."""
        positions = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 1.0)
        low = np.floor(positions)
        first = 1.0 - (positions - low)
        indices = (np.minimum(low, old - 1), np.minimum(low + 1, old - 1))
        below, above = (torch.from_numpy(index.astype(np.int64)).to(device) for index in indices)
        return cls((below, above), (torch.from_numpy(first).to(device), torch.from_numpy(1.0 - first).to(device)))

    def part(self, where: slice) -> "_Cells":
        """The same at some positions."""
        (below, above), (first, second) = self.indices, self.weights
        return _Cells((below[where], above[where]), (first[where], second[where]))


def _weighted(voxels: torch.Tensor, cells: list[_Cells], corner: tuple[int, ...]) -> torch.Tensor:
    """One corner of every cell, times its three weights one after the other."""
    values = voxels
    for axis, (along, side) in enumerate(zip(cells, corner, strict=True), 1):
        values = values.index_select(axis, along.indices[side])
    values = values.double()
    for axis, (along, side) in enumerate(zip(cells, corner, strict=True)):
        values = values * along.weights[side].view([-1 if other == axis else 1 for other in range(3)])
    return values
