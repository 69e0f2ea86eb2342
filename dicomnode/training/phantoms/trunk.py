"""Build and body wall: how big the person is, where the cavities are, skin, fat, muscle, arms and table."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dicomnode.training.phantoms.canvas import Canvas, Mask
from dicomnode.training.phantoms.tissue import Tissue

Floats = NDArray[np.float32] | NDArray[np.float64]

_CHEST_POWER = 2.6  # of the superellipse that the chest follows towards its apex


@dataclass(frozen=True, slots=True)
class Habitus:
    """The measures of one person; all in millimetres, `scale` relative to an average skeleton."""

    scale: float
    cavity_half_width: float
    cavity_front: float  # from the middle to the front wall of the cavity
    cavity_back: float
    belly: float  # how much further forward the front wall is in the abdomen, as a fraction
    wall_side: float
    wall_front: float
    wall_back: float
    fat_side: float
    fat_front: float
    fat_back: float
    dome: float  # superior coordinate of the right diaphragm's dome
    left_dome_drop: float
    dome_depth: float
    lung_height: float
    spine_p: float  # posterior coordinate of the vertebral bodies at the diaphragm
    lordosis: float

    def spine_at(self, s_mm: float) -> float:
        """Give the posterior coordinate of the vertebral body's centre at a superior coordinate."""
        return self.spine_p + self.lordosis * float(np.cos((s_mm - self.dome - 60.0) / 95.0))

    def taper_at(self, s_mm: float) -> float:
        """Give how much narrower the chest is at a superior coordinate than at the diaphragm, as a fraction."""
        above = float(np.clip((s_mm - self.dome) / self.lung_height, 0.0, 0.97))
        return (1.0 - above**_CHEST_POWER) ** (1.0 / _CHEST_POWER)


@dataclass(frozen=True, slots=True)
class Regions:
    """Masks `[slice, row, column]` that organs are confined to."""

    inner: Mask  # inside the subcutaneous fat
    cavity: Mask  # inside the muscular wall
    chest: Mask  # the cavity above the diaphragm
    abdomen: Mask  # the cavity below it


def draw_habitus(rng: Generator) -> Habitus:
    """Draw a person: slim or obese, small or tall, inspired or expired."""
    scale = float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.16))
    fat = float(np.clip(rng.gamma(2.2, 7.0), 3.0, 55.0))
    back = rng.uniform(80.0, 104.0) * scale
    return Habitus(
        scale=scale,
        cavity_half_width=rng.uniform(112.0, 140.0) * scale + 0.25 * fat,
        cavity_front=rng.uniform(72.0, 100.0) * scale + 0.3 * fat,
        cavity_back=back,
        belly=rng.uniform(-0.12, 0.12) + 0.008 * fat * rng.uniform(0.0, 1.0),
        wall_side=rng.uniform(9.0, 20.0),
        wall_front=rng.uniform(6.0, 13.0),
        wall_back=rng.uniform(16.0, 28.0),
        fat_side=fat * rng.uniform(0.6, 1.2) + 2.0,
        fat_front=fat * rng.uniform(0.6, 1.3) + 2.0,
        fat_back=fat * rng.uniform(0.4, 1.0) + 3.0,
        dome=rng.uniform(70.0, 115.0) * scale,
        left_dome_drop=rng.uniform(0.0, 22.0),
        dome_depth=rng.uniform(42.0, 80.0) * scale,
        lung_height=rng.uniform(150.0, 205.0) * scale,
        spine_p=back - rng.uniform(38.0, 52.0) * scale,
        lordosis=rng.uniform(2.0, 14.0),
    )


def paint_body_wall(canvas: Canvas, person: Habitus, rng: Generator) -> Regions:
    """Paint subcutaneous fat, muscle and the fat-filled cavity; give the regions the organs go to."""
    s = canvas.slice_mm
    waist = 1.0 - rng.uniform(0.0, 0.12) * np.exp(-(((s - person.dome + 190.0) / 70.0) ** 2))
    hips = 1.0 + rng.uniform(-0.02, 0.14) * _ramp(person.dome - 200.0 - s, 90.0)
    belly = 1.0 + person.belly * _ramp(person.dome - s, 120.0)
    side = person.cavity_half_width * waist * hips
    front = person.cavity_front * belly
    shoulders = _ramp(s - person.dome - 60.0, 140.0) * rng.uniform(0.0, 45.0)
    power = rng.uniform(2.1, 2.6)
    wave = 1.0 + 0.04 * np.sin(s / 80.0 + rng.uniform(0.0, 6.0))
    muscle = _outline(
        canvas,
        side + person.wall_side + shoulders,
        front + person.wall_front,
        person.cavity_back + person.wall_back,
        power,
    )
    body = _outline(
        canvas,
        (side + person.wall_side + person.fat_side + shoulders) * wave,
        (front + person.wall_front + person.fat_front) * wave,
        person.cavity_back + person.wall_back + person.fat_back,
        power,
    )
    above_dome = np.clip((s - person.dome) / person.lung_height, 0.0, 1.0)
    taper = (1.0 - above_dome**_CHEST_POWER) ** (1.0 / _CHEST_POWER)
    cavity = _outline(canvas, side * taper, front * taper, person.cavity_back * taper, rng.uniform(2.1, 2.7))
    canvas.tissues[body] = Tissue.FAT
    canvas.tissues[muscle] = Tissue.MUSCLE
    _paint_muscle_gaps(canvas, muscle, rng)
    cavity &= ~_back_muscles(canvas, person, rng)
    canvas.tissues[cavity] = Tissue.FAT
    diaphragm = _diaphragm_mm(canvas, person, rng)
    above = canvas.superior > diaphragm
    return Regions(muscle, cavity, cavity & above, cavity & (canvas.superior < diaphragm - 3.0))


def paint_breasts(canvas: Canvas, person: Habitus, rng: Generator) -> None:
    """Paint breasts of fat with some glandular tissue onto the chest."""
    size = rng.uniform(20.0, 62.0)
    front = -(person.cavity_front + person.wall_front + 0.5 * person.fat_front)
    only_air = canvas.tissues == Tissue.AIR
    for side in (-1.0, 1.0):
        centre = (person.dome + rng.uniform(0.0, 45.0), front, side * 0.58 * person.cavity_half_width)
        canvas.paint(canvas.blob(centre, (size, 0.8 * size, size)), Tissue.FAT, only_air)
        canvas.paint(canvas.blob(centre, (0.4 * size, 0.5 * size, 0.4 * size)), Tissue.SOFT_TISSUE, only_air)


def paint_arms(canvas: Canvas, person: Habitus, rng: Generator) -> None:
    """Paint arms that lie beside the body; their outer parts may leave the grid as they leave a scanner's field."""
    outside = canvas.tissues == Tissue.AIR
    side_mm = person.cavity_half_width + person.wall_side + person.fat_side + rng.uniform(30.0, 52.0)
    radius, length = rng.uniform(28.0, 44.0), rng.uniform(150.0, 400.0)
    middle = rng.uniform(-40.0, 120.0)
    for side in (-1.0, 1.0):
        centre = (middle, rng.uniform(-20.0, 45.0), side * side_mm)
        lean = (0.0, side * rng.uniform(-4.0, 4.0), rng.uniform(-6.0, 6.0))
        for tissue, share in (
            (Tissue.FAT, 1.0),
            (Tissue.MUSCLE, 0.82),
            (Tissue.CORTICAL_BONE, 0.30),
            (Tissue.MARROW, 0.17),
        ):
            blob = canvas.blob(centre, (length, share * radius, share * radius), lean, 3.0)
            canvas.paint(blob, tissue, outside)


def paint_skin(canvas: Canvas) -> None:
    """Turn the outermost voxels of the body into skin, seen along rows and columns."""
    body = canvas.tissues > Tissue.TABLE
    rim = np.zeros_like(body)
    for axis in (1, 2):
        step = np.diff(body.astype(np.int8), axis=axis)
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        rim[tuple(after)] |= step > 0
        rim[tuple(before)] |= step < 0
    canvas.tissues[rim & body] = Tissue.SKIN


def paint_table(canvas: Canvas, rng: Generator) -> None:
    """Lay a thin curved plate, with an optional second one, under the body."""
    occupied_rows = np.flatnonzero((canvas.tissues > Tissue.TABLE).any(axis=(0, 2)))
    if occupied_rows.size == 0:
        return
    back_mm = float(canvas.row_mm[occupied_rows[-1]])
    air = canvas.tissues == Tissue.AIR
    width, bow = rng.uniform(180.0, 240.0), rng.uniform(0.0, 26.0)
    gap, thickness = rng.uniform(-4.0, 12.0), rng.uniform(2.0, 6.0)
    plates = (back_mm + gap, back_mm + gap + rng.uniform(15.0, 45.0)) if rng.random() < 0.5 else (back_mm + gap,)
    for level in plates:
        surface = level - bow * (canvas.leftward / width) ** 2
        plate = (np.abs(canvas.posterior - surface) < thickness / 2.0 + 1.0) & (np.abs(canvas.leftward) < width)
        canvas.tissues[air & plate] = Tissue.TABLE


def _ramp(distance_mm: Floats, length_mm: float) -> Floats:
    """Rise smoothly from 0 to 1 over `length_mm`."""
    t = np.clip(distance_mm / length_mm, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _outline(
    canvas: Canvas,
    side: Floats,
    front: Floats,
    back: Floats | float,
    power: float,
) -> Mask:
    """Give the inside of a superellipse whose half axes (one value for each slice) differ front and back."""
    side, front = np.maximum(side, 1.0), np.maximum(front, 1.0)
    back = np.maximum(np.broadcast_to(back, side.shape), 1.0)
    p, left = canvas.row_mm[None, :], canvas.column_mm[None, :]
    depth = np.where(p < 0.0, -p / front[:, None], p / back[:, None]) ** power
    width = np.abs(left / side[:, None]) ** power
    return depth[:, :, None] + width[:, None, :] < 1.0


def _back_muscles(canvas: Canvas, person: Habitus, rng: Generator) -> Mask:
    """Give the ridge of spine and back muscles that indents the cavity, wide in the loin, narrow in the chest."""
    in_loin = _ramp(person.dome - 40.0 - canvas.slice_mm, 90.0)
    half_width = (rng.uniform(26.0, 36.0) + in_loin * rng.uniform(26.0, 42.0)) * person.scale
    depth = (rng.uniform(26.0, 36.0) + in_loin * rng.uniform(0.0, 14.0)) * person.scale
    across = (np.abs(canvas.column_mm[None, :]) / half_width[:, None]) ** 3.0
    along = (np.maximum(person.cavity_back + 6.0 - canvas.row_mm, 0.0)[None, :] / depth[:, None]) ** 3.0
    return along[:, :, None] + across[:, None, :] < 1.0


def _paint_muscle_gaps(canvas: Canvas, muscle: Mask, rng: Generator) -> None:
    """Interleave the muscular wall with sheets of fat."""
    period, phase = rng.uniform(28.0, 60.0), rng.uniform(0.0, 6.0, 3)
    pattern = (
        np.sin(canvas.posterior * (6.28 / period) + 1.5 * np.sin(canvas.superior / 60.0 + phase[0]) + phase[1])
        + np.sin(np.abs(canvas.leftward) * (6.28 / period) + phase[2])
        + 0.5 * np.sin(canvas.superior / 17.0)
    )
    canvas.tissues[muscle & (pattern > rng.uniform(1.3, 2.3))] = Tissue.FAT


def _diaphragm_mm(canvas: Canvas, person: Habitus, rng: Generator) -> Floats:
    """Give the superior coordinate of the diaphragm `[1, row, column]`: two domes and deep recesses behind."""
    domes = []
    for side, top in ((-1.0, person.dome), (1.0, person.dome - person.left_dome_drop)):
        across = (canvas.leftward - side * 0.5 * person.cavity_half_width) / (0.62 * person.cavity_half_width)
        along = (canvas.posterior + rng.uniform(0.0, 22.0)) / person.cavity_back
        domes.append(top - person.dome_depth * (across**2 + along**2))
    height = np.maximum(domes[0], domes[1])
    return np.maximum(height, person.dome - rng.uniform(75.0, 110.0) * person.scale)
