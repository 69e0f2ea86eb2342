"""Which way axes run, against nibabel's words for it, and turning arrays from one orientation to another."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from dicomnode.imaging import Geometry
from dicomnode.imaging.orientation import axes_between, axis_letters, is_orientation, to_model, to_source
from tests.toy_models import FRAME, upright_geometry

SIDES = ("LR", "PA", "SI")
ALL_48 = ["".join(sides) for axes in permutations(SIDES) for sides in product(*axes)]


def directions_of(letters: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Unit LPS vectors of the axes that the letters name, as columns."""
    signed = {
        side: sign * np.eye(3)[axis]
        for axis, pair in enumerate(SIDES)
        for side, sign in zip(pair, (1, -1), strict=True)
    }
    return np.column_stack([signed[side] for side in letters])


# Slices along the normal (row direction x column direction): half of the 48, and all that a Geometry can be.
ACQUIRED = [letters for letters in ALL_48 if np.linalg.det(directions_of(letters)) < 0]


@pytest.mark.parametrize("letters", ACQUIRED)
def test_letters_say_towards_which_side_of_the_patient_each_index_increases(letters: str) -> None:
    geometry = upright_geometry((4, 5, 6), (3.0, 2.0, 1.0), directions_of(letters))
    assert axis_letters(geometry) == letters
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine  # nibabel's patient space
    assert "".join(nibabel.aff2axcodes(ras)) == letters


@pytest.mark.parametrize("source", ALL_48)
def test_turning_an_array_to_any_orientation_keeps_every_voxel_where_it_is_in_the_patient(source: str) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(0, 1000, (3, 4, 5))
    for target in ALL_48:
        turned = to_model(array, axes_between(source, target))
        for index in rng.integers(0, array.shape, (3, 3)):
            place = directions_of(source) @ (2 * index - np.array(array.shape) + 1)
            there = (np.linalg.inv(directions_of(target)) @ place + np.array(turned.shape) - 1) / 2
            assert turned[tuple(np.rint(there).astype(int))] == array[tuple(index)]
        np.testing.assert_array_equal(to_source(turned, axes_between(source, target)), array)


def test_turned_arrays_are_views_and_a_leading_class_axis_stays_in_front() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    turned = to_model(array, axes_between("SPL", "RAI"))
    assert np.shares_memory(turned, array)
    assert turned.shape == (2, 5, 4, 3)
    assert turned[1, 0, 0, 0] == array[1, 2, 3, 4]
    np.testing.assert_array_equal(to_source(turned, axes_between("SPL", "RAI")), array)


@pytest.mark.parametrize("degrees", [-40, -10, 10, 40])
@pytest.mark.parametrize("letters", ACQUIRED[::5])
def test_an_oblique_grid_has_the_letters_of_the_nearest_axes(letters: str, degrees: float) -> None:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    assert axis_letters(upright_geometry((4, 5, 6), (3.0, 2.0, 1.0), turn @ directions_of(letters))) == letters


def test_a_tilted_gantry_does_not_change_the_letters() -> None:
    affine = upright_geometry((10, 5, 6), (5.0, 1.0, 1.0)).affine.copy()
    affine[1, 0] = 4.5  # each slice 4.5 mm further posterior: 42 degrees
    assert axis_letters(Geometry(affine, (10, 5, 6), FRAME)) == "SPL"


@pytest.mark.parametrize("letters", ["SP", "SPP", "SPX", "spl", "SPLL", "SIL", ""])
def test_words_that_are_no_orientation_are_refused(letters: str) -> None:
    assert not is_orientation(letters)
    with pytest.raises(ValueError, match="expected three letters"):
        axes_between("SPL", letters)
