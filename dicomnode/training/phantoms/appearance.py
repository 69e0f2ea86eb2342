"""How a phantom looks to a CT scanner: attenuation by tissue and contrast phase, blur, noise and streaks."""

from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.training.phantoms.anatomy import build_anatomy
from dicomnode.training.phantoms.canvas import GRID_SPACING_MM, Triple
from dicomnode.training.phantoms.clouds import draw_cloud
from dicomnode.training.phantoms.tissue import Tissue, build_target_labels

Volume = NDArray[np.float32]  # [slice, row, column] in HU


class Phase(IntEnum):
    """When the scan was taken, relative to the injection of contrast medium."""

    NATIVE = 0
    ARTERIAL = 1
    PORTAL = 2
    DELAYED = 3


@dataclass(frozen=True, slots=True)
class Attenuation:
    """Mean HU of every `Tissue` and how much it varies inside one organ."""

    mean: NDArray[np.float32]  # [tissue]
    deviation: NDArray[np.float32]  # [tissue]
    lung_gradient: float  # HU per mm towards the back, where a lying patient's lungs are denser


@dataclass(frozen=True, slots=True)
class Scanner:
    """The blur, the slice profile and the noise of one scan."""

    blur_mm: float
    slice_thickness_mm: float
    noise_hu: float
    noise_grain_mm: float
    streaks_hu: float
    shading_hu: float
    fine_texture: float  # share of a tissue's variation that is white, the rest is cloudy


# (low, high) HU by phase: native, arterial, portal, delayed. From textbook ranges of abdominal CT, widened.
_BY_PHASE: dict[Tissue, tuple[tuple[float, float], ...]] = {
    Tissue.MUSCLE: ((28, 65), (35, 72), (40, 78), (40, 75)),
    Tissue.LIVER: ((38, 70), (45, 85), (75, 135), (65, 115)),
    Tissue.HEPATIC_VESSEL: ((25, 48), (35, 110), (110, 190), (75, 130)),
    Tissue.LIVER_LESION: ((0, 50), (0, 120), (0, 90), (0, 90)),
    Tissue.SPLEEN: ((35, 58), (75, 180), (90, 150), (70, 120)),
    Tissue.RIGHT_KIDNEY_CORTEX: ((22, 42), (110, 230), (130, 230), (100, 190)),
    Tissue.RIGHT_KIDNEY_MEDULLA: ((22, 42), (35, 110), (80, 210), (100, 200)),
    Tissue.COLLECTING_SYSTEM: ((-5, 25), (-5, 25), (-5, 120), (60, 900)),
    Tissue.ARTERY: ((28, 52), (180, 420), (110, 190), (75, 130)),
    Tissue.VEIN: ((28, 52), (40, 150), (95, 185), (75, 130)),
    Tissue.HEART_BLOOD: ((28, 52), (150, 380), (105, 185), (75, 130)),
    Tissue.HEART_MUSCLE: ((30, 55), (60, 130), (80, 130), (60, 100)),
    Tissue.PANCREAS: ((15, 50), (55, 120), (60, 115), (45, 90)),
    Tissue.STOMACH_WALL: ((20, 50), (40, 90), (45, 110), (40, 90)),
    Tissue.BOWEL_WALL: ((15, 50), (40, 110), (50, 120), (40, 90)),
    Tissue.SOFT_TISSUE: ((10, 50), (15, 60), (20, 70), (20, 70)),
    Tissue.SKIN: ((-30, 40), (-30, 50), (-30, 60), (-30, 50)),
    Tissue.BLADDER: ((-8, 20), (-8, 20), (-8, 40), (-8, 300)),
}
_ALWAYS: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1005, -985),
    Tissue.TABLE: (-800, 80),
    Tissue.FAT: (-120, -85),
    Tissue.RIGHT_LUNG: (-965, -640),
    Tissue.RIGHT_LUNG_VESSEL: (-150, 80),
    Tissue.AIRWAY: (-1000, -950),
    Tissue.CORTICAL_BONE: (280, 950),
    Tissue.TRABECULAR_BONE: (70, 320),
    Tissue.MARROW: (-80, 130),
    Tissue.CARTILAGE: (60, 160),
    Tissue.DISC: (50, 110),
    Tissue.KIDNEY_SINUS_FAT: (-110, -20),
    Tissue.CYST: (-5, 30),
    Tissue.BOWEL_CONTENT: (-15, 60),
    Tissue.GAS: (-1005, -850),
    Tissue.STOOL: (-150, 90),
    Tissue.GALLBLADDER: (-5, 28),
    Tissue.EFFUSION: (-5, 30),
    Tissue.CALCIFICATION: (300, 900),
}
_TWINS: dict[Tissue, Tissue] = {
    Tissue.LEFT_LUNG: Tissue.RIGHT_LUNG,
    Tissue.LEFT_LUNG_VESSEL: Tissue.RIGHT_LUNG_VESSEL,
    Tissue.LEFT_KIDNEY_CORTEX: Tissue.RIGHT_KIDNEY_CORTEX,
    Tissue.LEFT_KIDNEY_MEDULLA: Tissue.RIGHT_KIDNEY_MEDULLA,
}
_DEVIATION: dict[Tissue, float] = {
    Tissue.AIR: 4,
    Tissue.TABLE: 60,
    Tissue.RIGHT_LUNG: 70,
    Tissue.LEFT_LUNG: 70,
    Tissue.CORTICAL_BONE: 150,
    Tissue.TRABECULAR_BONE: 65,
    Tissue.MARROW: 40,
    Tissue.CARTILAGE: 35,
    Tissue.MUSCLE: 13,
    Tissue.SKIN: 25,
    Tissue.STOOL: 75,
    Tissue.GAS: 30,
    Tissue.LIVER: 8,
    Tissue.SPLEEN: 8,
    Tissue.BLADDER: 6,
    Tissue.GALLBLADDER: 6,
    Tissue.SOFT_TISSUE: 20,
}


def draw_attenuation(rng: Generator) -> Attenuation:
    """Draw the HU of every tissue for a random contrast phase, with fatty livers and oral contrast among them."""
    phase = Phase(int(rng.choice(len(Phase), p=(0.38, 0.15, 0.37, 0.10))))
    mean = np.zeros(len(Tissue), np.float32)
    for tissue, (low, high) in _ALWAYS.items():
        mean[tissue] = rng.uniform(low, high)
    for tissue, ranges in _BY_PHASE.items():
        mean[tissue] = rng.uniform(*ranges[phase])
    if rng.random() < 0.12:  # a fatty liver is darker than the spleen
        mean[Tissue.LIVER] -= rng.uniform(15.0, 45.0)
    if rng.random() < 0.25:
        mean[Tissue.BOWEL_CONTENT] = rng.uniform(80.0, 400.0)
    mean[Tissue.HEPATIC_VESSEL] += rng.choice((0.0, 0.5)) * (mean[Tissue.LIVER] - mean[Tissue.HEPATIC_VESSEL])
    for twin, original in _TWINS.items():
        mean[twin] = mean[original] + rng.normal(0.0, 4.0)
    deviation = np.array([_DEVIATION.get(tissue, 12.0) for tissue in Tissue], np.float32)
    deviation *= np.float32(rng.uniform(0.6, 1.4))
    return Attenuation(mean, deviation, lung_gradient=rng.uniform(-0.2, 1.4))


def draw_scanner(rng: Generator) -> Scanner:
    """Draw a scan protocol, from sharp thin slices to smooth thick ones."""
    return Scanner(
        blur_mm=rng.uniform(0.8, 3.2),
        slice_thickness_mm=float(rng.choice((1.0, 3.0, 5.0, 8.0), p=(0.3, 0.3, 0.3, 0.1))),
        noise_hu=float(np.clip(rng.gamma(2.0, 7.0), 2.0, 45.0)),
        noise_grain_mm=rng.uniform(0.0, 4.0),
        streaks_hu=rng.uniform(0.0, 22.0) if rng.random() < 0.35 else 0.0,
        shading_hu=rng.uniform(0.0, 8.0),
        fine_texture=rng.uniform(0.2, 0.9),
    )


def build_mean_hu(tissues: NDArray[np.uint8], attenuation: Attenuation) -> Volume:
    """Give every voxel of a phantom `[slice, row, column]` its tissue's mean HU, the lungs' by their depth."""
    mean = attenuation.mean[tissues]
    row_mm = (np.arange(tissues.shape[1], dtype=np.float32) - tissues.shape[1] / 2) * np.float32(GRID_SPACING_MM)
    denser = np.float32(attenuation.lung_gradient) * np.broadcast_to(row_mm[:, None], tissues.shape)
    lungs = (tissues == Tissue.RIGHT_LUNG) | (tissues == Tissue.LEFT_LUNG)
    mean[lungs] = np.clip(mean[lungs] + denser[lungs], -985.0, -450.0)
    return mean


def expose(mean: Volume, deviation: Volume, scanner: Scanner, spacing_mm: Triple, rng: Generator) -> Volume:
    """Add each tissue's texture to its mean, shade the image and blur it as the scanner's optics would."""
    cloud = draw_cloud(mean.shape, tuple(9.0 / spacing for spacing in spacing_mm), rng)
    white = rng.standard_normal(mean.shape, np.float32)
    share = np.float32(scanner.fine_texture)
    image = mean + deviation * (share * white + (1 - share) * cloud)
    image += np.float32(scanner.shading_hu) * draw_cloud(
        mean.shape, tuple(75.0 / spacing for spacing in spacing_mm), rng
    )
    # A box of width w has the variance w^2 / 12.
    through_mm = float(np.hypot(0.6 * scanner.blur_mm, scanner.slice_thickness_mm / np.sqrt(12.0)))
    sigmas = (through_mm / spacing_mm[0], scanner.blur_mm / spacing_mm[1], scanner.blur_mm / spacing_mm[2])
    return cast(Volume, ndimage.gaussian_filter(image, sigmas, mode="nearest", truncate=3.0))


def add_noise(image: Volume, scanner: Scanner, spacing_mm: Triple, rng: Generator) -> Volume:
    """Add grainy noise and, in some scans, streaks from side to side as between arms or hips."""
    noise = rng.standard_normal(image.shape, np.float32)
    if scanner.noise_grain_mm > 0.3 * spacing_mm[1]:
        grain = (0.0, scanner.noise_grain_mm / spacing_mm[1], scanner.noise_grain_mm / spacing_mm[2])
        noise = cast(Volume, ndimage.gaussian_filter(noise, grain, mode="nearest", truncate=2.5))
        noise *= np.float32(1.0 / (float(noise.std()) + 1e-6))
    noise *= np.float32(scanner.noise_hu)
    image = image + noise
    if scanner.streaks_hu > 0.0:
        white = rng.standard_normal(image.shape, np.float32)
        along_rows = ndimage.gaussian_filter1d(white, 30.0 / spacing_mm[2], axis=2, mode="nearest", truncate=2.0)
        streaks = cast(Volume, along_rows)
        strength = np.abs(draw_cloud((image.shape[0], 1, 1), (30.0 / spacing_mm[0], 1.0, 1.0), rng))
        image += strength * streaks * np.float32(scanner.streaks_hu / (float(streaks.std()) + 1e-6))
    return image


def build_torso_ct(
    seed: int, spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Build a CT in HU and its `Target` labels, both `[slice, row, column]`, the same for the same seed.

    Indices increase towards the patient's superior, posterior and left; the volume covers 576 mm from feet to
    head, 336 mm from front to back and 456 mm from right to left whatever the spacing. The anatomy is drawn at
    3 mm; finer grids are interpolated before the noise is added.
    """
    tissues = build_anatomy(seed)
    rng = np.random.default_rng((seed, 1))
    attenuation, scanner = draw_attenuation(rng), draw_scanner(rng)
    drawn_mm = (GRID_SPACING_MM, GRID_SPACING_MM, GRID_SPACING_MM)
    image = expose(build_mean_hu(tissues, attenuation), attenuation.deviation[tissues], scanner, drawn_mm, rng)
    labels = build_target_labels(tissues)
    if tuple(spacing_mm) != drawn_mm:
        image, labels = _regrid(image, labels, spacing_mm)
    image = add_noise(image, scanner, spacing_mm, rng)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), labels


def _regrid(image: Volume, labels: NDArray[np.uint8], spacing_mm: Triple) -> tuple[Volume, NDArray[np.uint8]]:
    """Bring image (linear) and labels (nearest) from 3 mm to `spacing_mm`, keeping the outer borders."""
    for axis, spacing in enumerate(spacing_mm):
        count = max(1, round(image.shape[axis] * GRID_SPACING_MM / spacing))
        position = (np.arange(count) + 0.5) * image.shape[axis] / count - 0.5
        below = np.clip(np.floor(position).astype(np.intp), 0, image.shape[axis] - 1)
        above = np.minimum(below + 1, image.shape[axis] - 1)
        shape = [1, 1, 1]
        shape[axis] = count
        share = np.clip(position - below, 0.0, 1.0).astype(np.float32).reshape(shape)
        image = image.take(below, axis) * (1 - share) + image.take(above, axis) * share
        labels = labels.take(np.clip(np.rint(position).astype(np.intp), 0, labels.shape[axis] - 1), axis)
    return image, labels
