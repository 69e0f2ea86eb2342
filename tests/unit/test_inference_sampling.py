"""Grids and interpolation of the steps "resample": those of scipy, scikit-image and MONAI, voxel by voxel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import compute_shape_offset
from monai.transforms.spatial.array import Spacing as MonaiSpacing
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.inference.picture import Shape, Spacing
from dicomnode.inference.sampling import RULES, Axis, nearest_indices, plan_sampling, positions_back, sample
from dicomnode.models.before import GridRule, Order

SHAPE: Shape = (13, 20, 17)
SPACING_MM: Spacing = (3.0, 0.8, 1.1)
WANTED: list[Spacing] = [(1.5, 1.5, 1.5), (4.0, 2.0, 0.5), (3.0, 0.8, 1.1), (20.0, 0.7, 1.5)]


def noise(shape: Shape = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 300, shape).astype(np.float32)


def ours(voxels: NDArray[np.float32], wanted: Spacing, grid: GridRule, order: Order) -> NDArray[np.float32]:
    move = plan_sampling(SHAPE, SPACING_MM, wanted, grid)
    return sample(torch.from_numpy(voxels)[None], move, order)[0].numpy()


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_corners_are_those_of_scipy_zoom(wanted: Spacing, order: Order) -> None:
    zoom = np.array(SPACING_MM) / wanted
    expected = np.asarray(ndimage.zoom(noise(), zoom, order=order))
    np.testing.assert_allclose(ours(noise(), wanted, "corners", order), expected, atol=2e-3)


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("order", [1, 3])
def test_centres_are_those_of_scipy_zoom_in_grid_mode(wanted: Spacing, order: Order) -> None:
    counts = [round(mm / new * n) for mm, new, n in zip(SPACING_MM, wanted, SHAPE, strict=True)]
    zoom = [count / n for count, n in zip(counts, SHAPE, strict=True)]
    plain = ndimage.zoom(noise().astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
    expected = np.asarray(plain)
    found = ours(noise(), wanted, "centres", order)
    assert found.shape == tuple(counts)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize(("order", "mode"), [(1, "bilinear"), (3, 3)])
def test_monai_is_monais_spacing(wanted: Spacing, order: Order, mode: str | int) -> None:
    image = MetaTensor(torch.from_numpy(noise())[None], affine=torch.diag(torch.tensor([*SPACING_MM, 1.0])))
    padding = "border" if isinstance(mode, str) else "nearest"
    expected = MonaiSpacing(wanted, mode=mode, padding_mode=padding)(image)
    found = ours(noise(), wanted, "monai", order)
    assert found.shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(found, np.asarray(expected)[0], atol=2e-3)


sizes, spacings = st.integers(1, 700), st.floats(0.3, 8)


@given(sizes, spacings, spacings)
@settings(max_examples=200, deadline=None)
def test_the_number_of_voxels_is_that_of_monai(voxels: int, old_mm: float, new_mm: float) -> None:
    affine, wanted = np.diag([old_mm, 1, 1, 1]), np.diag([new_mm, 1, 1, 1])
    shape, _offset = compute_shape_offset((voxels, 2, 2), affine, wanted)
    assert RULES["monai"].count(Axis(voxels, old_mm), new_mm) == shape[0]


@given(st.integers(1, 60), st.floats(0.3, 8), st.floats(0.3, 8))
@settings(max_examples=200, deadline=None)
def test_the_number_of_voxels_is_that_of_scipy_and_nearest_ones_are_the_same(
    voxels: int, old_mm: float, new_mm: float
) -> None:
    count = RULES["corners"].count(Axis(voxels, old_mm), new_mm)
    if count > 1:
        labels = np.arange(voxels, dtype=np.float64)
        expected = ndimage.zoom(labels, old_mm / new_mm, order=0, mode="nearest")
        at = RULES["corners"].positions(Axis(voxels, old_mm), Axis(count, new_mm))
        np.testing.assert_array_equal(labels[nearest_indices(at, voxels, "corners")], expected)


@pytest.mark.parametrize("grid", list(RULES))
@pytest.mark.parametrize("wanted", WANTED)
def test_the_way_back_is_the_inverse_of_the_way(grid: GridRule, wanted: Spacing) -> None:
    move = plan_sampling(SHAPE, SPACING_MM, wanted, grid)
    for axis, back in enumerate(positions_back(move)):
        if move.new_shape[axis] > 1:
            expected = move.to_index[axis, axis] * np.arange(SHAPE[axis]) + move.to_index[axis, 3]
            np.testing.assert_allclose(back, expected, atol=1e-9)


@pytest.mark.parametrize("grid", list(RULES))
def test_a_constant_volume_stays_constant(grid: GridRule) -> None:
    flat = np.full(SHAPE, 7.0, np.float32)
    for order in (0, 1, 2, 3):
        np.testing.assert_allclose(ours(flat, (1.5, 1.5, 1.5), grid, order), 7.0, rtol=1e-5)
