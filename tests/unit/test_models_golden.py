"""Golden cases: what is kept of a series, and how label maps are compared."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from dicomnode.errors import ModelError
from dicomnode.imaging import Volume
from dicomnode.models.golden import (
    Agreement,
    GoldenCase,
    agreement,
    anonymous,
    compare_labels,
    golden_bytes,
    read_golden,
)
from tests.toy_models import upright_geometry, volume_on

LABELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5) % 3
Tensors = dict[str, NDArray[np.generic]]


def volume() -> Volume:
    geometry = upright_geometry((3, 4, 5), (2.5, 0.7, 0.9))
    return volume_on(geometry, np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 1000)


def case() -> GoldenCase:
    return GoldenCase(anonymous(volume()), LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_case_comes_back_with_its_voxels_its_grid_and_its_labels(dtype: type[np.unsignedinteger]):
    kept = GoldenCase(case().volume, LABELS.astype(dtype))
    found = read_golden(golden_bytes(kept), "golden")
    np.testing.assert_array_equal(found.volume.voxels, volume().voxels)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.labels.dtype == dtype
    assert found.volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.volume.geometry.affine, volume().geometry.affine)
    assert found.volume.geometry.shape == (3, 4, 5)


def test_a_case_names_no_series():
    source = volume()
    kept = golden_bytes(GoldenCase(anonymous(source), LABELS))
    assert source.geometry.frame_of_reference_uid.encode() not in kept
    assert anonymous(source).geometry.frame_of_reference_uid != source.geometry.frame_of_reference_uid
    assert len({slice_.sop_instance_uid for slice_ in anonymous(source).sources}) == 1


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        without("voxels"),
        without("affine"),
        lambda tensors: {**tensors, "voxels": np.zeros((4, 4), np.int16)},
        lambda tensors: {**tensors, "affine": np.zeros((4, 4))},
        lambda tensors: {**tensors, "affine": np.zeros(3)},
        lambda tensors: {**tensors, "labels": LABELS[1:]},
        lambda tensors: {**tensors, "labels": LABELS.astype(np.float32)},
    ],
)
def test_a_case_that_lacks_something_is_refused_by_name(change: Callable[[Tensors], Tensors]):
    with pytest.raises(ModelError, match="golden-1: expected"):
        read_golden(
            save({k: np.ascontiguousarray(v) for k, v in change(dict(load(golden_bytes(case())))).items()}), "golden-1"
        )


@given(st.integers(min_value=0, max_value=400))
def test_a_case_that_is_cut_off_is_refused(length: int):
    with pytest.raises(ModelError, match="golden-1: expected a golden case"):
        read_golden(golden_bytes(case())[:length], "golden-1")


def labelled(*labels: int) -> NDArray[np.uint8]:
    return np.array(labels, np.uint8)


@pytest.mark.parametrize(
    ("expected", "found", "dice"),
    [
        (labelled(0, 0, 0), labelled(0, 0, 0), 1.0),
        (labelled(1, 2, 0), labelled(1, 2, 0), 1.0),
        (labelled(1, 1, 0), labelled(0, 0, 1), 0.0),
        (labelled(1, 1, 0), labelled(2, 2, 0), 0.0),
        (labelled(1, 1, 2, 0), labelled(1, 1, 0, 0), 0.8),
    ],
)
def test_agreement_is_the_dice_of_labelled_voxels(expected: NDArray[np.uint8], found: NDArray[np.uint8], dice: float):
    assert agreement(expected, found) == pytest.approx(dice)
    assert agreement(found, expected) == pytest.approx(dice)


def organs(small: int, *, found: int | None = None) -> NDArray[np.uint8]:
    """300 000 voxels of label 1 and some of label 3, of which a part is found."""
    labels = np.zeros((4, 300, 300), np.uint8)
    labels[:, :250] = 1
    labels[3, 299, : small if found is None else found] = 3
    return labels


def test_equal_labels_agree_in_every_label():
    assert compare_labels(organs(200), organs(200)) == Agreement(1.0, 1, 1.0)
    assert compare_labels(organs(200), organs(200)).is_enough


def test_a_small_structure_that_vanishes_is_not_made_up_for_by_a_large_one():
    found = compare_labels(organs(150), organs(0))
    assert found.dice > 0.9997
    assert (found.worst_label, found.worst_dice) == (3, 0.0)
    assert not found.is_enough


def test_a_small_structure_that_is_found_where_none_is_counts_too():
    assert not compare_labels(organs(0), organs(150)).is_enough


@pytest.mark.parametrize(("there", "found", "is_enough"), [(200, 193, True), (200, 191, False)])
def test_a_label_may_lose_two_in_a_hundred(there: int, found: int, is_enough: bool):
    agreed = compare_labels(organs(there), organs(there, found=found))
    assert agreed.worst_dice == pytest.approx(2 * found / (there + found))
    assert agreed.is_enough is is_enough


def test_a_label_of_a_few_voxels_is_not_looked_at_by_itself():
    assert compare_labels(organs(99), organs(0)).worst_label == 1
    assert compare_labels(organs(99), organs(0)).is_enough


def test_nothing_agrees_with_nothing():
    nothing = np.zeros((2, 3, 3), np.uint8)
    assert compare_labels(nothing, nothing) == Agreement(1.0)
    assert compare_labels(nothing, nothing).is_enough


def test_labels_of_two_types_are_compared_by_number():
    wide = np.where(organs(200) == 3, 700, organs(200)).astype(np.uint16)
    assert compare_labels(organs(200).astype(np.uint16), organs(200)).is_enough
    assert compare_labels(wide, organs(200)).worst_dice == 0.0
    assert compare_labels(organs(200), wide).worst_dice == 0.0
