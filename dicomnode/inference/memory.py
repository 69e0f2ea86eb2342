"""How much memory a forward of a network takes, told before it is tried."""

import math
from collections.abc import Sequence

import torch

from dicomnode.inference.picture import Shape
from dicomnode.inference.room import require_room
from dicomnode.models.stages import Windows

_BYTES = 4  # FP32, whatever the precision: half precision keeps some tensors in full
# Large tensors at one time. Measured on the networks of the table: FP32 takes 0.6 to 0.95 of what this says, BF16 half.
_ALIVE = 8
_PROBE_VOXELS = (64, 128)  # along each axis: what is tried, in this order, before the whole patch
_OF_ANOTHER_SIZE = (RuntimeError, ValueError, AssertionError, LookupError)  # what torch and MONAI raise of a window
_DEEPEST = 64  # by how much networks divide a window at most


def probes_of(windows: Windows) -> list[Shape]:
    """Windows that a network may take, the smallest first: a part of the patch that divides as it does, the patch last.

    Not every network takes another window than the one that it was made for; that of "whole" takes any.
    """
    if windows.patch == "whole":
        side = _least(windows.multiple, _PROBE_VOXELS[0])
        return [(side, side, side)]
    smaller = [
        _volume([min(n, _least(min(n & -n, _DEEPEST), least)) for n in windows.patch]) for least in _PROBE_VOXELS
    ]
    return list(dict.fromkeys([*smaller, _volume(windows.patch)]))


def _least(multiple: int, least: int) -> int:
    return multiple * -(-least // multiple)


def _volume(sizes: Sequence[int]) -> Shape:
    """The window along all three axes; one slice for a network of two dimensions."""
    first, second, third = sizes if len(sizes) == 3 else (1, *sizes)
    return first, second, third


def measured_bytes_per_voxel(network: torch.nn.Module, channels: int, windows: Windows) -> float:
    """What one forward allocates per voxel of its window, in the smallest of the windows that the network takes.

    Raises:
        RuntimeError, ValueError, AssertionError, LookupError: the network does not even take its own window.
        ModelError: this computer has not the memory for that window.
        Unavailable: it has not now.
    """
    *smaller, last = probes_of(windows)
    for shape in smaller:
        try:
            return forward_bytes_per_voxel(network, channels, shape)
        except _OF_ANOTHER_SIZE:
            continue
    require_room(last, channels)  # what is beside it is known only afterwards
    return forward_bytes_per_voxel(network, channels, last)


def forward_bytes_per_voxel(network: torch.nn.Module, channels: int, shape: Shape) -> float:
    """Roughly what one forward allocates per voxel of its window: the largest outputs of its layers at one time.

    Found by the forward of a window `[1, channel, a0, a1, a2]`, which has to be of a size that the network takes.
    """
    device = next(network.parameters()).device
    sizes = [channels * math.prod(shape)]

    def note(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    hooks = [layer.register_forward_hook(note) for layer in network.modules()]
    try:
        network(torch.zeros((1, channels, *shape), device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return _BYTES * sum(sorted(sizes)[-_ALIVE:]) / math.prod(shape)
