"""Where voxels are in the patient: one affine from (slice, row, column) to LPS millimetres.

The house's only axis convention. Arrays are `[slice, row, column]`; patient space is the standard's, x to the
patient's Left, y to Posterior, z to Superior (PS3.3 C.7.6.2.1.1). Nothing flips by the name of a plane.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]  # 4 x 4, (slice, row, column, 1) -> (x, y, z, 1) in LPS mm


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """The grid of one volume: index (slice, row, column) of a voxel's centre -> LPS millimetres.

    The slice axis runs along the acquisition normal (row direction x column direction), so the grid is
    right-handed in (column, row, slice). It may be sheared: a gantry-tilted series is.
    """

    affine: Affine
    shape: tuple[int, int, int]  # slices, rows, columns
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise ValueError(f"expected a 4 x 4 affine with last row 0 0 0 1, found\n{affine}")
        if not np.isfinite(affine).all() or min(np.linalg.norm(affine[:3, :3], axis=0)) <= 0:
            raise ValueError(f"expected finite steps longer than 0 mm, found\n{affine}")
        if min(self.shape) < 1:
            raise ValueError(f"expected at least one slice, row and column, found shape {self.shape}")
        # In (slice, row, column) order a right-handed grid has a negative determinant.
        unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.linalg.det(unit) > -1e-3:
            raise ValueError(
                f"expected slices along the acquisition normal, found determinant {np.linalg.det(unit):.4f}"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of one step along (slice, row, column); for a sheared grid the slanted slice step."""
        slice_mm, row_mm, column_mm = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_mm), float(row_mm), float(column_mm)

    @property
    def directions(self) -> Affine:
        """Unit vectors in LPS of one step along slice, row and column, as the columns of a 3 x 3 matrix."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def normal(self) -> Affine:
        """Unit normal of the image planes in LPS: row direction x column direction (PS3.3 C.7.6.2.1.1)."""
        directions = self.directions
        cross = np.cross(directions[:, 2], directions[:, 1])
        return cross / np.linalg.norm(cross)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def is_sheared(self) -> bool:
        """Whether the slice step leaves the planes' normal by more than 0.1 degrees (gantry tilt)."""
        cosine = float(self.directions[:, 0] @ self.normal)
        return cosine < np.cos(np.radians(0.1))

    def position_mm(self, slice_index: int) -> Affine:
        """LPS position of the centre of the first voxel of a slice: its Image Position (Patient)."""
        return self.affine[:3, 0] * slice_index + self.affine[:3, 3]

    def to_patient_mm(self, indices: Affine) -> Affine:
        """(n, 3) voxel indices (slice, row, column) -> (n, 3) LPS millimetres."""
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_indices(self, points_mm: Affine) -> Affine:
        """(n, 3) LPS millimetres -> (n, 3) fractional voxel indices (slice, row, column)."""
        return (points_mm - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def is_close_to(self, other: "Geometry", tolerance_mm: float = 0.01) -> bool:
        """Whether the other grid has the same frame, shape, and every corner within `tolerance_mm`."""
        if (self.shape, self.frame_of_reference_uid) != (other.shape, other.frame_of_reference_uid):
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T.astype(np.float64)
        return bool(np.abs(self.to_patient_mm(corners) - other.to_patient_mm(corners)).max() <= tolerance_mm)
