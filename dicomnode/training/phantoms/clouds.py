"""Smooth random fields: textures, shading and displacements are made of them."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def draw_cloud(shape: tuple[int, ...], extent: tuple[float, ...], rng: Generator) -> NDArray[np.float32]:
    """Give random values of about unit deviation that change smoothly over `extent` voxels of each axis."""
    coarse_shape = [max(2, int(count / size) + 2) for count, size in zip(shape, extent, strict=True)]
    cloud = rng.standard_normal(coarse_shape, np.float32)
    for axis, count in enumerate(shape):
        position = np.linspace(0.0, cloud.shape[axis] - 1.001, count)
        below = position.astype(np.intp)
        spread = [1] * cloud.ndim
        spread[axis] = count
        share = (position - below).astype(np.float32).reshape(spread)
        cloud = cloud.take(below, axis) * (1 - share) + cloud.take(below + 1, axis) * share
    return np.float32(1.5) * cloud
