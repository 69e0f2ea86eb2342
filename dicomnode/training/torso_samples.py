"""What the torso network learns from: patches of phantoms as a scanner and the inference grid would show them.

Every sample is a partial field of view of a bent, turned and scaled phantom on the network's 4.5 mm grid, padded
at its far ends exactly as inference pads. Numpy and scipy only, so that it runs beside the training process.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.training.phantoms.anatomy import build_anatomy
from dicomnode.training.phantoms.appearance import add_noise, build_mean_hu, draw_attenuation, draw_scanner, expose
from dicomnode.training.phantoms.canvas import GRID_SPACING_MM, Triple
from dicomnode.training.phantoms.clouds import draw_cloud
from dicomnode.training.phantoms.tissue import Target, Tissue, build_target_labels

SPACING_MM: Triple = (4.5, 4.5, 4.5)
PADDING_MULTIPLE = 16
PAD_HU = -1024.0
CHANNEL_CLIPS_HU = ((-1000.0, 1000.0), (-160.0, 240.0))
CHANNEL_RANGE = (-2.0, 2.0)
MAX_VOXELS = 440_000
# Seeds below this one are never trained on: tests, demonstrations and the evaluation use them.
FIRST_TRAINING_SEED = 1_000_000
_POOL_SIZE = 24
_SAMPLES_PER_PHANTOM = 6

Shape = tuple[int, int, int]
Sample = tuple[NDArray[np.float32], NDArray[np.uint8]]


def build_channels(image_hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map HU `[slice, row, column]` to the network's input `[channel, slice, row, column]`."""
    low, high = CHANNEL_RANGE
    channels = [
        (np.clip(image_hu, bottom, top) - bottom) * ((high - low) / (top - bottom)) + low
        for bottom, top in CHANNEL_CLIPS_HU
    ]
    return np.stack(channels).astype(np.float32)


def pad_to_multiple(volume: NDArray[np.float32], multiple: int = PADDING_MULTIPLE) -> NDArray[np.float32]:
    """Fill a volume in HU with `PAD_HU` at the far end of each axis up to a multiple of voxels."""
    widths = [(0, -count % multiple) for count in volume.shape]
    return np.pad(volume, widths, constant_values=PAD_HU)


def stream_samples(seed: int, max_voxels: int = MAX_VOXELS) -> Iterator[Sample]:
    """Yield samples without end from a slowly renewed pool of phantoms; the same for the same seed."""
    rng = np.random.default_rng(seed)
    pool: list[NDArray[np.uint8]] = []
    while True:
        pool.append(build_anatomy(FIRST_TRAINING_SEED + int(rng.integers(2**40))))
        del pool[:-_POOL_SIZE]
        for _ in range(_SAMPLES_PER_PHANTOM):
            yield draw_sample(pool[int(rng.integers(len(pool)))], rng, max_voxels)


def draw_sample(tissues: NDArray[np.uint8], rng: Generator, max_voxels: int = MAX_VOXELS) -> Sample:
    """Take a random field of view of a phantom; give input channels and `Target` labels, both padded."""
    shape = _draw_field_of_view(rng, max_voxels)
    coordinates = _draw_coordinates(tissues.shape, shape, rng)
    nearest = _take_nearest(tissues, coordinates)
    attenuation, scanner = draw_attenuation(rng), draw_scanner(rng)
    air = float(attenuation.mean[Tissue.AIR])
    mean = ndimage.map_coordinates(build_mean_hu(tissues, attenuation), coordinates, order=1, mode="constant", cval=air)
    image = expose(cast(NDArray[np.float32], mean), attenuation.deviation[nearest], scanner, SPACING_MM, rng)
    image = add_noise(image, scanner, SPACING_MM, rng)
    labels = build_target_labels(nearest)
    if rng.random() < 0.4:
        outside = _outside_circle(shape, rng)
        image[:, outside] = PAD_HU
        labels[:, outside] = Target.BACKGROUND
    padded_labels = np.pad(labels, [(0, -count % PADDING_MULTIPLE) for count in shape])
    return build_channels(pad_to_multiple(image)), padded_labels


def _draw_field_of_view(rng: Generator, max_voxels: int) -> Shape:
    """Draw a field of view in voxels: slabs, abdomens and whole torsos in square or cropped fields."""
    width_mm = rng.uniform(290.0, 460.0)
    depth_mm = width_mm if rng.random() < 0.4 else min(width_mm, rng.uniform(230.0, 340.0))
    low, high = ((36.0, 130.0), (130.0, 330.0), (330.0, 560.0))[int(rng.choice(3, p=(0.25, 0.5, 0.25)))]
    slices, rows, columns = (
        max(8, round(extent / spacing))
        for extent, spacing in zip((rng.uniform(low, high), depth_mm, width_mm), SPACING_MM, strict=True)
    )
    limit = max_voxels * (2 if rng.random() < 0.06 else 1)
    while rows * columns > limit // 8:
        rows, columns = rows * 3 // 4, columns * 3 // 4
    return (max(8, min(slices, limit // (rows * columns))), rows, columns)


def _draw_coordinates(source: tuple[int, ...], shape: Shape, rng: Generator) -> NDArray[np.float32]:
    """Give where each voxel of the field lies in the phantom `[axis, slice, row, column]`, in phantom voxels."""
    source_mm = np.array(source) * GRID_SPACING_MM
    field_mm = np.array(shape) * SPACING_MM
    free = np.maximum(source_mm - field_mm, 0.0)
    jitter = np.array((rng.uniform(-0.5, 0.5) * free[0], rng.normal(0.0, 12.0), rng.normal(0.0, 14.0)))
    if rng.random() < 0.5:  # half the fields are centred near the diaphragm, where most organs meet
        jitter[0] = np.clip(rng.normal(10.0, 85.0), -0.5 * free[0], 0.5 * free[0])
    matrix = _draw_rotation(rng) @ np.diag(rng.uniform(0.86, 1.17, 3))
    axes = [
        ((np.arange(count, dtype=np.float32) - (count - 1) / 2) * np.float32(spacing))
        for count, spacing in zip(shape, SPACING_MM, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    moved = np.tensordot((matrix / GRID_SPACING_MM).astype(np.float32), grid, axes=1)
    middle = (source_mm / 2 + jitter) / GRID_SPACING_MM - 0.5
    moved += middle.astype(np.float32)[:, None, None, None]
    return moved + _draw_elastic(shape, rng)


def _draw_rotation(rng: Generator) -> NDArray[np.float64]:
    """Turn by a few degrees about each axis."""
    matrix = np.eye(3)
    for first, second, angle in zip((1, 0, 0), (2, 2, 1), rng.normal(0.0, np.deg2rad(5.0), 3), strict=True):
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _draw_elastic(shape: Shape, rng: Generator) -> NDArray[np.float32]:
    """Displace smoothly by some millimetres, in phantom voxels `[axis, slice, row, column]`."""
    amplitude = rng.uniform(0.0, 5.0) / GRID_SPACING_MM
    extent = (60.0 / SPACING_MM[0], 60.0 / SPACING_MM[1], 60.0 / SPACING_MM[2])
    fields = [draw_cloud(shape, extent, rng) for _ in range(3)]
    return np.float32(amplitude) * np.stack(fields)


def _take_nearest(tissues: NDArray[np.uint8], coordinates: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Look the nearest tissue up; outside the phantom there is air."""
    index = np.rint(coordinates).astype(np.int32)
    inside = np.ones(index.shape[1:], np.bool_)
    for axis, count in enumerate(tissues.shape):
        inside &= (index[axis] >= 0) & (index[axis] < count)
        np.clip(index[axis], 0, count - 1, out=index[axis])
    found = tissues[index[0], index[1], index[2]]
    found[~inside] = Tissue.AIR
    return found


def _outside_circle(shape: Shape, rng: Generator) -> NDArray[np.bool_]:
    """Give the corners `[row, column]` that lie outside a scanner's round field of reconstruction."""
    radius = 0.5 * max(shape[1:]) * rng.uniform(0.9, 1.1)
    rows = np.arange(shape[1], dtype=np.float32) - (shape[1] - 1) / 2
    columns = np.arange(shape[2], dtype=np.float32) - (shape[2] - 1) / 2
    return np.hypot(rows[:, None], columns[None, :]) > radius
