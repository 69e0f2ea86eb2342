"""Voxels -> the network's input channels: padded at the far ends, clipped, mapped linearly."""

import numpy as np
from numpy.typing import NDArray

from dicomnode.models.manifest import Input

Voxels = NDArray[np.int16 | np.float32]  # on the axes of the model
Shape = tuple[int, int, int]


def build_channels(voxels: Voxels, declared: Input, padded_shape: Shape) -> NDArray[np.float32]:
    """Voxels -> `[channel, *padded_shape]`; the voxels keep their indices."""
    padded = _padded(voxels, declared, padded_shape)
    channels = np.empty((len(declared.channels), *padded_shape), dtype=np.float32)
    for channel, wanted in zip(channels, declared.channels, strict=True):
        (low, high), (start, end) = wanted.clip, wanted.to
        np.clip(padded, low, high, out=channel, casting="unsafe")
        channel -= low
        channel *= (end - start) / (high - low)
        channel += start
    return channels


def _padded(voxels: Voxels, declared: Input, padded_shape: Shape) -> Voxels:
    widths = [(0, wanted - count) for wanted, count in zip(padded_shape, voxels.shape, strict=True)]
    if declared.pad_value == "edge":
        return np.pad(voxels, widths, mode="edge")
    return np.pad(voxels, widths, constant_values=declared.pad_value)
