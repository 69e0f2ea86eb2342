"""A volume at another spacing: block means against aliasing, then one linear interpolation by SimpleITK.

Owns SimpleITK. Everything is said to it in voxel indices: the images it sees have no direction, so no axis can
be flipped and a sheared grid is only another matrix.
"""

from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everyone calls it
from numpy.typing import NDArray

from dicomnode.assembly.blocks import Spacing, block_factors, block_means, block_to_voxel_index
from dicomnode.imaging import Geometry, SampledVolume, Volume
from dicomnode.imaging.volume import Voxels

Affine = NDArray[np.float64]  # 4 x 4

# Indices this close are the same voxel: it takes a thousand of them to move a volume by a millionth of a voxel.
_SAME_INDEX = 1e-9
# What an output grid may lack of the extent: rounded spacings must not cost a whole row of voxels.
_NEGLIGIBLE_VOXELS = 1e-3


def resample(volume: Volume, spacing_mm: Spacing) -> SampledVolume:
    """The volume at `spacing_mm` (slice, row, column) along its own row, column and normal directions.

    The new grid is centred on the boxes of the old voxels and covers them all (the outer FACES of the grids match,
    not the centres of their corner voxels), so every new centre lies in the volume. A sheared volume comes out
    upright: what is outside the stack gets the volume's lowest value, air in CT.

    Where the spacing grows, neighbours are averaged first (see `blocks`), so that fine detail does not alias.
    """
    source = volume.geometry
    target = sampled_geometry(source, spacing_mm)
    factors = block_factors(source, spacing_mm)
    block_affine = source.affine @ block_to_voxel_index(factors)
    to_block_index = np.linalg.inv(block_affine) @ target.affine
    blocks = block_means(volume.voxels, factors)
    return SampledVolume(_interpolate(blocks, to_block_index, target.shape), target)


def sampled_geometry(source: Geometry, spacing_mm: Spacing) -> Geometry:
    """The upright grid of that spacing, along the source's axes, whose box covers the source's box."""
    axes = _upright_axes(source)
    corners = np.array(list(product(*[(-0.5, n - 0.5) for n in source.shape])))
    along_axes = source.to_patient_mm(corners) @ axes
    start, end = along_axes.min(axis=0), along_axes.max(axis=0)
    steps = np.array(spacing_mm, dtype=np.float64)
    counts = np.maximum(1, np.ceil((end - start) / steps - _NEGLIGIBLE_VOXELS)).astype(int)
    first = (start + end - (counts - 1) * steps) / 2
    affine = np.eye(4)
    affine[:3, :3] = axes * steps
    affine[:3, 3] = axes @ first
    return Geometry(affine, (int(counts[0]), int(counts[1]), int(counts[2])), source.frame_of_reference_uid)


def write_nifti(path: Path, voxels: NDArray[np.generic], geometry: Geometry) -> None:
    """Write `[slice, row, column]` voxels as NIfTI (RAS, as that format has it).

    Raises:
        ValueError: the grid is sheared, which NIfTI readers do not agree on.
    """
    if geometry.is_sheared:
        raise ValueError("expected an upright grid for NIfTI, found a sheared one; resample it first")
    image = sitk.GetImageFromArray(voxels)
    slice_mm, row_mm, column_mm = geometry.spacing_mm
    image.SetSpacing((column_mm, row_mm, slice_mm))
    image.SetOrigin(geometry.affine[:3, 3].tolist())
    image.SetDirection(geometry.directions[:, ::-1].ravel().tolist())  # columns: ITK's x, y, z
    sitk.WriteImage(image, str(path), useCompression=path.name.endswith(".gz"))


def _upright_axes(source: Geometry) -> Affine:
    """Unit vectors of (slice, row, column) as columns: the normal, and the rows' direction kept exactly."""
    normal, column_axis = source.normal, source.directions[:, 2]
    row_axis = np.cross(normal, column_axis)  # perpendicular also where rounded cosines were not quite
    return np.column_stack([normal, row_axis, column_axis])


def _interpolate(voxels: Voxels, to_index: Affine, shape: tuple[int, int, int]) -> Voxels:
    """Sample at `to_index @ (slice, row, column, 1)` for every index of `shape`, linearly."""
    if shape == voxels.shape and np.allclose(to_index, np.eye(4), rtol=0, atol=_SAME_INDEX):
        return voxels
    interpolator = sitk.ResampleImageFilter()
    interpolator.SetSize(shape[::-1])
    interpolator.SetInterpolator(sitk.sitkLinear)
    interpolator.SetDefaultPixelValue(float(voxels.min()))
    interpolator.SetTransform(_itk_transform(to_index))
    interpolator.SetOutputPixelType(sitk.sitkFloat32)  # into integers ITK would cut, not round
    sampled = sitk.GetArrayFromImage(interpolator.Execute(sitk.GetImageFromArray(voxels)))
    return np.rint(sampled, out=sampled).astype(np.int16) if voxels.dtype == np.int16 else sampled


def _itk_transform(to_index: Affine) -> sitk.AffineTransform:
    """The same map for ITK, which counts axes as (column, row, slice)."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_index[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(to_index[:3, 3][::-1].tolist())
    return transform
