"""Which way the axes of a grid run, in letters, and how to turn an array from one such orientation to another.

A letter names the side of the patient towards which the index increases: "SPL" is slices towards Superior, rows
towards Posterior, columns towards Left, the axes of a plain axial series in LPS.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.geometry import Geometry

Scalar = TypeVar("Scalar", bound=np.generic)

_SIDES = ("LR", "PA", "SI")  # of the axes x, y, z of LPS: the side they increase towards, and the other
_AXIS_OF = {letter: axis for axis, sides in enumerate(_SIDES) for letter in sides}


@dataclass(frozen=True, slots=True)
class AxisMap:
    """How the axes of a source orientation become those of a target orientation."""

    permutation: tuple[int, int, int]  # target axis i is this source axis
    flips: tuple[bool, bool, bool]  # target axis i runs against it


def is_orientation(letters: str) -> bool:
    """Whether `letters` name each of the three axes of the patient once, e.g. "SPL" or "RAS"."""
    return len(letters) == 3 and sorted(_AXIS_OF.get(letter, -1) for letter in letters) == [0, 1, 2]


def axis_letters(geometry: Geometry) -> str:
    """The closest of the 48 orientations: the sides towards which slice, row and column index increase.

    Planes count by their normal: a tilted gantry slants the slice step but not what the planes show.
    """
    axes = np.column_stack([geometry.normal, geometry.directions[:, 1:]])  # [x y z, slice row column]
    x, y, z = max(permutations(range(3)), key=lambda p: round(sum(abs(axes[p[i], i]) for i in range(3)), 9))
    return "".join(_SIDES[axis][int(axes[axis, i] < 0)] for i, axis in enumerate((x, y, z)))


def axes_between(source: str, target: str) -> AxisMap:
    """The turn from one orientation to another, e.g. from "SPL" to "RAS"."""
    for letters in (source, target):
        if not is_orientation(letters):
            raise ValueError(f"expected three letters, one of each of L/R, P/A and S/I, found {letters!r}")
    order = [_AXIS_OF[letter] for letter in source]
    first, second, third = (order.index(_AXIS_OF[letter]) for letter in target)
    flip = [letter not in source for letter in target]
    return AxisMap((first, second, third), (flip[0], flip[1], flip[2]))


def to_model(array: NDArray[Scalar], axis_map: AxisMap) -> NDArray[Scalar]:
    """A view of `[..., source axes]` with its last three axes turned to the target orientation."""
    leading = array.ndim - 3
    turned = array.transpose(*range(leading), *(leading + axis for axis in axis_map.permutation))
    return turned[(..., *_steps(axis_map))]


def to_source(array: NDArray[Scalar], axis_map: AxisMap) -> NDArray[Scalar]:
    """A view of `[..., target axes]` with its last three axes turned back: undoes `to_model`."""
    leading = array.ndim - 3
    inverse = (leading + axis_map.permutation.index(axis) for axis in range(3))
    return array[(..., *_steps(axis_map))].transpose(*range(leading), *inverse)


def _steps(axis_map: AxisMap) -> tuple[slice, ...]:
    return tuple(slice(None, None, -1 if flipped else 1) for flipped in axis_map.flips)
