"""How much memory a forward of a network takes, told before it is tried."""

import copy
import math

import torch

_BYTES = 4  # FP32, whatever the precision: half precision keeps some tensors in full
_ALIVE = 4  # large tensors at one time: a layer's input and output, a reordered copy, a skip connection


def forward_bytes(network: torch.nn.Module, channels: int, shape: tuple[int, int, int]) -> int:
    """Roughly what one forward of `[1, channel, *shape]` allocates: the largest outputs of its layers at one time.

    Found by a forward without data on torch's "meta" device.
    """
    sizes = [channels * math.prod(shape)]

    def note(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    ghost = copy.deepcopy(network).to("meta")
    for layer in ghost.modules():
        layer.register_forward_hook(note)
    with torch.inference_mode():
        ghost(torch.empty((1, channels, *shape), device="meta"))
    return _BYTES * sum(sorted(sizes)[-_ALIVE:])
