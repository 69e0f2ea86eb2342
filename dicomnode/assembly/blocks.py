"""Means over blocks of voxels: the anti-aliasing before a volume is sampled more coarsely.

A Gaussian filter needs the whole volume in floating point, several times over; a block mean reads it once, as
integers, slab by slab, and leaves the interpolation less to do.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging import Geometry
from dicomnode.imaging.volume import Voxels

Affine = NDArray[np.float64]  # 4 x 4
Factors = tuple[int, int, int]  # voxels per block along (slice, row, column)
Spacing = tuple[float, float, float]  # (slice, row, column) in mm
Plane = NDArray[Any]  # [row, column], int32 or float32

_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


def block_factors(source: Geometry, spacing_mm: Spacing) -> Factors:
    """How many voxels to average along each axis before sampling at `spacing_mm`."""
    _, row_mm, column_mm = source.spacing_mm
    slice_mm = float(source.affine[:3, 0] @ source.normal)
    ratios = [new / old for new, old in zip(spacing_mm, (slice_mm, row_mm, column_mm), strict=True)]
    factors = [min(_block_factor(ratio), n) for ratio, n in zip(ratios, source.shape, strict=True)]
    return factors[0], factors[1], factors[2]


def block_to_voxel_index(factors: Factors) -> Affine:
    """Index of a block -> index of the source at its centre."""
    affine = np.diag([*factors, 1.0])
    affine[:3, 3] = [(factor - 1) / 2 for factor in factors]
    return affine


def block_means(voxels: Voxels, factors: Factors) -> Voxels:
    """Means of blocks `[slice, row, column]`; the last block of an axis repeats the edge to be full."""
    if factors == (1, 1, 1):
        return voxels
    slices, rows, columns = (-(-n // factor) for n, factor in zip(voxels.shape, factors, strict=True))
    shape = (slices, rows, columns)
    means: Voxels = np.empty(shape, np.int16) if voxels.dtype == np.int16 else np.empty(shape, np.float32)
    for index in range(slices):
        total = _sum_slices(voxels[index * factors[0] : (index + 1) * factors[0]], factors[0])
        total = _sum_columns(_sum_rows(total, factors[1]), factors[2])
        _store_mean(total, factors[0] * factors[1] * factors[2], means[index])
    return means


def _block_factor(ratio: float) -> int:
    """The block whose mean, interpolated linearly, blurs as much as bringing one spacing to the other should.

    Matching resolutions as Gaussians whose width at half maximum is the spacing takes a variance of
    (ratio^2 - 1) / 2.355^2 source voxels^2 (Cardoso et al., "Scale factor point spread function matching", MICCAI
    2015). A block of f has (f^2 - 1) / 12, linear interpolation between blocks f^2 / 6 on average.
    """
    if ratio <= 1:
        return 1
    variance = (ratio**2 - 1) / _FWHM_PER_SIGMA**2
    return max(1, round(2 * float(np.sqrt(variance + 1 / 12))))


def _sum_slices(slab: Voxels, factor: int) -> Plane:
    wide = np.int32 if slab.dtype == np.int16 else np.float32
    total: Plane = np.add.reduce(slab, axis=0, dtype=wide)
    return total + slab[-1].astype(wide) * (factor - len(slab)) if len(slab) < factor else total


def _sum_rows(plane: Plane, factor: int) -> Plane:
    padded = np.pad(plane, ((0, -len(plane) % factor), (0, 0)), mode="edge") if len(plane) % factor else plane
    total: Plane = padded[::factor].copy()
    for offset in range(1, factor):
        total += padded[offset::factor]
    return total


def _sum_columns(plane: Plane, factor: int) -> Plane:
    return _sum_rows(plane.T, factor).T


def _store_mean(total: Plane, count: int, mean: Plane) -> None:
    if mean.dtype == np.int16:
        total += count // 2  # floor division then rounds to the nearest
        np.floor_divide(total, count, out=mean, casting="unsafe")
    else:
        np.divide(total, count, out=mean)
