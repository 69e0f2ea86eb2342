"""The grid a phantom is painted on, and the blobs and tubes it is painted with.

Every array is `[slice, row, column]` with indices that increase towards the patient's superior, posterior
and left ("SPL"). Every point and every radius is a triple of millimetres in that same order, with the origin
in the middle of the grid: negative third coordinates are the patient's right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.training.phantoms.tissue import Tissue

Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Mask = NDArray[np.bool_]

GRID_SPACING_MM = 3.0
GRID_SHAPE = (192, 112, 152)


@dataclass(frozen=True, slots=True)
class Blob:
    """A superellipsoid on a part of the grid.

    `distance` is 0 in its centre, 1 on its surface and covers only the voxels of `box`.
    """

    box: Box
    distance: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A tissue map in the making and the millimetre coordinates of its slices, rows and columns."""

    tissues: NDArray[np.uint8]  # [slice, row, column]
    slice_mm: NDArray[np.float32]
    row_mm: NDArray[np.float32]
    column_mm: NDArray[np.float32]

    @classmethod
    def blank(cls) -> Canvas:
        """Give a grid full of air."""
        slice_mm, row_mm, column_mm = (
            ((np.arange(count) - count / 2 + 0.5) * GRID_SPACING_MM).astype(np.float32) for count in GRID_SHAPE
        )
        return cls(np.zeros(GRID_SHAPE, np.uint8), slice_mm, row_mm, column_mm)

    @property
    def superior(self) -> NDArray[np.float32]:
        """The superior coordinate of every slice, shaped to broadcast."""
        return self.slice_mm[:, None, None]

    @property
    def posterior(self) -> NDArray[np.float32]:
        """The posterior coordinate of every row, shaped to broadcast."""
        return self.row_mm[None, :, None]

    @property
    def leftward(self) -> NDArray[np.float32]:
        """The left coordinate of every column, shaped to broadcast."""
        return self.column_mm[None, None, :]

    def blob(self, centre: Triple, radii: Triple, degrees: Triple = (0, 0, 0), power: float = 2.0) -> Blob:
        """Describe a superellipsoid, turned about the S, P and L axes by `degrees`."""
        reach = max(radii) * 1.2 + GRID_SPACING_MM
        axes = (self.slice_mm, self.row_mm, self.column_mm)
        starts = [int(np.searchsorted(axis, middle - reach)) for axis, middle in zip(axes, centre, strict=True)]
        stops = [int(np.searchsorted(axis, middle + reach)) for axis, middle in zip(axes, centre, strict=True)]
        box = (slice(starts[0], stops[0]), slice(starts[1], stops[1]), slice(starts[2], stops[2]))
        s = self.slice_mm[box[0]][:, None, None] - np.float32(centre[0])
        p = self.row_mm[box[1]][None, :, None] - np.float32(centre[1])
        left = self.column_mm[box[2]][None, None, :] - np.float32(centre[2])
        turn = (_rotation(degrees) / np.array(radii)[:, None]).astype(np.float32)
        parts = [turn[axis, 0] * s + turn[axis, 1] * p + turn[axis, 2] * left for axis in range(3)]
        if power == 2.0:
            return Blob(box, parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
        first, second, third = (np.abs(part) ** np.float32(power) for part in parts)
        return Blob(box, first + second + third)

    def ball(self, centre: Triple, radius: float) -> Blob:
        """Describe a ball."""
        return self.blob(centre, (radius, radius, radius))

    def paint(self, blob: Blob, tissue: Tissue, within: Mask | None = None, level: float = 1.0) -> None:
        """Fill a blob up to `level` of its distance, where the mask `within` allows it."""
        inside = blob.distance < level
        if within is not None:
            inside &= within[blob.box]
        self.tissues[blob.box][inside] = tissue

    def paint_tube(self, points: Iterable[Triple], radii: Triple, tissue: Tissue, within: Mask | None = None) -> None:
        """Fill a chain of ellipsoids of equal size along `points`."""
        for point in points:
            self.paint(self.blob(point, radii), tissue, within)

    def mask_of(self, blob: Blob, level: float = 1.0) -> Mask:
        """Give the blob as a mask of the whole grid."""
        mask = np.zeros(self.tissues.shape, np.bool_)
        mask[blob.box] = blob.distance < level
        return mask

    def is_any(self, *tissues: Tissue) -> Mask:
        """Give the voxels that hold one of the tissues."""
        table = np.zeros(256, np.bool_)
        table[list(tissues)] = True
        return table[self.tissues]


def _rotation(degrees: Triple) -> NDArray[np.float64]:
    """Give the matrix that turns about S, then P, then L; axes in the order (S, P, L)."""
    if degrees == (0, 0, 0):
        return np.eye(3)
    (ca, sa), (cb, sb), (cg, sg) = [(np.cos(angle), np.sin(angle)) for angle in np.deg2rad(degrees)]
    about_s = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_p = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_l = np.array([[cg, -sg, 0], [sg, cg, 0], [0, 0, 1]])
    return about_l @ about_p @ about_s
