"""The torso network's architecture, written once for training, evaluation and the package's manifest."""

from typing import Any

import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from dicomnode.training.phantoms.tissue import Target

NETWORK_ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": len(Target),
    "channels": [16, 32, 64, 128, 160],
    "strides": [2, 2, 2, 2],
    "num_res_units": 1,
    "norm": ["instance", {"affine": True}],
}


def build_network() -> UNet:
    """Build the network `[batch, 2, slice, row, column]` -> logits `[batch, 9, slice, row, column]`."""
    return UNet(**NETWORK_ARGUMENTS)


class Float32Convolution(nn.Conv3d):
    """A convolution that stays in float32 under autocast.

    torch 2.13 on CPU gives uninitialised weight gradients in bfloat16 where the input is only one or two slices
    deep, as it is in the lower half of the network (seen as NaN for fields of 16 and 32 slices).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name it overrides
        """Convolve `[batch, channel, slice, row, column]` in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def build_training_network() -> UNet:
    """Build the network with float32 convolutions in its lowest levels; parameters and their names are the same."""
    network = build_network()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv3d) and max(child.in_channels, child.out_channels) >= 64:
                setattr(parent, name, _in_float32(child))
    # Faster on CPUs. torch's own signature of `to` leaves this keyword out.
    return network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]


def _in_float32(convolution: nn.Conv3d) -> Float32Convolution:
    copy = Float32Convolution(
        convolution.in_channels,
        convolution.out_channels,
        kernel_size=convolution.kernel_size,  # pyright: ignore[reportArgumentType]  always three numbers here
        stride=convolution.stride,  # pyright: ignore[reportArgumentType]
        padding=convolution.padding,  # pyright: ignore[reportArgumentType]
    )
    copy.load_state_dict(convolution.state_dict())
    return copy
