"""Slice positions -> one straight, evenly spaced stack, or why they are not one. Pure numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 3) LPS mm
Vector = NDArray[np.float64]  # (3,)

# Two slices this close are at one position: scanners write at least two decimals of a millimetre.
SAME_POSITION_MM = 0.01
# A slice may be off its place on the stack's line by a tenth of the spacing and never by more than 0.1 mm. That
# lets positions pass that were rounded to one decimal (0.05 mm) or three (cip-chest-64: gaps of 3.987 and 3.988),
# is a fraction of any voxel, and is far from a slice that is really elsewhere.
MAX_DEVIATION_MM = 0.1
MAX_DEVIATION_SPACINGS = 0.1
# Below this the slant cannot be told from rounded cosines; it is kept in the affine all the same.
MIN_TILT_DEGREES = 0.1


@dataclass(frozen=True, slots=True)
class Gap:
    """The space between two neighbouring slices, `after` counted from 0 along the normal."""

    after: int
    distance_mm: float
    steps: int | None  # how many spacings fit exactly, None where none do


@dataclass(frozen=True, slots=True)
class Stack:
    """Distinct slice positions in order along the normal, and the line that fits them best."""

    first_mm: Vector  # fitted position of the first slice
    step_mm: Vector  # from one slice to the next
    spacing_mm: float  # the usual gap along the normal
    gaps: tuple[Gap, ...]  # those that are not one spacing
    deviation_mm: float  # the farthest slice from its place on the line
    farthest: int  # which slice that is
    tilt_degrees: float  # between the stack's direction and the planes' normal

    @property
    def is_even(self) -> bool:
        """Whether every slice is one spacing from the next and on the line."""
        return not self.gaps and self.deviation_mm <= tolerance_mm(self.spacing_mm)


def tolerance_mm(spacing_mm: float) -> float:
    """How far a slice may be from its place in a stack of that spacing."""
    return min(MAX_DEVIATION_MM, MAX_DEVIATION_SPACINGS * spacing_mm)


def build_stack(positions_mm: Points, normal: Vector) -> Stack:
    """Fit a line through at least two positions that are already in order along the normal and distinct.

    Both ends of the line come from all positions (least squares), so that rounded positions do not add up.
    """
    distances = (positions_mm - positions_mm[0]) @ normal
    gaps_mm = np.diff(distances)
    spacing = _usual_gap_mm(gaps_mm)
    gaps = tuple(_gap(index, float(mm), spacing) for index, mm in enumerate(gaps_mm))
    first, step, deviations = _fit_line(positions_mm)
    extent = positions_mm[-1] - positions_mm[0]
    cosine = float(extent @ normal) / float(np.linalg.norm(extent))
    return Stack(
        first_mm=first,
        step_mm=step,
        spacing_mm=spacing,
        gaps=tuple(gap for gap in gaps if gap.steps != 1),
        deviation_mm=float(deviations.max()),
        farthest=int(deviations.argmax()),
        tilt_degrees=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
    )


def _usual_gap_mm(gaps_mm: NDArray[np.float64]) -> float:
    """The commonest gap, the smallest of equally common ones, averaged over the gaps that are like it."""
    ordered = np.sort(gaps_mm)
    likeness = 2 * np.minimum(MAX_DEVIATION_MM, MAX_DEVIATION_SPACINGS * ordered)
    first = np.searchsorted(ordered, ordered - likeness, side="left")
    end = np.searchsorted(ordered, ordered + likeness, side="right")
    commonest = int((end - first).argmax())
    return float(ordered[first[commonest] : end[commonest]].mean())


def _gap(after: int, distance_mm: float, spacing_mm: float) -> Gap:
    steps = max(1, round(distance_mm / spacing_mm))
    fits = abs(distance_mm - steps * spacing_mm) <= 2 * tolerance_mm(spacing_mm)  # both slices may be off
    return Gap(after, distance_mm, steps if fits else None)


def _fit_line(positions_mm: Points) -> tuple[Vector, Vector, NDArray[np.float64]]:
    """First position and step by least squares over the slice number, and every slice's distance from that."""
    centred = np.arange(len(positions_mm)) - (len(positions_mm) - 1) / 2
    middle = positions_mm.mean(axis=0)
    step = centred @ (positions_mm - middle) / (centred @ centred)
    fitted = middle + centred[:, np.newaxis] * step
    return fitted[0], step, np.linalg.norm(positions_mm - fitted, axis=1)
