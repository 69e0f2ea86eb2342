"""A network as its device computes it fastest: the same layers, in another layout, with the same meaning."""

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from torch import nn

from dicomnode.inference.cpu_layers import (
    BandedConvolution,
    ChannelsLastConvolution,
    FoldedInstanceNorm,
    LeakyInPlace,
    PhasedTransposedConvolution,
    SumInPlace,
    band_length,
    is_phased_faster,
)
from dicomnode.inference.device import Precision

_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def prepare(network: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Move a network to its device; on a CPU, replace its layers in place by those of `cpu_layers`.

    Give the network its weights before: afterwards it has another state dict. It runs inside the same `autocast` as
    it did.
    """
    network = network.to(device)
    if device.type != "cpu":
        return network
    return _replaced(network, _DTYPES[precision])


def _replaced(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    if type(layer) is nn.Conv3d:
        return _convolution(layer, dtype)
    if type(layer) is nn.ConvTranspose3d:
        return _transposed(layer, dtype)
    if type(layer) is nn.InstanceNorm3d and not layer.track_running_stats:
        return FoldedInstanceNorm(layer)
    for name, child in layer.named_children():
        other = _replaced(child, dtype)
        if other is not child:  # modules of TorchScript cannot be set, nor need they be
            setattr(layer, name, other)
    if isinstance(layer, nn.Sequential):
        _activate_in_place(layer)
    return SumInPlace(layer.conv, layer.residual) if type(layer) is ResidualUnit else layer


def _convolution(layer: nn.Conv3d, dtype: torch.dtype) -> nn.Module:
    plain = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)
    if plain and layer.groups == 1 and layer.padding_mode == "zeros":
        band = band_length(layer.in_channels, layer.out_channels)
        if band > 1:
            return BandedConvolution(layer, band, dtype)
    return ChannelsLastConvolution(layer, dtype)


def _transposed(layer: nn.ConvTranspose3d, dtype: torch.dtype) -> nn.Module:
    doubles = (layer.kernel_size, layer.stride, layer.padding) == ((3,) * 3, (2,) * 3, (1,) * 3)
    plain = layer.output_padding == (1,) * 3 and layer.dilation == (1,) * 3 and layer.groups == 1
    if doubles and plain and is_phased_faster(layer.out_channels):
        return PhasedTransposedConvolution(layer, dtype)
    return ChannelsLastConvolution(layer, dtype)


def _activate_in_place(layers: nn.Sequential) -> None:
    """Where an activation follows a norm, the norm's result has no other reader."""
    before: nn.Module | None = None
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Dropout):  # none of which runs in evaluation mode
            continue
        slope = _slope(layer)
        if isinstance(before, FoldedInstanceNorm) and slope is not None:
            setattr(layers, name, LeakyInPlace(slope))
        before = layer


def _slope(layer: nn.Module) -> float | None:
    if type(layer) is nn.PReLU and layer.num_parameters == 1:
        return float(layer.weight)
    return layer.negative_slope if type(layer) is nn.LeakyReLU else None
