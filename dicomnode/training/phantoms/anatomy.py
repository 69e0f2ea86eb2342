"""A torso from a seed: draws a person, paints the organs in order, and bends the result."""

from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.training.phantoms.abdomen import paint_abdomen
from dicomnode.training.phantoms.canvas import GRID_SPACING_MM, Canvas
from dicomnode.training.phantoms.clouds import draw_cloud
from dicomnode.training.phantoms.skeleton import paint_back_muscles, paint_skeleton
from dicomnode.training.phantoms.thorax import paint_thorax
from dicomnode.training.phantoms.trunk import (
    draw_habitus,
    paint_arms,
    paint_body_wall,
    paint_breasts,
    paint_skin,
    paint_table,
)


def build_anatomy(seed: int) -> NDArray[np.uint8]:
    """Draw one torso as a map of `Tissue`, the same for the same seed.

    The array is `[slice, row, column]` at 3 mm with indices that increase towards the patient's superior,
    posterior and left, as in an axial DICOM series sorted from the feet upwards.
    """
    rng = np.random.default_rng(seed)
    person = draw_habitus(rng)
    canvas = Canvas.blank()
    regions = paint_body_wall(canvas, person, rng)
    if rng.random() < 0.4:
        paint_breasts(canvas, person, rng)
    paint_back_muscles(canvas, person, regions, rng)
    paint_thorax(canvas, person, regions, rng)
    paint_abdomen(canvas, person, regions, rng)
    paint_skeleton(canvas, person, regions, rng)
    if rng.random() < 0.35:
        paint_arms(canvas, person, rng)
    canvas.tissues[...] = _bend(canvas.tissues, rng.uniform(3.0, 11.0), rng)
    paint_skin(canvas)
    if rng.random() < 0.85:
        paint_table(canvas, rng)
    return canvas.tissues


def _bend(tissues: NDArray[np.uint8], amplitude_mm: float, rng: Generator) -> NDArray[np.uint8]:
    """Displace a tissue map smoothly by up to `amplitude_mm`; nearest neighbour, so no tissue is invented."""
    coordinates = np.indices(tissues.shape, dtype=np.float32)
    for axis in range(3):
        field = draw_cloud(tissues.shape, (16.0, 16.0, 16.0), rng)
        coordinates[axis] += field * np.float32(amplitude_mm / GRID_SPACING_MM / (np.abs(field).max() + 1e-6))
    bent = ndimage.map_coordinates(tissues, coordinates, order=0, mode="constant", cval=0)
    return cast(NDArray[np.uint8], bent)
