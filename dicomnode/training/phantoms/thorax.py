"""Lungs with their vessels and airways, the heart and the great vessels of the chest."""

import numpy as np
from numpy.random import Generator

from dicomnode.training.phantoms.canvas import Canvas, Mask, Triple
from dicomnode.training.phantoms.tissue import Tissue
from dicomnode.training.phantoms.trunk import Habitus, Regions

_LUNG_OF_SIDE = {-1: (Tissue.RIGHT_LUNG, Tissue.RIGHT_LUNG_VESSEL), 1: (Tissue.LEFT_LUNG, Tissue.LEFT_LUNG_VESSEL)}


def paint_thorax(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the contents of the chest."""
    middle = _mediastinum(canvas, person, rng)
    for side in (-1, 1):
        _paint_lung(canvas, person, regions.chest & ~middle & (canvas.leftward * side > 0), side, rng)
    _paint_heart(canvas, person, regions, rng)
    _paint_great_vessels(canvas, person, regions, rng)
    _paint_airways(canvas, person)


def _mediastinum(canvas: Canvas, person: Habitus, rng: Generator) -> Mask:
    """Give the space between the lungs: wide at the spine, narrow behind the breastbone."""
    half_width = rng.uniform(20.0, 32.0) * person.scale
    towards_back = np.clip((canvas.posterior + person.cavity_front) / (person.cavity_front + person.spine_p), 0.0, 1.0)
    return np.abs(canvas.leftward - rng.uniform(-2.0, 7.0)) < half_width * (0.3 + 0.7 * towards_back)


def _paint_lung(canvas: Canvas, person: Habitus, lung: Mask, side: int, rng: Generator) -> None:
    """Paint one lung, the vessels that fan out from its hilum and, in some patients, an effusion below it."""
    tissue, vessel = _LUNG_OF_SIDE[side]
    canvas.tissues[lung] = tissue
    hilum = np.array((person.dome + rng.uniform(45.0, 70.0), 0.15 * person.spine_p, side * 34.0 * person.scale))
    for _ in range(int(rng.integers(14, 30))):
        heading = rng.normal(size=3) * (1.0, 0.9, 0.6) + (0.0, 0.0, side * 0.7)
        heading *= rng.uniform(50.0, 120.0) / np.linalg.norm(heading)
        for share in np.linspace(0.05, 1.0, 16):
            radius = float(4.6 * (1.0 - 0.7 * share))
            point = hilum + share * heading
            canvas.paint(canvas.ball((float(point[0]), float(point[1]), float(point[2])), radius), vessel, lung)
    if rng.random() < 0.10:
        level = person.cavity_back - rng.uniform(5.0, 60.0) + 0.35 * (canvas.superior - person.dome)
        canvas.tissues[lung & (canvas.posterior > level)] = Tissue.EFFUSION


def _paint_heart(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the heart in its fat, muscle around two pools of blood, its tip to the patient's left front."""
    size = rng.uniform(0.85, 1.2) * person.scale
    centre: Triple = (person.dome + rng.uniform(2.0, 30.0), -0.36 * person.cavity_front, rng.uniform(12.0, 30.0))
    turn = (rng.uniform(20.0, 50.0), rng.uniform(-10.0, 15.0), rng.uniform(-20.0, 10.0))
    within = regions.chest
    canvas.paint(canvas.blob(centre, (50.0 * size, 50.0 * size, 58.0 * size), turn), Tissue.FAT, within)
    canvas.paint(canvas.blob(centre, (43.0 * size, 42.0 * size, 51.0 * size), turn), Tissue.HEART_MUSCLE, within)
    for shift in (-1.0, 1.0):
        pool: Triple = (centre[0] + shift * 12.0, centre[1] - shift * 10.0, centre[2] - shift * 16.0)
        canvas.paint(canvas.blob(pool, (24.0 * size, 22.0 * size, 26.0 * size), turn), Tissue.HEART_BLOOD, within)


def _paint_great_vessels(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the aorta's arch and descending part, the upper vena cava and the pulmonary trunk."""
    carina = person.dome + 0.55 * person.lung_height
    aorta = rng.uniform(10.0, 16.0)
    back = person.spine_at(person.dome) - 14.0
    angles = np.linspace(0.0, np.pi, 20)
    arch = [
        (
            carina + 22.0 * float(np.sin(a)),
            -30.0 + (back + 30.0) * (1 - float(np.cos(a))) / 2,
            -8.0 + 32.0 * float(a) / 3.14,
        )
        for a in angles
    ]
    ascending = [(float(s), -30.0, -8.0) for s in np.arange(person.dome + 40.0, carina, 5.0)]
    descending = [(float(s), back, 24.0) for s in np.arange(person.dome - 30.0, carina, 5.0)]
    canvas.paint_tube(arch + ascending + descending, (aorta, aorta, aorta), Tissue.ARTERY, regions.cavity)
    cava = [(float(s), -18.0, -27.0) for s in np.arange(person.dome + 35.0, carina + 60.0, 5.0)]
    canvas.paint_tube(cava, (9.0, 9.0, 9.0), Tissue.VEIN, regions.cavity)
    trunk = [(carina - 18.0, -22.0 + 30.0 * float(t), 6.0 + 16.0 * float(t)) for t in np.linspace(0.0, 1.0, 8)]
    canvas.paint_tube(trunk, (13.0, 13.0, 13.0), Tissue.HEART_BLOOD, regions.cavity)


def _paint_airways(canvas: Canvas, person: Habitus) -> None:
    """Paint the windpipe and the two main bronchi."""
    carina, p = person.dome + 0.55 * person.lung_height, 0.25 * person.spine_p
    windpipe = [(float(s), p, 0.0) for s in np.arange(carina, 288.0, 5.0)]
    canvas.paint_tube(windpipe, (6.0, 8.5, 8.5), Tissue.AIRWAY)
    for side in (-1.0, 1.0):
        bronchus = [(carina - 32.0 * float(t), p, side * 36.0 * float(t)) for t in np.linspace(0.0, 1.0, 10)]
        canvas.paint_tube(bronchus, (5.0, 5.5, 5.5), Tissue.AIRWAY)
