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
from dicomnode.models.golden import GoldenCase, agreement, anonymous, golden_bytes, read_golden
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
