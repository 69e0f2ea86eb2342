"""Whatever the orientation, tilt, spacing and file order: the grid and the voxels that were written come back."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomnode.assembly.gate import inspect
from dicomnode.assembly.stacking import build_stack, tolerance_mm
from dicomnode.assembly.volume import assemble
from dicomnode.imaging import Geometry, Volume
from tests.assembly_cases import ct_slices, grid, series_of, speckle
from tests.encoding_cases import affine, image_orientations, oblique

SPACING = st.floats(0.3, 8.0)
DEGREES = st.floats(-180.0, 180.0)


@st.composite
def grids(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any orientation and spacing, tilted by up to 25 degrees along the rows or columns."""
    directions = oblique((draw(DEGREES), draw(DEGREES), draw(DEGREES)))
    tilt = np.radians(draw(st.floats(-25.0, 25.0)))
    lean = directions[:, draw(st.sampled_from((1, 2)))]
    directions[:, 0] = np.cos(tilt) * directions[:, 0] + np.sin(tilt) * lean
    origin = (draw(st.floats(-900, 900)), draw(st.floats(-900, 900)), draw(st.floats(-2000, 2000)))
    return affine(directions, (draw(SPACING), draw(SPACING), draw(SPACING)), origin)


def round_trip(affine_mm: NDArray[np.float64], order: list[int]) -> Volume:
    slices = ct_slices(affine_mm)
    with TemporaryDirectory() as folder:
        return assemble(inspect(series_of([slices[index] for index in order], Path(folder))))


@settings(max_examples=40, deadline=None)
@given(affine_mm=grids(), order=st.permutations(range(6)))
def test_a_series_comes_back_on_its_grid_in_any_order(affine_mm: NDArray[np.float64], order: list[int]):
    volume = round_trip(affine_mm, order)
    assert volume.geometry.is_close_to(grid(affine_mm), tolerance_mm=1e-3)
    assert np.array_equal(volume.voxels, speckle())


@pytest.mark.parametrize("against_the_normal", [False, True])
@pytest.mark.parametrize("name", image_orientations())
def test_each_of_48_ways_to_lay_axes_in_the_patient_comes_back(name: str, *, against_the_normal: bool):
    affine_mm = affine(image_orientations()[name])
    order = list(range(6))[:: -1 if against_the_normal else 1]
    volume = round_trip(affine_mm, order)
    assert volume.geometry.is_close_to(grid(affine_mm), tolerance_mm=1e-6)
    assert np.array_equal(volume.voxels, speckle())


@settings(max_examples=100, deadline=None)
@given(
    affine_mm=grids(),
    count=st.integers(3, 300),
    jitter=st.floats(0, 0.99),
    seed=st.integers(0, 1000),
)
def test_slices_within_the_tolerance_are_one_stack_that_stays_as_close(
    affine_mm: NDArray[np.float64], count: int, jitter: float, seed: int
):
    geometry = Geometry(affine_mm, (count, 5, 4), "1.2.3")
    spacing = float(affine_mm[:3, 0] @ geometry.normal)
    noise = np.random.default_rng(seed).uniform(-1, 1, (count, 3)) / np.sqrt(3) * jitter * tolerance_mm(spacing) / 2
    positions = np.array([geometry.position_mm(index) for index in range(count)]) + noise
    stack = build_stack(positions, geometry.normal)
    assert stack.is_even
    fitted = stack.first_mm + np.arange(count)[:, np.newaxis] * stack.step_mm
    assert np.linalg.norm(fitted - positions, axis=1).max() <= tolerance_mm(spacing)


@settings(max_examples=100, deadline=None)
@given(affine_mm=grids(), count=st.integers(6, 200), lost=st.data())
def test_any_missing_slice_inside_a_stack_is_seen(affine_mm: NDArray[np.float64], count: int, lost: st.DataObject):
    geometry = Geometry(affine_mm, (count, 5, 4), "1.2.3")
    missing = lost.draw(st.sets(st.integers(1, count - 2), min_size=1, max_size=count // 4))
    kept = [index for index in range(count) if index not in missing]
    positions = np.array([geometry.position_mm(index) for index in kept])
    usual = np.diff(kept)
    assume((usual == 1).sum() > len(usual) / 2)
    stack = build_stack(positions, geometry.normal)
    assert not stack.is_even
    assert sum((gap.steps or 0) - 1 for gap in stack.gaps) == len(missing)
