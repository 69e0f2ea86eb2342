"""Whether there is room for a volume on a new grid, asked before it is made."""

import math
import os
from collections.abc import Sequence

import torch

from dicomnode.errors import ModelError, Unavailable
from dicomnode.inference.device import free_bytes

_BYTES_PER_VOXEL = 16  # at the highest: FP32, beside FP64 and a copy on the way
_PART = 0.5  # of the memory: the rest is for the network and for others


def physical_bytes() -> int:
    """The memory that this computer has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_room(shape: Sequence[float], channels: int) -> None:
    """Return if a volume `[channel, *shape]` may be made.

    Raises:
        ModelError: this computer never has the memory for it.
        Unavailable: it has not now.
    """
    needed, most = _BYTES_PER_VOXEL * channels * math.prod(shape), _PART * physical_bytes()
    grid = f"a grid of {' x '.join(f'{count:.0f}' for count in shape)} voxels"
    if needed > most:
        problem = f"{grid} needs {_gib(needed)}, expected at most {_gib(most)}, half of this computer's memory"
        raise ModelError(f"{problem}; see spacing_mm of resample, and pad, in the manifest")
    if needed > (free := _PART * free_bytes(torch.device("cpu"))):
        raise Unavailable(f"{grid} needs {_gib(needed)}, may take {_gib(free)}, half of what is free; wait")


def _gib(count: float) -> str:
    return f"{count / (1 << 30):.2f} GiB"
