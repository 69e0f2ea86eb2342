"""Three planes through a volume as a radiologist looks at them: patient's right on the left, head up.

The arrays are turned as a whole to the one orientation "SPL"; from there on there is a single case.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging import Geometry, Segment, Segmentation, Volume
from dicomnode.imaging.orientation import axes_between, axis_letters, to_model

CANONICAL = "SPL"  # slices to Superior, rows to Posterior, columns to Left
MAX_SAMPLES = 96  # per axis, for choosing the planes


@dataclass(frozen=True, slots=True)
class Letters:
    """Which side of the patient lies at each edge: Right, Left, Anterior, Posterior, Head, Feet."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One plane as it is shown: rows downwards, columns to the right."""

    name: str
    voxels: NDArray[Any]  # [row, column]
    labels: NDArray[Any]  # [row, column]
    pixel_mm: tuple[float, float]  # between rows, between columns
    letters: Letters
    lines: tuple[float, float]  # where the other two planes cut it: fraction of its height, of its width

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.voxels.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def three_views(volume: Volume, segmentation: Segmentation) -> tuple[View, View, View]:
    """Axial, coronal and sagittal planes where the structures are best seen.

    A tilted gantry's planes are shown as acquired; an oblique volume's by the closest of the patient's axes.
    """
    axis_map = axes_between(axis_letters(volume.geometry), CANONICAL)
    voxels, labels = to_model(volume.voxels, axis_map), to_model(segmentation.labels, axis_map)
    native_mm = _spacing_along_normal_mm(volume.geometry)
    s_mm, p_mm, l_mm = (native_mm[axis] for axis in axis_map.permutation)
    s, p, l = best_planes(labels, segmentation.segments)  # noqa: E741  Left, of S, P, L
    from_top, from_front, from_right = (
        1 - (s + 0.5) / labels.shape[0],
        (p + 0.5) / labels.shape[1],
        (l + 0.5) / labels.shape[2],
    )
    return (
        View("Axial", voxels[s], labels[s], (p_mm, l_mm), Letters("R", "L", "A", "P"), (from_front, from_right)),
        View(
            "Coronal",
            voxels[::-1, p],
            labels[::-1, p],
            (s_mm, l_mm),
            Letters("R", "L", "H", "F"),
            (from_top, from_right),
        ),
        View(
            "Sagittal",
            voxels[::-1, :, l],
            labels[::-1, :, l],
            (s_mm, p_mm),
            Letters("A", "P", "H", "F"),
            (from_top, from_front),
        ),
    )


def best_planes(labels: NDArray[Any], segments: tuple[Segment, ...]) -> tuple[int, int, int]:
    """The index along each axis at which most is seen of most structures; the middle where nothing was found."""
    steps = [max(1, n // MAX_SAMPLES) for n in labels.shape]
    thin = labels[:: steps[0], :: steps[1], :: steps[2]]
    scores = [np.zeros(n) for n in thin.shape]
    for segment in segments:
        mask = np.isin(thin, segment.labels)
        for axis, score in enumerate(scores):
            area = mask.sum(axis=tuple({0, 1, 2} - {axis}))
            score += area / max(1, area.max())
    first, second, third = (
        int(score.argmax()) * step if score.any() else n // 2
        for score, step, n in zip(scores, steps, labels.shape, strict=True)
    )
    return first, second, third


def _spacing_along_normal_mm(geometry: Geometry) -> tuple[float, float, float]:
    _, row_mm, column_mm = geometry.spacing_mm
    return abs(float(geometry.affine[:3, 0] @ geometry.normal)), row_mm, column_mm
