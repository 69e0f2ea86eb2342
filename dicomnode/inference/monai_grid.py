"""Where MONAI's Spacing puts its voxels, and where its inverse looks them up: to the last bit, because ties count.

Spacing keeps the first voxel's centre where no corner of the volume would leave the grid that begins there, and the
middle of the volume otherwise. It asks that question of the affine with a tolerance of 1e-8 voxels, so a volume whose
axes are at right angles only up to the rounding of its header keeps its middle. A volume that has the spacing already,
within 0.001 mm, is left alone.
"""

from itertools import product

import numpy as np
import torch

from dicomnode.inference.picture import Affine, Positions, Sampled, Shape, Spacing

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # MONAI's patient space
_SAME_MM = 1e-3  # AFFINE_TOL of monai.data.utils, in mm and, relatively, in voxels


def plan_monai_sampling(affine: Affine, shape: Shape, spacing_mm: Spacing, new_spacing_mm: Spacing) -> Sampled | None:
    """The move that MONAI's Spacing makes; None: it leaves the volume as it is.

    Args:
        affine: 4 x 4, index -> LPS mm.
        shape: voxels along its axes.
        spacing_mm: of its axes, as the affine has it.
        new_spacing_mm: wanted.
    """
    old = _RAS_FROM_LPS @ affine
    new = _zoomed(old, new_spacing_mm)
    first, second, third = new_shape = _place(new, old, shape)
    if new_shape == shape and np.allclose(old, new, atol=_SAME_MM):
        return None
    forth: Affine = np.asarray(np.linalg.solve(old, new), np.float64)
    given = old @ forth  # the affine that the sampled volume is given; `new` differs in its last bits
    back: Affine = np.asarray(np.linalg.solve(given, old), np.float64)
    to_index = np.eye(4)
    to_index[:3, :3], to_index[:3, 3] = np.diag(np.diag(back)[:3]), back[:3, 3]
    return Sampled(
        to_index,
        shape,
        spacing_mm,
        (first, second, third),
        new_spacing_mm,
        "monai",
        forth=_positions(forth, shape, new_shape),
        back=_positions(back, new_shape, shape),
    )


def _zoomed(affine: Affine, spacing_mm: Spacing) -> Affine:
    """The same directions, made perpendicular, at another spacing, beginning at the origin (`zoom_affine`)."""
    axes = affine[:3, :3]
    stretch = np.linalg.cholesky(axes.T @ axes).T
    zoomed = np.eye(4)
    zoomed[:3, :3] = axes @ np.linalg.inv(stretch) @ np.diag(np.sign(np.diag(stretch)) * np.array(spacing_mm))
    return zoomed


def _place(new: Affine, old: Affine, shape: Shape) -> Shape:
    """How many voxels the new grid has; its origin is written into `new` (`compute_shape_offset`)."""
    ends = np.array([(*corner, 1.0) for corner in product(*((0.0, count - 1.0) for count in shape))]).T
    corners = (np.linalg.solve(new, old) @ ends)[:3]
    first, second, third = (int(count) for count in np.round(np.ptp(corners, axis=1) + 1.0))
    if np.allclose(np.min(corners - corners[:, :1], axis=1), 0.0, rtol=_SAME_MM):
        new[:3, 3] = old[:3, 3]
    else:
        middle, new_middle = np.array(shape) / 2.0, np.array((first, second, third)) / 2.0
        new[:3, 3] = old[:3, :3] @ middle + old[:3, 3] - new[:3, :3] @ new_middle
    return first, second, third


def _positions(affine: Affine, shape: Shape, new_shape: Shape) -> tuple[Positions, Positions, Positions]:
    """Axis by axis, where the voxels of the new grid lie on the old one; `affine`: new index -> old index."""
    first, second, third = (
        as_grid_sample(shape[axis], new_shape[axis], float(affine[axis, axis]), float(affine[axis, 3]))
        for axis in range(3)
    )
    return first, second, third


def as_grid_sample(voxels: int, new_voxels: int, scale: float, offset: float) -> Positions:
    """`scale * i + offset` as torch's affine_grid and grid_sample compute it, over coordinates from -1 to 1.

    The rounding on that way decides which of two voxels at the same distance is the nearest.
    """
    theta = np.diag([scale, 1.0, 1.0, 1.0])
    theta[0, 3] = offset
    normal = torch.from_numpy(_normalised(voxels)) @ torch.from_numpy(theta)
    normal = normal @ torch.from_numpy(np.linalg.inv(_normalised(new_voxels)))
    grid = torch.nn.functional.affine_grid(normal[None, :3], [1, 1, 1, 1, new_voxels], align_corners=False)
    return (((grid[0, 0, 0, :, 0] + 1) * voxels - 1) / 2).numpy()


def _normalised(voxels: int) -> Affine:
    """Index -> coordinate from -1 to 1 over the voxels' faces (`normalize_transform` of monai.networks.utils)."""
    sizes = np.array([voxels, 1.0, 1.0])
    affine: Affine = np.diag([*(2.0 / sizes), 1.0])
    affine[:3, 3] = 1.0 / sizes - 1.0
    return affine
