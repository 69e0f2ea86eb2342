"""Labels brought back to any source grid are the argmax of trilinear interpolation, whatever shortcut was taken."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging import Geometry
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference.source_grid import ClassScores, label_dtype, labels_from_scores
from tests.toy_models import FRAME, Array, upright_geometry

REACH_VOXELS = 0.5 + 1e-3  # the outer faces of the sampled grid, and rounding


@dataclass(frozen=True, slots=True, eq=False)
class ClassProbabilities:
    """What a network said about every voxel of a sampled grid."""

    probabilities: NDArray[np.float32]  # [class, slice, row, column]
    winners: NDArray[np.uint8 | np.uint16]
    geometry: Geometry
    values: NDArray[np.uint8 | np.uint16]


def labels_on_source_grid(answer: ClassProbabilities, source: Geometry, threads: int = 1) -> Labels:
    to_sampled = np.linalg.solve(answer.geometry.affine, source.affine)
    probabilities, winners = answer.probabilities, answer.winners
    scores = ClassScores(probabilities, winners, answer.values, sum_to_one=True, reach_voxels=REACH_VOXELS)
    return labels_from_scores(scores, np.asarray(to_sampled, np.float64), source.shape, threads)


sizes = st.tuples(st.integers(1, 9), st.integers(1, 10), st.integers(1, 11))
angles = st.floats(-25, 25)


def rotation(degrees: tuple[float, float, float]) -> Array:
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def said(shape: tuple[int, int, int], classes: int, seed: int, smoothness: float) -> ClassProbabilities:
    """Smooth random probabilities, so that there are cells of one class and cells that boundaries cross."""
    rng = np.random.default_rng(seed)
    logits = np.stack([ndimage.gaussian_filter(rng.normal(0, 9, shape), smoothness) for _ in range(classes)])
    exponentials = np.exp(logits - logits.max(0))
    probabilities = (exponentials / exponentials.sum(0)).astype(np.float32)
    dtype = label_dtype(classes)
    winners = probabilities.argmax(0).astype(dtype)
    geometry = upright_geometry(shape, (4.0, 3.0, 2.5), rotation((5.0, -8.0, 11.0)) @ np.eye(3)[:, ::-1])
    return ClassProbabilities(probabilities, winners, geometry, np.arange(classes, dtype=dtype))


def source_grid(shape: tuple[int, int, int], relative: Array, sampled: Geometry) -> Geometry:
    """A grid whose steps are `relative` (3 x 3, in steps of the sampled grid), around a point near its middle."""
    affine = np.eye(4)
    affine[:3, :3] = sampled.affine[:3, :3] @ relative
    middle = sampled.affine @ np.array([*((np.array(sampled.shape) - 1) / 2 + (0.3, -0.2, 0.1)), 1.0])
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(affine, shape, FRAME)


def assert_is_argmax(answer: ClassProbabilities, source: Geometry, labels: NDArray[np.generic]) -> None:
    """Compare with scipy at every voxel that is inside and where two classes are not within rounding."""
    indices = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"), -1).reshape(-1, 3)
    at = answer.geometry.to_indices(source.to_patient_mm(indices.astype(np.float64)))
    fields = [
        ndimage.map_coordinates(p.astype(np.float64), at.T, order=1, mode="nearest") for p in answer.probabilities
    ]
    heights = np.sort(np.stack(fields), axis=0)
    faces = np.array(answer.geometry.shape) - 0.5
    outside = ((at < -0.5 - 2e-3) | (at > faces + 2e-3)).any(1)
    near_face = (np.minimum(np.abs(at + 0.5), np.abs(at - faces)) < 3e-3).any(1)
    clear = (heights[-1] - heights[-2] > 1e-4) & ~near_face
    expected = np.where(outside, 0, answer.values[np.stack(fields).argmax(0)])
    np.testing.assert_array_equal(labels.reshape(-1)[clear], expected[clear])


@given(sizes, sizes, st.integers(2, 6), st.integers(0, 2**32), st.floats(0.3, 3), st.tuples(*[st.floats(0.2, 2.5)] * 3))
@settings(max_examples=60, deadline=None)
def test_along_the_same_axes(
    shape: tuple[int, int, int],
    target: tuple[int, int, int],
    classes: int,
    seed: int,
    smoothness: float,
    steps: tuple[float, float, float],
) -> None:
    answer = said(shape, classes, seed, smoothness)
    source = source_grid(target, np.diag(steps), answer.geometry)
    assert_is_argmax(answer, source, labels_on_source_grid(answer, source, threads=2))


@given(sizes, sizes, st.integers(0, 2**32), st.floats(-0.8, 0.8), st.floats(-0.8, 0.8))
@settings(max_examples=40, deadline=None)
def test_of_a_tilted_gantry(
    shape: tuple[int, int, int], target: tuple[int, int, int], seed: int, along_rows: float, along_columns: float
) -> None:
    answer = said(shape, 4, seed, 1.0)
    relative = np.diag([0.7, 0.6, 0.55])
    relative[1:, 0] = along_rows, along_columns
    source = source_grid(target, relative, answer.geometry)
    assert_is_argmax(answer, source, labels_on_source_grid(answer, source))


@given(sizes, sizes, st.integers(2, 6), st.integers(0, 2**32), st.tuples(angles, angles, angles))
@settings(max_examples=60, deadline=None)
def test_at_any_angle(
    shape: tuple[int, int, int],
    target: tuple[int, int, int],
    classes: int,
    seed: int,
    degrees: tuple[float, float, float],
) -> None:
    answer = said(shape, classes, seed, 1.0)
    source = source_grid(target, rotation(degrees) @ np.diag([0.7, 0.6, 0.55]), answer.geometry)
    assert_is_argmax(answer, source, labels_on_source_grid(answer, source))


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_on_axes_in_another_order(axes: tuple[int, int, int]) -> None:
    answer = said((7, 8, 9), 4, 0, 1.0)
    source = source_grid((11, 12, 13), np.eye(3)[:, list(axes)] * 0.6, answer.geometry)
    assert_is_argmax(answer, source, labels_on_source_grid(answer, source))


def test_a_network_of_300_classes_has_wide_labels() -> None:
    answer = said((5, 6, 7), 300, 0, 0.3)
    source = source_grid((9, 9, 9), np.eye(3) * 0.6, answer.geometry)
    labels = labels_on_source_grid(answer, source)
    assert labels.dtype == np.uint16
    assert_is_argmax(answer, source, labels)


def test_the_sampled_grid_itself_gives_the_winners() -> None:
    answer = said((8, 9, 10), 5, 1, 1.0)
    np.testing.assert_array_equal(labels_on_source_grid(answer, answer.geometry), answer.winners)


def test_a_class_that_wins_at_no_corner_may_win_between_them() -> None:
    probabilities = np.array([[0.6, 0.0], [0.0, 0.6], [0.4, 0.4]], np.float32).reshape(3, 1, 1, 2)
    sampled, source = upright_geometry((1, 1, 2), (1, 1, 2)), upright_geometry((1, 1, 4), (1, 1, 1))
    answer = ClassProbabilities(probabilities, np.array([[[0, 1]]], np.uint8), sampled, np.arange(3, dtype=np.uint8))
    np.testing.assert_array_equal(labels_on_source_grid(answer, source), [[[0, 0, 1, 1]]])  # weights 0, 1/4, 3/4, 1
    finer = upright_geometry((1, 1, 12), (1, 1, 1 / 3))
    np.testing.assert_array_equal(labels_on_source_grid(answer, finer), [[[0, 0, 0, 0, 0, 2, 2, 1, 1, 1, 1, 1]]])


def test_of_two_classes_that_are_equally_likely_the_first_wins() -> None:
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32).reshape(2, 1, 1, 2)
    sampled, source = upright_geometry((1, 1, 2), (1, 1, 1)), upright_geometry((1, 1, 3), (1, 1, 0.5))
    answer = ClassProbabilities(probabilities, np.array([[[1, 0]]], np.uint8), sampled, np.arange(2, dtype=np.uint8))
    np.testing.assert_array_equal(labels_on_source_grid(answer, source), [[[1, 0, 0]]])
