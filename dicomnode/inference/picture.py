"""A volume on its way to a network: what it is now, and every move that led here from the scanner's grid.

Each move is an affine map of voxel indices, so the whole way is one as well, and back is its inverse. The moves are
kept beside it because what was cropped away is background, and because splines of a higher order go back axis by axis.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.imaging.orientation import AxisMap
from dicomnode.models.before import GridRule

Affine = NDArray[np.float64]  # 4 x 4, of voxel indices
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]  # mm along the axes as they are
Positions = NDArray[np.float64]  # along one axis, in voxels of another grid


@dataclass(frozen=True, slots=True)
class Turned:
    """Axes exchanged and flipped."""

    axis_map: AxisMap
    shape: Shape  # before


@dataclass(frozen=True, slots=True)
class Cropped:
    """A box was kept: `start` included, `stop` not."""

    start: Shape
    stop: Shape
    shape: Shape  # before


@dataclass(frozen=True, slots=True)
class Padded:
    """Voxels were added before the first and behind the last of each axis."""

    before: Shape
    behind: Shape
    shape: Shape  # before


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Another spacing; `to_index` maps old indices to new ones."""

    to_index: Affine
    shape: Shape  # before
    spacing_mm: Spacing  # before
    new_shape: Shape
    new_spacing_mm: Spacing
    grid: GridRule = "faces"
    apart_axis: int | None = None  # that was sampled by itself, from its nearest voxels
    body: torch.Tensor | None = None  # on the grid before: what `crop-nonzero` took for the body
    # Where voxels are looked up axis by axis, [new index] and [old index], by software that rounds in its own way.
    forth: tuple[Positions, Positions, Positions] | None = None
    back: tuple[Positions, Positions, Positions] | None = None

    @property
    def is_separable(self) -> bool:
        """Whether each axis went by itself: not so where a sheared volume was made upright."""
        linear = self.to_index[:3, :3]
        return bool(np.allclose(linear, np.diag(np.diag(linear)), rtol=0, atol=1e-9))


Move = Turned | Cropped | Padded | Sampled


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Voxels `[channel, axis 0, axis 1, axis 2]`, FP32 or as they came from the scanner, on the engine's device."""

    voxels: torch.Tensor
    letters: str  # the sides towards which the indices of the three axes increase
    spacing_mm: Spacing
    moves: tuple[Move, ...] = ()
    body: torch.Tensor | None = None  # [axis 0, axis 1, axis 2] bool: what `crop-nonzero` took for the body

    @property
    def shape(self) -> Shape:
        """Voxels along the three axes."""
        _, first, second, third = self.voxels.shape
        return first, second, third

    def with_voxels(self, voxels: torch.Tensor) -> "Picture":
        """The same place with other values."""
        return replace(self, voxels=voxels)

    @property
    def from_source(self) -> Affine:
        """Index on the scanner's grid (slice, row, column, 1) -> index here."""
        affine = np.eye(4)
        for move in self.moves:
            affine = index_map(move) @ affine
        return affine


def index_map(move: Move) -> Affine:
    """The 4 x 4 affine from indices before a move to indices after it."""
    affine = np.eye(4)
    match move:
        case Turned(axis_map, shape):
            affine[:3, :3] = 0.0
            for axis, (source, flipped) in enumerate(zip(axis_map.permutation, axis_map.flips, strict=True)):
                affine[axis, source] = -1.0 if flipped else 1.0
                affine[axis, 3] = shape[source] - 1 if flipped else 0.0
        case Cropped(start):
            affine[:3, 3] = np.negative(start)
        case Padded(before):
            affine[:3, 3] = before
        case Sampled(to_index):
            affine = to_index
    return affine
