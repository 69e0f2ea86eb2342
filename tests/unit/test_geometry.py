"""The house's only axis convention: (slice, row, column) indices to LPS millimetres."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.imaging import Geometry
from tests.assembly_cases import grid
from tests.encoding_cases import affine, axial, oblique, tilted


def test_the_first_voxels_centre_is_the_image_position():
    assert grid().position_mm(0).tolist() == [-101.25, -87.5, 33.125]
    assert grid().position_mm(2).tolist() == [-101.25, -87.5, 38.125]


def test_rows_run_down_the_column_direction_and_columns_along_the_row_direction():
    geometry = grid(axial((2.5, 0.7, 0.9)))
    moved = geometry.to_patient_mm(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])) - geometry.position_mm(0)
    assert np.allclose(moved, [[0, 0.7, 0], [0.9, 0, 0]])


def test_spacing_is_slice_row_column():
    assert grid(axial((2.5, 0.7, 0.9))).spacing_mm == pytest.approx((2.5, 0.7, 0.9))


def test_the_normal_points_along_the_slices_of_an_upright_grid():
    geometry = grid(affine(oblique()))
    assert np.allclose(geometry.normal, geometry.directions[:, 0])
    assert not geometry.is_sheared


def test_a_tilted_grid_is_sheared_and_keeps_its_normal():
    geometry = grid(affine(tilted(18.5)))
    assert geometry.is_sheared
    angle = np.degrees(np.arccos(geometry.normal @ geometry.directions[:, 0]))
    assert angle == pytest.approx(18.5)


def test_a_tilted_voxel_is_as_large_as_its_parallelepiped():
    geometry = grid(affine(tilted(60.0), (4.0, 5.0, 10.0)))
    assert geometry.voxel_volume_ml == pytest.approx(4.0 * 5.0 * 10.0 * 0.5 / 1000)


def test_indices_come_back_from_the_patient():
    geometry = grid(affine(tilted(18.5)))
    indices = np.array([[0.0, 0.0, 0.0], [3.5, 1.25, 2.0]])
    assert np.allclose(geometry.to_indices(geometry.to_patient_mm(indices)), indices)


def mirrored() -> NDArray[np.float64]:
    result = axial()
    result[:3, 0] *= -1
    return result


@pytest.mark.parametrize(
    "bad",
    [mirrored(), axial((0.0, 1.0, 1.0)), np.eye(3), axial() * np.nan, affine(np.ones((3, 3)))],
    ids=["slices against the normal", "no thickness", "3 x 3", "not a number", "flat"],
)
def test_a_grid_that_is_no_grid_is_not_built(bad: NDArray[np.float64]):
    with pytest.raises(ValueError, match="expected"):
        grid(bad)


def test_an_empty_grid_is_not_built():
    with pytest.raises(ValueError, match="at least one slice"):
        grid(shape=(0, 5, 4))


def test_grids_are_close_within_the_tolerance_at_every_corner():
    shifted = axial()
    shifted[0, 3] += 0.009
    turned = axial()
    turned[1, 0] += 0.003  # 5 slices on, 0.015 mm
    assert grid().is_close_to(grid(shifted))
    assert not grid().is_close_to(grid(turned))
    assert not grid().is_close_to(Geometry(axial(), grid().shape, "1.2.3"))


def test_the_affine_cannot_be_changed_behind_the_grids_back():
    matrix = axial()
    geometry = grid(matrix)
    matrix[0, 3] = 1e6
    assert geometry.position_mm(0)[0] == -101.25
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 0
