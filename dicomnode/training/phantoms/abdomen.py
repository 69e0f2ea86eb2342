"""Bowel, solid organs and vessels of the abdomen."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dicomnode.training.phantoms.canvas import Blob, Canvas, Mask, Triple
from dicomnode.training.phantoms.tissue import Tissue
from dicomnode.training.phantoms.trunk import Habitus, Regions

_FILLINGS = (Tissue.BOWEL_CONTENT, Tissue.GAS, Tissue.STOOL)


def paint_abdomen(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the contents of the abdomen; what is painted later displaces what was there."""
    _paint_small_bowel(canvas, person, regions, rng)
    _paint_colon(canvas, person, regions, rng)
    _paint_stomach(canvas, person, regions, rng)
    _paint_pancreas(canvas, person, regions, rng)
    _paint_bladder(canvas, person, regions, rng)
    if rng.random() > 0.03:
        _paint_spleen(canvas, person, regions, rng)
    _paint_liver(canvas, person, regions, rng)
    _paint_gallbladder(canvas, person, regions, rng)
    for side in (-1, 1):
        if rng.random() > 0.03:
            _paint_kidney(canvas, person, regions, side, rng)
    _paint_vessels(canvas, person, regions, rng)


def _paint_small_bowel(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint loops of bowel as winding tubes with a wall and changing contents."""
    for _ in range(int(rng.integers(12, 34))):
        middle = (
            person.dome - rng.uniform(70.0, 290.0),
            rng.uniform(-0.75, 0.25) * person.cavity_front,
            rng.normal(0.0, 0.4) * person.cavity_half_width,
        )
        collapsed = rng.random() < 0.35
        radius = rng.uniform(5.0, 9.0) if collapsed else rng.uniform(8.0, 16.0)
        wall = radius if collapsed else rng.uniform(2.0, 4.5)
        points = _winding_path(middle, int(rng.integers(8, 26)), 0.7 * radius, rng)
        _paint_hollow_tube(canvas, points, radius, wall, regions.abdomen, (0.7, 0.27, 0.03), rng)


def _paint_colon(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the colon's frame: up on the right, across in front, down on the left, and the sigmoid."""
    top, bottom = person.dome - rng.uniform(120.0, 150.0), person.dome - 265.0
    flank, sag = rng.uniform(0.66, 0.84) * person.cavity_half_width, rng.uniform(0.0, 80.0)
    radius = rng.uniform(15.0, 27.0)
    back, front = rng.uniform(5.0, 30.0), -rng.uniform(0.55, 0.85) * person.cavity_front
    for side in (-1.0, 1.0):
        upper = top + (rng.uniform(10.0, 70.0) if side > 0 else 0.0)
        column = [(float(s), back - 0.12 * (upper - float(s)), side * flank) for s in np.arange(bottom, upper, 12.0)]
        points = [_jitter(point, 4.0, rng) for point in column]
        _paint_hollow_tube(canvas, points, radius, 3.0, regions.abdomen, (0.15, 0.35, 0.5), rng)
    across = np.linspace(-1.0, 1.0, 24)
    bow = [(top + 12.0 * t - sag * (1 - t * t), front + (back - front) * t * t * 0.8, flank * t) for t in across]
    points = [_jitter((float(s), float(p), float(left)), 4.0, rng) for s, p, left in bow]
    _paint_hollow_tube(canvas, points, 0.9 * radius, 3.0, regions.abdomen, (0.15, 0.5, 0.35), rng)
    sigmoid = _winding_path((bottom - 10.0, 10.0, 0.3 * person.cavity_half_width), 22, 10.0, rng)
    _paint_hollow_tube(canvas, sigmoid, 15.0, 3.5, regions.abdomen, (0.2, 0.3, 0.5), rng)


def _paint_stomach(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the stomach under the left dome with fluid below and gas above, as the patient lies on the back."""
    size = rng.uniform(0.75, 1.35)
    centre: Triple = (
        person.dome - person.left_dome_drop - rng.uniform(34.0, 78.0),
        -rng.uniform(0.1, 0.5) * person.cavity_front,
        rng.uniform(0.32, 0.5) * person.cavity_half_width,
    )
    radii: Triple = (48.0 * size, 38.0 * size, 36.0 * size)
    turn = (rng.uniform(-30.0, 30.0), rng.uniform(-10.0, 40.0), rng.uniform(-30.0, 30.0))
    canvas.paint(canvas.blob(centre, radii, turn), Tissue.STOMACH_WALL, regions.abdomen)
    wall = rng.uniform(3.5, 8.0)
    lumen = canvas.blob(centre, (radii[0] - wall, radii[1] - wall, radii[2] - wall), turn)
    filling = (Tissue.BOWEL_CONTENT, Tissue.STOOL)[int(rng.random() < 0.3)]
    canvas.paint(lumen, filling, regions.abdomen)
    fluid_level = centre[1] + rng.uniform(-1.0, 0.6) * radii[1]
    canvas.paint(lumen, Tissue.GAS, regions.abdomen & (canvas.posterior < fluid_level))
    outlet = [
        (centre[0] - 35.0 - 30.0 * float(t), centre[1] + 10.0 * float(t), centre[2] * (1.0 - 1.3 * float(t)))
        for t in np.linspace(0.0, 1.0, 14)
    ]
    _paint_hollow_tube(canvas, outlet, rng.uniform(13.0, 20.0), 5.0, regions.abdomen, (0.8, 0.2, 0.0), rng)


def _paint_pancreas(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the pancreas as a bent tube from the right of the spine to the spleen's hilum."""
    level, rise = person.dome - rng.uniform(105.0, 130.0) * person.scale, rng.uniform(5.0, 40.0)
    front = person.spine_p - rng.uniform(42.0, 58.0) * person.scale
    thickness = rng.uniform(8.0, 14.0)
    for t in np.linspace(0.0, 1.0, 22):
        share = float(t)
        p = front + 48.0 * (share - 0.35) ** 2 * (1.0 if share > 0.35 else 0.4)
        point = (level + rise * share - 25.0 * max(0.0, 0.15 - share), p, (-42.0 + 130.0 * share) * person.scale)
        canvas.paint(canvas.blob(point, (1.2 * thickness, thickness, 10.0)), Tissue.PANCREAS, regions.abdomen)


def _paint_bladder(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the urinary bladder behind the pubic bones."""
    radii: Triple = (rng.uniform(18.0, 42.0), rng.uniform(20.0, 40.0), rng.uniform(24.0, 48.0))
    centre: Triple = (person.dome - 330.0 * person.scale, -0.3 * person.cavity_front, 0.0)
    canvas.paint(canvas.blob(centre, radii), Tissue.SOFT_TISSUE, regions.cavity)
    canvas.paint(canvas.blob(centre, radii), Tissue.BLADDER, regions.cavity, 0.82)


def _paint_spleen(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the spleen along the left wall behind the stomach, hollowed on the side of its hilum."""
    scale = rng.uniform(0.8, 1.5) * person.scale
    centre: Triple = (
        person.dome - person.left_dome_drop - rng.uniform(34.0, 95.0),
        rng.uniform(0.12, 0.5) * person.cavity_back,
        rng.uniform(0.62, 0.8) * person.cavity_half_width,
    )
    radii: Triple = (rng.uniform(38.0, 60.0) * scale, rng.uniform(34.0, 52.0) * scale, rng.uniform(19.0, 32.0) * scale)
    turn = (rng.uniform(5.0, 45.0), rng.uniform(-25.0, 15.0), rng.uniform(-20.0, 35.0))
    spleen = canvas.mask_of(canvas.blob(centre, radii, turn)) & regions.abdomen
    hilum: Triple = (centre[0], centre[1] - rng.uniform(5.0, 22.0), centre[2] - rng.uniform(0.9, 1.3) * radii[2])
    hollow = canvas.blob(hilum, (0.85 * radii[0], 0.75 * radii[1], 0.75 * radii[2]), turn)
    if rng.random() < 0.75:
        spleen &= ~canvas.mask_of(hollow)
        canvas.paint(canvas.blob(hilum, (12.0, 10.0, 10.0)), Tissue.VEIN, regions.abdomen & ~spleen)
    canvas.tissues[spleen] = Tissue.SPLEEN


def _paint_liver(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the liver under the right dome and across to the left, with its vessels and sometimes lesions."""
    half_width, front, back = person.cavity_half_width, person.cavity_front, person.cavity_back
    size = rng.uniform(0.86, 1.16) * person.scale
    right_lobe = canvas.blob(
        (person.dome - rng.uniform(52.0, 72.0) * size, rng.uniform(-10.0, 14.0), -0.56 * half_width),
        (rng.uniform(68.0, 95.0) * size, rng.uniform(0.85, 1.1) * back, rng.uniform(0.46, 0.6) * half_width),
        (rng.uniform(-12.0, 12.0), rng.uniform(-15.0, 15.0), rng.uniform(-15.0, 15.0)),
        2.4,
    )
    left_lobe = canvas.blob(
        (
            person.dome - rng.uniform(38.0, 86.0) * size,
            -rng.uniform(0.4, 0.65) * front,
            -rng.uniform(0.0, 0.26) * half_width,
        ),
        (rng.uniform(28.0, 52.0) * size, rng.uniform(0.3, 0.58) * front, rng.uniform(0.4, 0.74) * half_width),
        (rng.uniform(-20.0, 10.0), rng.uniform(-5.0, 25.0), rng.uniform(-15.0, 15.0)),
    )
    tail = canvas.blob(
        (person.dome - rng.uniform(95.0, 125.0) * size, rng.uniform(-10.0, 30.0), -0.68 * half_width),
        (rng.uniform(38.0, 85.0) * size, rng.uniform(0.45, 0.8) * back, rng.uniform(0.22, 0.36) * half_width),
        (0.0, rng.uniform(-10.0, 10.0), rng.uniform(-15.0, 15.0)),
    )
    caudate = canvas.blob((person.dome - 75.0 * size, 0.15 * back, -22.0), (30.0 * size, 18.0 * size, 18.0 * size))
    liver = np.zeros(canvas.tissues.shape, np.bool_)
    for lobe in (right_lobe, left_lobe, tail, caudate):
        liver |= canvas.mask_of(lobe)
    liver &= regions.abdomen
    porta: Triple = (person.dome - rng.uniform(85.0, 110.0) * size, -0.05 * front, -0.22 * half_width)
    liver &= ~canvas.mask_of(canvas.blob(porta, (rng.uniform(14.0, 28.0), 16.0, rng.uniform(20.0, 34.0)), power=2.5))
    if rng.random() < 0.7:
        fissure = (person.dome - 85.0 * size, -0.7 * front, -rng.uniform(0.12, 0.25) * half_width)
        liver &= ~canvas.mask_of(canvas.blob(fissure, (32.0, 28.0, 4.0), (rng.uniform(-30.0, 30.0), 0.0, 0.0)))
    canvas.tissues[liver] = Tissue.LIVER
    _paint_liver_vessels(canvas, person, liver, porta, rng)
    for _ in range(int(rng.poisson(0.8))):
        radius = rng.uniform(4.0, 26.0)
        canvas.paint(canvas.ball(_point_in(canvas, liver, rng), radius), Tissue.LIVER_LESION, liver)


def _paint_liver_vessels(canvas: Canvas, person: Habitus, liver: Mask, porta: Triple, rng: Generator) -> None:
    """Paint portal branches that fan out from the porta and hepatic veins that meet below the dome."""
    confluence: Triple = (person.dome - 35.0, 0.25 * person.cavity_back, -24.0)
    for root in (porta, confluence):
        for _ in range(int(rng.integers(3, 8))):
            tip = _point_in(canvas, liver, rng)
            for share in np.linspace(0.0, 1.0, 24):
                radius = float(5.2 - 3.2 * share)
                point = tuple(float(a + (b - a) * share) for a, b in zip(root, tip, strict=True))
                canvas.paint(canvas.ball((point[0], point[1], point[2]), radius), Tissue.HEPATIC_VESSEL, liver)


def _paint_gallbladder(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint the gallbladder under the liver, unless it was removed."""
    if rng.random() < 0.2:
        return
    centre: Triple = (
        person.dome - rng.uniform(95.0, 125.0) * person.scale,
        -rng.uniform(0.25, 0.6) * person.cavity_front,
        -rng.uniform(0.3, 0.5) * person.cavity_half_width,
    )
    radii: Triple = (rng.uniform(14.0, 26.0), rng.uniform(10.0, 18.0), rng.uniform(10.0, 17.0))
    turn = (rng.uniform(-30.0, 30.0), rng.uniform(-30.0, 30.0), rng.uniform(0.0, 50.0))
    canvas.paint(canvas.blob(centre, radii, turn), Tissue.GALLBLADDER, regions.abdomen)


def _paint_kidney(canvas: Canvas, person: Habitus, regions: Regions, side: int, rng: Generator) -> None:
    """Paint one kidney in its fat: cortex, pyramids, and a sinus that opens towards the middle and the front."""
    right = side < 0
    cortex = Tissue.RIGHT_KIDNEY_CORTEX if right else Tissue.LEFT_KIDNEY_CORTEX
    medulla = Tissue.RIGHT_KIDNEY_MEDULLA if right else Tissue.LEFT_KIDNEY_MEDULLA
    size = rng.uniform(0.85, 1.15) * person.scale
    radii = np.array((rng.uniform(48.0, 63.0), rng.uniform(22.0, 30.0), rng.uniform(24.0, 32.0))) * size
    centre = np.array(
        (
            person.dome - rng.uniform(112.0, 150.0) * person.scale - (rng.uniform(0.0, 26.0) if right else 0.0),
            person.spine_p + rng.uniform(-10.0, 16.0),
            side * rng.uniform(58.0, 78.0) * person.scale,
        )
    )
    turn = (side * rng.uniform(10.0, 50.0), -side * rng.uniform(4.0, 26.0), -rng.uniform(0.0, 24.0))
    inside = regions.inner & (canvas.superior < person.dome - 55.0)
    fat = _scaled(radii, rng.uniform(1.12, 1.5))
    canvas.paint(
        canvas.blob(_triple(centre), fat, turn),
        Tissue.FAT,
        inside & ~canvas.is_any(Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN),
    )
    canvas.paint(canvas.blob(_triple(centre), _scaled(radii, 1.06), turn), Tissue.FAT, inside)
    canvas.paint(canvas.blob(_triple(centre), _triple(radii), turn, 2.2), cortex, inside)
    _paint_pyramids(canvas, canvas.blob(_triple(centre), _scaled(radii, 0.78), turn, 2.2), medulla, inside, rng)
    toward_hilum = np.array((0.0, -0.35 * radii[1], -side * 0.55 * radii[2]))
    opening = _triple(np.array((0.5, 0.42, 0.62)) * radii * rng.uniform(0.8, 1.15))
    canvas.paint(canvas.blob(_triple(centre + toward_hilum), opening, turn), Tissue.KIDNEY_SINUS_FAT, inside)
    pelvis = _triple(np.array((0.28, 0.24, 0.5)) * radii * rng.uniform(0.5, 1.2))
    canvas.paint(canvas.blob(_triple(centre + 1.2 * toward_hilum), pelvis, turn), Tissue.COLLECTING_SYSTEM, inside)
    if rng.random() < 0.25:
        radius = rng.uniform(5.0, 26.0)
        surface = centre + rng.normal(size=3) * 0.6 * radii
        canvas.paint(canvas.ball(_triple(surface), radius), Tissue.CYST, regions.abdomen)


def _paint_pyramids(canvas: Canvas, blob: Blob, tissue: Tissue, within: Mask, rng: Generator) -> None:
    """Paint the medulla, crossed by columns of cortex."""
    s, p, left = (
        canvas.superior[blob.box[0]],
        canvas.posterior[:, blob.box[1]],
        canvas.leftward[:, :, blob.box[2]],
    )
    phase = rng.uniform(0.0, 6.0, 3)
    columns = np.sin(s * 0.33 + phase[0]) + np.sin(p * 0.31 + phase[1]) + np.sin(left * 0.29 + phase[2])
    inside = (blob.distance < 1.0) & (columns < 0.9) & within[blob.box]
    canvas.tissues[blob.box][inside] = tissue


def _paint_vessels(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint aorta and lower vena cava in front of the spine, their forks, the portal vein and calcium."""
    artery, vein = rng.uniform(7.5, 12.5), rng.uniform(8.0, 13.0)
    fork = person.dome - rng.uniform(180.0, 205.0) * person.scale
    bend = rng.uniform(-6.0, 10.0)
    for s in np.arange(-288.0, person.dome + 30.0, 5.0):
        level = float(s)
        p = person.spine_at(level) - 21.0 * person.scale - artery
        if level >= fork:
            _paint_artery(canvas, (level, p, bend), artery, regions, rng)
            cava: Triple = (level, p + 4.0 - 0.12 * max(0.0, level - person.dome + 90.0), -23.0)
            canvas.paint(canvas.blob(cava, (5.0, 0.75 * vein, vein)), Tissue.VEIN, regions.cavity)
            continue
        spread = 0.42 * (fork - level)
        for side in (-1.0, 1.0):
            apart = side * min(spread, 62.0)
            _paint_artery(canvas, (level, p + 0.5 * spread, bend + apart), 0.7 * artery, regions, rng)
            iliac_vein: Triple = (level, p + 6.0 + 0.5 * spread, apart - 6.0)
            canvas.paint(canvas.blob(iliac_vein, (5.0, 0.75 * vein, vein)), Tissue.VEIN, regions.cavity)
    _paint_portal_vein(canvas, person, regions)
    _paint_mesenteric_vessels(canvas, person, regions, rng)


def _paint_artery(canvas: Canvas, centre: Triple, radius: float, regions: Regions, rng: Generator) -> None:
    """Paint a piece of an artery that runs from above down, now and then with calcium in its back wall."""
    canvas.paint(canvas.blob(centre, (5.0, radius, radius)), Tissue.ARTERY, regions.cavity)
    if rng.random() < 0.06:
        speck: Triple = (centre[0], centre[1] + radius, centre[2])
        canvas.paint(canvas.blob(speck, (4.0, 3.0, 5.0)), Tissue.CALCIFICATION, regions.cavity)


def _paint_portal_vein(canvas: Canvas, person: Habitus, regions: Regions) -> None:
    """Paint splenic, mesenteric and portal vein between pancreas and porta."""
    p = person.spine_p - 48.0 * person.scale
    meeting: Triple = (person.dome - 112.0 * person.scale, p, -12.0)
    ends = (
        (meeting[0] + 22.0, p - 8.0, -38.0),
        (meeting[0] + 25.0, p + 40.0, 75.0),
        (meeting[0] - 80.0, p - 15.0, -5.0),
    )
    for end in ends:
        path = [
            (
                meeting[0] + (end[0] - meeting[0]) * float(t),
                p + (end[1] - p) * float(t),
                meeting[2] + (end[2] - meeting[2]) * float(t),
            )
            for t in np.linspace(0.0, 1.0, 16)
        ]
        canvas.paint_tube(path, (6.0, 6.0, 6.0), Tissue.VEIN, regions.abdomen)


def _paint_mesenteric_vessels(canvas: Canvas, person: Habitus, regions: Regions, rng: Generator) -> None:
    """Paint thin vessels that wind through the fat in front of the spine."""
    for _ in range(int(rng.integers(5, 18))):
        start: Triple = (person.dome - rng.uniform(110.0, 200.0), person.spine_p - 55.0, rng.normal(0.0, 25.0))
        radius = rng.uniform(2.0, 4.5)
        tissue = (Tissue.ARTERY, Tissue.VEIN)[int(rng.random() < 0.7)]
        fat = regions.abdomen & canvas.is_any(Tissue.FAT)
        canvas.paint_tube(_winding_path(start, 20, 4.0, rng), (radius, radius, radius), tissue, fat)


def _paint_hollow_tube(
    canvas: Canvas,
    points: list[Triple],
    radius: float,
    wall: float,
    within: Mask,
    chances: tuple[float, float, float],
    rng: Generator,
) -> None:
    """Paint a tube with a wall; stretches of it are filled with fluid, gas or stool by the given chances."""
    outer = [radius * rng.uniform(0.75, 1.2) for _ in points]
    for point, size in zip(points, outer, strict=True):
        canvas.paint(canvas.ball(point, size), Tissue.BOWEL_WALL, within)
    filling = _FILLINGS[int(rng.choice(3, p=chances))]
    for point, size in zip(points, outer, strict=True):
        if rng.random() < 0.18:
            filling = _FILLINGS[int(rng.choice(3, p=chances))]
        lumen = max(1.0, size - wall)
        canvas.paint(canvas.ball(point, lumen), filling, within)


def _winding_path(start: Triple, steps: int, stride_mm: float, rng: Generator) -> list[Triple]:
    """Walk from `start` in a direction that turns a little at every step."""
    point, heading, path = np.array(start), rng.normal(size=3), []
    for _ in range(steps):
        heading += 0.55 * rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        point = point + stride_mm * heading
        path.append(_triple(point))
    return path


def _jitter(point: Triple, deviation_mm: float, rng: Generator) -> Triple:
    return _triple(np.array(point) + deviation_mm * rng.normal(size=3))


def _point_in(canvas: Canvas, mask: Mask, rng: Generator) -> Triple:
    """Give a random point of a mask, or the origin where the mask is empty."""
    indices = np.flatnonzero(mask)
    if indices.size == 0:
        return (0.0, 0.0, 0.0)
    index = np.unravel_index(int(indices[rng.integers(indices.size)]), mask.shape)
    return (float(canvas.slice_mm[index[0]]), float(canvas.row_mm[index[1]]), float(canvas.column_mm[index[2]]))


def _scaled(radii: NDArray[np.float64], factor: float) -> Triple:
    return _triple(radii * factor)


def _triple(values: NDArray[np.float64]) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))
