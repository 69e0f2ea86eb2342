"""How much memory a forward of a network takes, told before it is tried."""

import math

import torch

_BYTES = 4  # FP32, whatever the precision: half precision keeps some tensors in full
# Large tensors at one time. Measured on the networks of the table: FP32 takes 0.6 to 0.95 of what this says, BF16 half.
_ALIVE = 8
_PROBE_VOXELS = 64  # along each axis


def forward_bytes_per_voxel(network: torch.nn.Module, channels: int, multiple: int) -> float:
    """Roughly what one forward allocates per voxel of its window: the largest outputs of its layers at one time.

    Found by the forward of a small window, `[1, channel, a0, a1, a2]`, of a size the network takes.
    """
    side = multiple * -(-_PROBE_VOXELS // multiple)
    shape = (side, side, side)
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
