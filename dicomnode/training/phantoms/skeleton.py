"""Spine, ribs, sternum, shoulder blades and pelvis."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from dicomnode.training.phantoms.canvas import Canvas, Triple
from dicomnode.training.phantoms.tissue import Tissue
from dicomnode.training.phantoms.trunk import Habitus, Regions

_BONES = (Tissue.CORTICAL_BONE, Tissue.TRABECULAR_BONE, Tissue.MARROW)


def paint_skeleton(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint every bone of the trunk."""
    levels = _vertebra_levels_mm(person, rng)
    body_size = rng.uniform(18.0, 23.0) * person.scale
    for level in levels:
        _paint_vertebra(canvas, person, level, levels[1] - levels[0], body_size)
    _paint_ribs(canvas, person, levels, rng)
    _paint_sternum(canvas, person, regions, rng)
    if rng.random() < 0.8:
        _paint_shoulder_blades(canvas, person, rng)
    _paint_pelvis(canvas, person, regions, rng)


def _vertebra_levels_mm(person: Habitus, rng: Generator) -> list[float]:
    """Give the superior coordinates of the vertebrae from the sacrum's top to the neck."""
    pitch = rng.uniform(26.0, 32.0) * person.scale
    lowest = person.dome - rng.uniform(205.0, 235.0) * person.scale
    return [float(level) for level in np.arange(lowest, 300.0, pitch)]


def _paint_vertebra(canvas: Canvas, person: Habitus, level: float, pitch: float, body_size: float) -> None:
    """Paint disc, body with a cortical shell, spinal canal, pedicles, and the three processes."""
    p = person.spine_at(level)
    size = body_size * (1.0 - 0.25 * float(np.clip((level - person.dome) / 200.0, 0.0, 1.0)))
    canvas.paint(canvas.blob((level - pitch / 2, p, 0.0), (0.14 * pitch, 0.9 * size, 1.1 * size), power=4), Tissue.DISC)
    for side in (-1.0, 1.0):
        pedicle: Triple = (level + 2.0, p + 1.25 * size, side * 0.72 * size)
        canvas.paint(canvas.blob(pedicle, (9.0, 13.0, 6.5)), Tissue.CORTICAL_BONE)
        process: Triple = (level, p + 1.45 * size, side * 1.5 * size)
        canvas.paint(canvas.blob(process, (6.0, 5.5, 19.0), (side * 18.0, 0, 0)), Tissue.CORTICAL_BONE)
        lamina: Triple = (level - 4.0, p + 1.95 * size, side * 7.0)
        canvas.paint(canvas.blob(lamina, (10.0, 5.0, 11.0), (side * -35.0, 0, 0)), Tissue.CORTICAL_BONE)
    canvas.paint(canvas.blob((level - 6.0, p + 2.6 * size, 0.0), (9.0, 16.0, 4.5)), Tissue.CORTICAL_BONE)
    canvas.paint(canvas.blob((level, p, 0.0), (0.42 * pitch, size, 1.18 * size), power=4), Tissue.CORTICAL_BONE)
    core = (0.42 * pitch - 2.6, size - 3.0, 1.18 * size - 3.0)
    canvas.paint(canvas.blob((level, p, 0.0), core, power=4), Tissue.TRABECULAR_BONE)
    canal: Triple = (level, p + 1.45 * size, 0.0)
    canvas.paint(canvas.blob(canal, (0.6 * pitch, 8.0, 10.0), power=3), Tissue.SOFT_TISSUE)


def paint_back_muscles(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint erector spinae and psoas on both sides."""
    psoas = rng.uniform(11.0, 21.0) * person.scale
    for side in (-1.0, 1.0):
        erector: Triple = (-40.0, person.spine_p + 46.0 * person.scale, side * 36.0 * person.scale)
        canvas.paint(canvas.blob(erector, (400.0, 20.0, 27.0), power=3), Tissue.MUSCLE, regions.inner)
        middle: Triple = (person.dome - 190.0, person.spine_p - 2.0, side * (30.0 + psoas) * person.scale * 0.9)
        canvas.paint(
            canvas.blob(middle, (115.0, 1.15 * psoas, psoas), (0.0, side * -9.0, 8.0)), Tissue.MUSCLE, regions.abdomen
        )


@dataclass(frozen=True, slots=True)
class _Rib:
    """One rib: from its vertebra round to the front, on the right (-1) or the left (1)."""

    side: float
    level: float  # superior coordinate at the spine
    drop: float  # how far below that its front end would lie at full length
    length: float  # 1 reaches the breastbone
    thickness: float


def _paint_ribs(canvas: Canvas, person: Habitus, levels: list[float], rng: Generator) -> None:
    """Paint ribs as tubes in the chest wall that descend towards the front and end in cartilage."""
    drop = rng.uniform(35.0, 85.0) * person.scale
    thickness = rng.uniform(3.6, 5.0)
    lowest_rib = person.dome - rng.uniform(85.0, 115.0) * person.scale
    for level in (level for level in levels if level > lowest_rib):
        length = float(np.clip((level - lowest_rib) / 55.0 + 0.35, 0.35, 1.0))
        for side in (-1.0, 1.0):
            _paint_rib(canvas, person, _Rib(side, level, drop, length, thickness))


def _paint_rib(canvas: Canvas, person: Habitus, rib: _Rib) -> None:
    """Paint one rib: bone with a softer core, then cartilage in front."""
    taper, thickness = person.taper_at(rib.level), rib.thickness
    half_width = (person.cavity_half_width + 0.5 * person.wall_side) * taper
    front = (person.cavity_front + 0.5 * person.wall_front) * taper
    back = (person.cavity_back + 0.35 * person.wall_back) * taper
    angles = np.linspace(np.pi / 2 - 0.30, -np.pi / 2 + 0.22, 64)
    for share, angle in zip(np.linspace(0.0, 1.0, angles.size), angles, strict=True):
        if share > rib.length:
            return
        depth = back if angle > 0 else front
        p = float(np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.9 * depth)
        left = float(rib.side * np.abs(np.cos(angle)) ** 0.9 * half_width)
        s = rib.level - rib.drop * float(share) ** 1.2
        cartilage = share > 0.78
        shell = Tissue.CARTILAGE if cartilage else Tissue.CORTICAL_BONE
        canvas.paint(canvas.blob((s, p, left), (1.35 * thickness, thickness, thickness)), shell)
        if not cartilage:
            core = (0.6 * thickness, 0.5 * thickness, 0.5 * thickness)
            canvas.paint(canvas.blob((s, p, left), core), Tissue.TRABECULAR_BONE)


def _paint_sternum(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the breastbone and, above it, the inner ends of the collar bones."""
    front = -(person.cavity_front + 0.4 * person.wall_front)
    bottom, top = person.dome - rng.uniform(0.0, 35.0), person.dome + 0.82 * person.lung_height
    for s in np.arange(bottom, top, 6.0):
        p = front * person.taper_at(float(s))
        canvas.paint(canvas.blob((float(s), p, 0.0), (6.0, 5.5, 17.0), power=3), Tissue.CORTICAL_BONE, regions.inner)
        canvas.paint(canvas.blob((float(s), p, 0.0), (5.0, 3.2, 14.5), power=3), Tissue.TRABECULAR_BONE, regions.inner)
    for side in (-1.0, 1.0):
        for share in np.linspace(0.0, 1.0, 24):
            point = (
                top + 8.0 + 22.0 * float(share),
                0.6 * front + 45.0 * float(share),
                side * (16.0 + 120.0 * float(share)),
            )
            canvas.paint(canvas.ball(point, 6.0), Tissue.CORTICAL_BONE)


def _paint_shoulder_blades(canvas: Canvas, person: Habitus, rng: Generator) -> None:
    """Paint the shoulder blades as thin tilted plates behind the upper chest."""
    above = person.dome + 0.62 * person.lung_height
    for side in (-1.0, 1.0):
        centre = (above, 0.78 * person.cavity_back + 8.0, side * (0.72 * person.cavity_half_width + 14.0))
        plate = canvas.blob(centre, (62.0, 4.5, 42.0), (side * rng.uniform(25.0, 50.0), 0.0, 0.0), 2.5)
        canvas.paint(plate, Tissue.CORTICAL_BONE)


def _paint_pelvis(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint hip bones as parts of thick shells, the sacrum, and the upper thigh bones."""
    scale, middle = person.scale, person.dome - rng.uniform(250.0, 280.0) * person.scale
    spine = person.spine_at(middle)
    shell = rng.uniform(0.14, 0.24)
    for side in (-1.0, 1.0):
        wing = canvas.blob(
            (middle, spine - 16.0, side * 62.0 * scale),
            (80.0 * scale, 62.0 * scale, 66.0 * scale),
            (rng.uniform(-8.0, 8.0), side * rng.uniform(0.0, 14.0), rng.uniform(-10.0, 10.0)),
        )
        outer_side = (canvas.leftward * side > 20.0) & (canvas.posterior > spine - 62.0 * scale) & regions.inner
        outer_side &= canvas.superior < middle + 58.0 * scale  # the wing is open above, where the loin begins
        in_shell = (np.abs(wing.distance - 1.0) < shell) & outer_side[wing.box]
        canvas.tissues[wing.box][in_shell] = Tissue.CORTICAL_BONE
        canvas.tissues[wing.box][in_shell & (np.abs(wing.distance - 1.0) < 0.55 * shell)] = Tissue.TRABECULAR_BONE
        head: Triple = (middle - 75.0 * scale, spine - 38.0 * scale, side * 88.0 * scale)
        for tissue, radius in ((Tissue.CORTICAL_BONE, 25.0 * scale), (Tissue.TRABECULAR_BONE, 21.0 * scale)):
            canvas.paint(canvas.ball(head, radius), tissue)
        shaft: Triple = (head[0] - 75.0, head[1], head[2] + side * 14.0)
        for tissue, radius in ((Tissue.CORTICAL_BONE, 16.0), (Tissue.MARROW, 10.0)):
            canvas.paint(canvas.blob(shaft, (85.0, radius, radius), power=4), tissue)
    sacrum = canvas.blob((middle + 5.0, spine + 14.0, 0.0), (58.0, 17.0, 46.0 * scale), (0.0, 0.0, -18.0), 2.5)
    canvas.paint(sacrum, Tissue.CORTICAL_BONE, regions.inner)
    canvas.paint(sacrum, Tissue.TRABECULAR_BONE, regions.inner, 0.85)
    pubis = canvas.blob((middle - 85.0 * scale, spine - 82.0 * scale, 0.0), (16.0, 11.0, 52.0), power=3)
    canvas.paint(pubis, Tissue.CORTICAL_BONE, regions.inner & ~canvas.is_any(*_BONES))
    canvas.paint(pubis, Tissue.TRABECULAR_BONE, regions.inner, 0.6)
