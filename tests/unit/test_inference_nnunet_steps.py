"""The steps that nnU-Net takes and nobody else, each against what the original computes."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import ModelError
from dicomnode.inference.before.cascade import labels_along
from dicomnode.inference.centres import Apart, apart_axis, resized
from dicomnode.inference.centres_back import labels_between, resampled_taps
from dicomnode.inference.deciding import Decision
from dicomnode.inference.nnunet_windows import blended_halves, nnunet_importance, plan_nnunet_windows
from dicomnode.inference.picture import Picture, Sampled, Shape
from dicomnode.inference.sampling import plan_sampling

Volume = NDArray[np.float64]
MM = (1.0, 1.0, 1.0)
RNG = np.random.default_rng(0)

shapes = st.tuples(*[st.integers(1, 9)] * 3)


def resize(volume: NDArray[np.floating], shape: tuple[int, ...], order: int) -> Volume:
    """`skimage.transform.resize(mode="edge", anti_aliasing=False)`, which nnU-Net calls."""
    volume = volume.astype(np.float64)
    factors = [1 / (old / new) for old, new in zip(volume.shape, shape, strict=True)]
    out = np.asarray(ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True))
    return np.clip(out, volume.min(), volume.max())


def resize_apart(volume: NDArray[np.floating], shape: Shape, order: int, axis: int) -> Volume:
    """nnU-Net's `resample_data_or_seg` with `do_separate_z` and `order_z` 0."""
    plane = tuple(n for index, n in enumerate(shape) if index != axis)
    slices = np.stack([resize(part, plane, order) for part in np.moveaxis(volume, axis, 0)], axis)
    at = [np.arange(n, dtype=float) for n in shape]
    at[axis] = volume.shape[axis] / shape[axis] * (at[axis] + 0.5) - 0.5
    return ndimage.map_coordinates(slices, np.meshgrid(*at, indexing="ij"), order=0, mode="nearest")


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(20, 9, 31), (40, 35, 60), (25, 30, 18), (1, 30, 90)])
def test_matrices_resample_as_scikit_image_does(order: int, shape: Shape):
    volume = RNG.normal(0, 300, (25, 30, 41)).astype(np.float32)
    found = resized(torch.from_numpy(volume)[None], shape, order)[0].numpy()
    assert np.allclose(found, resize(volume, shape, order), rtol=0, atol=1e-4)


def test_a_cubic_spline_stays_within_the_values_of_the_volume():
    steps = np.zeros((12, 12, 12), np.float32)
    steps[6:] = 1000
    found = resized(torch.from_numpy(steps)[None], (30, 12, 12), 3)
    assert (float(found.min()), float(found.max())) == (0.0, 1000.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [1, 3])
def test_an_axis_that_is_apart_takes_its_nearest_slices(axis: int, order: int):
    volume = RNG.normal(0, 300, (9, 10, 11)).astype(np.float32)
    shape = (14, 7, 16)
    found = resized(torch.from_numpy(volume)[None], shape, order, Apart(axis, 0))[0].numpy()
    assert np.allclose(found, resize_apart(volume, shape, order, axis), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # three times is not more than three times
        ((0.3, 1.2, 1.2), (1.0, 1.0, 9.0), None),  # two coarse axes before: no look at what comes after
    ],
)
def test_the_axis_that_is_apart_is_the_only_coarse_one(before: Shape, after: Shape, expected: int | None):
    assert apart_axis(before, after, 3.0) == expected


def scores_of(seed: int, classes: int, shape: Shape, *, scale: float) -> NDArray[np.float16]:
    """Logits in halves; a small scale makes many draws."""
    return (np.random.default_rng(seed).normal(0, 1, (classes, *shape)) * scale).round(2).astype(np.float16)


@example(seed=2, classes=2, shape=(9, 3, 2), new_shape=(2, 5, 1), scale=0.03, axis=0)  # a sum halfway between halves
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(1, 7),
    shapes,
    shapes,
    st.sampled_from([0.03, 1.0, 30.0]),
    st.sampled_from([None, 0, 1, 2]),
)
def test_labels_are_those_of_interpolated_and_rounded_scores(
    seed: int, classes: int, shape: Shape, new_shape: Shape, scale: float, axis: int | None
):
    scores = scores_of(seed, classes, shape, scale=scale)
    if axis is None:
        full = [resize(field, new_shape, 1) for field in scores]
    else:
        full = [resize_apart(field, new_shape, 1, axis) for field in scores]
    rounded = scores if shape == new_shape else np.stack(full).astype(np.float16)
    taps = resampled_taps(shape, new_shape, axis)

    found = labels_between(torch.from_numpy(scores), taps, Decision(classes), threads=2)
    assert np.array_equal(found, rounded.argmax(0))

    values = tuple(range(classes, 0, -1))
    painted = np.zeros(new_shape, np.uint8)
    for field, value in zip(rounded, values, strict=True):
        painted[torch.sigmoid(torch.from_numpy(field).float()).numpy() > 0.5] = value
    regions = labels_between(torch.from_numpy(scores), taps, Decision(classes, regions=values))
    assert np.array_equal(regions, painted)


def test_a_draw_after_rounding_goes_to_the_first_class():
    scores = torch.zeros((2, 1, 1, 4), dtype=torch.float16)
    scores[0, 0, 0], scores[1, 0, 0] = (
        torch.tensor([1000.0, 1000, 1000, 1000]),
        torch.tensor([1000.0, 1000.5, 1000.5, 0]),
    )
    found = labels_between(scores, resampled_taps((1, 1, 4), (1, 1, 12), None), Decision(2))
    halves = np.stack([resize(field, (1, 1, 12), 1) for field in scores.numpy()]).astype(np.float16)
    assert np.array_equal(found, halves.argmax(0))
    exact = np.stack([resize(field, (1, 1, 12), 1) for field in scores.numpy()]).argmax(0)
    assert not np.array_equal(found, exact)


def test_labels_above_255_take_sixteen_bits():
    scores = torch.zeros((300, 2, 2, 2), dtype=torch.float16)
    scores[299] = 1
    found = labels_between(scores, resampled_taps((2, 2, 2), (3, 3, 3), None), Decision(300))
    assert found.dtype == np.uint16
    assert (found == 299).all()


def test_memory_of_the_way_back_does_not_grow_with_classes_times_the_volume():
    classes, volume = 40, (100, 100, 100)
    scores = torch.from_numpy(scores_of(1, classes, (12, 12, 12), scale=3.0))
    tracemalloc.start()
    labels_between(scores, resampled_taps((12, 12, 12), volume, None), Decision(classes))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.2 * classes * np.prod(volume) * np.float16().nbytes


def resize_labels(labels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """batchgenerators 0.25.5: the label with the largest share; of equal ones the nearest, else the lowest."""
    names = np.unique(labels)
    shares = np.stack([resize((labels == name).astype(float), shape, 1) for name in names])
    nearest = resize(labels.astype(float), shape, 0).astype(np.int32)
    best = shares.max(0)
    winners = names[shares.argmax(0)]
    for name, share in zip(names, shares, strict=True):
        winners[(share == best) & (nearest == name)] = name
    return winners.astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.booleans())
def test_labels_of_a_first_stage_are_resampled_as_segmentations(
    seed: int, shape: Shape, new_shape: Shape, axis: int | None, has_body: bool
):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    body = rng.random(shape) < 0.7 if has_body else np.ones(shape, np.bool_)
    move = Sampled(np.eye(4), shape, MM, new_shape, MM, "centres", axis, torch.from_numpy(body))
    outside = np.where((labels == 0) & ~body, -1, labels.astype(np.int32))
    if shape == new_shape:
        expected = outside
    elif axis is None:
        expected = resize_labels(outside, new_shape)
    else:
        plane = tuple(n for index, n in enumerate(new_shape) if index != axis)
        slices = np.stack([resize_labels(part, plane) for part in np.moveaxis(outside, axis, 0)], axis)
        places = shape[axis] / new_shape[axis] * (np.arange(new_shape[axis]) + 0.5) - 0.5
        expected = slices.take(np.floor(places.clip(0, shape[axis] - 1) + 0.5).astype(int), axis)
    found = labels_along(Picture(torch.zeros((1, *new_shape)), "SPL", MM, (move,)), labels)
    assert np.array_equal(found, expected)


def test_the_plan_of_the_move_has_as_many_voxels_as_nnunet_has():
    move = plan_sampling((37, 101, 5), (2.5, 0.75, 1.0), (3.0, 1.5, 0.4), "centres")
    assert move.new_shape == tuple(round(i / j * k) for i, j, k in ((2.5, 3.0, 37), (0.75, 1.5, 101), (1.0, 0.4, 5)))


def compute_gaussian(patch: Shape) -> torch.Tensor:
    """nnU-Net's own, in full."""
    unit = np.zeros(patch)
    unit[tuple(size // 2 for size in patch)] = 1
    importance = ndimage.gaussian_filter(unit, [size / 8 for size in patch], 0, mode="constant", cval=0)
    importance /= importance.max() / 10
    halves = torch.from_numpy(importance).to(torch.float16)
    halves[halves == 0] = halves[halves != 0].min()
    return halves


@pytest.mark.parametrize("patch", [(8, 16, 12), (9, 7, 33), (1, 20, 20), (40, 24, 28)])
def test_importance_is_that_of_a_gaussian_filter_to_the_last_bit(patch: Shape):
    assert torch.equal(nnunet_importance(patch), compute_gaussian(patch))


def compute_steps(count: int, size: int, step: float) -> list[int]:
    """nnU-Net's own."""
    windows = int(np.ceil((count - size) / (size * step))) + 1
    width = (count - size) / (windows - 1) if windows > 1 else 99999999999
    return [int(np.round(width * index)) for index in range(windows)]


@given(st.integers(1, 200), st.integers(1, 64), st.sampled_from([0.5, 0.8, 0.3, 1.0]))
@example(30, 3, 0.3)
def test_windows_are_evenly_spread(count: int, size: int, step: float):
    plan = plan_nnunet_windows((count, 64, 64), (size, 64, 64), round(1 - step, 12))
    assert list(plan.starts[0]) == compute_steps(max(count, size), size, step)


def test_a_patch_of_two_axes_goes_slice_by_slice():
    plan = plan_nnunet_windows((5, 30, 20), (16, 24), 0.5)
    assert plan.window == (1, 16, 24)
    assert plan.padded_shape == (5, 30, 24)
    assert plan.starts[0] == (0, 1, 2, 3, 4)


def test_windows_are_added_up_in_halves_in_the_order_of_nnunet():
    shape, patch, classes = (13, 11, 12), (8, 8, 8), 3
    channels = torch.from_numpy(RNG.normal(0, 1, (1, *shape)).astype(np.float32))
    mixing = torch.tensor([1.0, -2.0, 0.5])[:, None, None, None]
    plan = plan_nnunet_windows(shape, patch, 0.5)

    found = blended_halves(lambda window: (window[0] * mixing)[None] * 3.3, channels, plan, classes)

    logits, total, weight = torch.zeros((classes, *shape)).half(), torch.zeros(shape).half(), compute_gaussian(patch)
    steps = [compute_steps(count, size, 0.5) for count, size in zip(shape, patch, strict=True)]
    for start in itertools.product(*steps):
        place = tuple(slice(first, first + size) for first, size in zip(start, patch, strict=True))
        said = channels[0][place] * mixing * 3.3
        said *= weight
        logits[(slice(None), *place)] += said
        total[place] += weight
    logits /= total
    assert torch.equal(found, logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_logits_that_halves_cannot_hold_are_refused(value: float):
    plan = plan_nnunet_windows((8, 8, 8), (8, 8, 8), 0.5)
    with pytest.raises(ModelError, match="found NaN or infinity"):
        blended_halves(lambda window: window + value, torch.zeros((1, 8, 8, 8)), plan, 1)
