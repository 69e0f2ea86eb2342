"""Small images of a body with organs in it, for the oracles: what a network can learn in seconds.

Arrays are [z, y, x] as SimpleITK and nnU-Net hold them; spacings are in mm in the same order.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
ORGAN_HU = (-1000.0, 40.0, 200.0, 520.0, 350.0)  # air outside, body, then the organs in turn
ORGAN_SIGNAL = (0.0, 220.0, 900.0, 440.0, 660.0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Shape and place of an image; `direction` is SimpleITK's, the columns are the x, y and z axes in LPS."""

    shape_zyx: tuple[int, int, int]
    spacing_mm_zyx: tuple[float, float, float]
    direction: tuple[float, ...] = IDENTITY
    origin_mm: tuple[float, float, float] = (-31.5, -42.0, 117.25)


def organs(grid: Grid, seed: int, count: int, size: float = 1.0) -> NDArray[np.uint8]:
    """Labels [z, y, x]: 0 outside, 1 the body, 2 to `count` + 1 its organs, each an ellipsoid.

    A body of size 1 nearly fills the slices.
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1 / size, 1 / size, n) for n in grid.shape_zyx), indexing="ij")
    labels = (sum((a / r) ** 2 for a, r in zip(axes, (1.6, 0.85, 0.9), strict=True)) < 1).astype(np.uint8)
    for organ in range(count):
        angle = 2 * np.pi * organ / max(count, 1) + 0.4
        centre = (rng.uniform(-0.4, 0.4), 0.42 * np.sin(angle), 0.45 * np.cos(angle))
        radii = (rng.uniform(0.45, 0.7), rng.uniform(0.24, 0.34), rng.uniform(0.24, 0.34))
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1
        labels[inside & (labels > 0)] = organ + 2
    return labels


def channels(kind: str, labels: NDArray[np.uint8], seed: int) -> list[NDArray[np.int16]]:
    """The channels of an image of such a body: HU of a CT, or signal that is exactly 0 outside the body."""
    match kind:
        case "ct":
            return [_ct_hu(labels, seed)]
        case "ct-in-zeros":
            return [_in_zeros(_ct_hu(labels, seed))]
        case "mr":
            return [
                _signal(labels, seed, ORGAN_SIGNAL),
                _signal(labels, seed + 1, ORGAN_SIGNAL[:1] + ORGAN_SIGNAL[:0:-1]),
            ]
        case "mr4":
            return [
                _signal(labels, seed + n, ORGAN_SIGNAL[:1] + ORGAN_SIGNAL[1:][n:] + ORGAN_SIGNAL[1 : n + 1])
                for n in range(4)
            ]
        case "three":
            signal = _signal(labels, seed, ORGAN_SIGNAL)
            return [signal // 250, _ct_hu(labels, seed), (signal // 4).clip(0, 255)]
        case _:
            raise ValueError(f"expected a kind of image that there is, found {kind}")


def turned(axes_lps: tuple[tuple[int, ...], ...], angles_deg: tuple[float, float]) -> tuple[float, ...]:
    """SimpleITK's direction of a grid whose x, y and z run along `axes_lps`, then turned about two axes."""
    about_x, about_z = np.radians(angles_deg)
    tilt = np.array([[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]])
    swing = np.array([[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]])
    return tuple((swing @ tilt @ np.transpose(axes_lps)).ravel().tolist())


def write_image(array: NDArray[np.generic], grid: Grid, path: Path) -> Path:
    """Write an array [z, y, x] as NIfTI at the grid's place."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm_zyx[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def _textured(values: NDArray[np.float64], seed: int, amount: float) -> NDArray[np.float64]:
    noise = gaussian_filter(np.random.default_rng(seed).normal(0, 1, values.shape), 0.8)
    return gaussian_filter(values, 0.6) + noise / noise.std() * amount


def _ct_hu(labels: NDArray[np.uint8], seed: int) -> NDArray[np.int16]:
    return np.round(_textured(np.take(ORGAN_HU, labels), seed, 30.0)).clip(-1024, 3071).astype(np.int16)


def _in_zeros(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    padded = np.zeros_like(hu)
    inside = (slice(3, -1), slice(5, -7), slice(0, -9))
    padded[inside] = np.where(hu == 0, 1, hu)[inside]
    padded[tuple(n // 2 for n in hu.shape)] = 0  # a hole that is no border
    return padded


def _signal(labels: NDArray[np.uint8], seed: int, organ_signal: tuple[float, ...]) -> NDArray[np.int16]:
    signal = np.round(_textured(np.take(organ_signal, labels), seed, 35.0)).clip(1, 4000)
    return np.where(labels > 0, signal, 0).astype(np.int16)
