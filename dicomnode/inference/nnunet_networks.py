"""nnU-Net's two networks, PlainConvUNet and ResidualEncoderUNet, from plain numbers.

The names of the tensors are those of `dynamic_network_architectures`, of which a checkpoint keeps some twice: what the
decoder and `all_modules` repeat is left out here. Only what a forward needs is built: no dropout, no deep supervision.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Steps = Sequence[int]  # voxels per axis

_ByDimensions = Mapping[int, Callable[..., nn.Module]]
_CONVOLUTIONS: _ByDimensions = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: _ByDimensions = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOLS: _ByDimensions = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_NORMS: Mapping[str, _ByDimensions] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}
_MOST_STAGES = 16


@dataclass(frozen=True, slots=True)
class Layers:
    """What all convolutions of one network have in common."""

    dimensions: Literal[2, 3] = 3
    bias: bool = True
    norm: Literal["instance", "batch"] = "instance"
    norm_eps: float = 1e-5
    norm_affine: bool = True
    negative_slope: float = 0.01  # of the leaky ReLU; 0: a plain one
    activation_first: bool = False  # before the norm

    def convolution(self, channels: tuple[int, int], kernel: Steps, stride: Steps, *, bias: bool) -> nn.Module:
        """One that keeps the size, but for its stride."""
        padding = tuple((size - 1) // 2 for size in kernel)
        return _CONVOLUTIONS[self.dimensions](*channels, tuple(kernel), tuple(stride), padding, bias=bias)

    def normalisation(self, channels: int) -> nn.Module:
        """Over each channel."""
        return _NORMS[self.norm][self.dimensions](channels, eps=self.norm_eps, affine=self.norm_affine)

    def activation(self) -> nn.Module:
        """What follows a norm."""
        return nn.LeakyReLU(self.negative_slope, inplace=True)

    @property
    def ones(self) -> Steps:
        """A kernel or a stride of one voxel."""
        return (1,) * self.dimensions


@dataclass(frozen=True, slots=True)
class Shape:
    """Stages from the finest to the coarsest."""

    in_channels: int
    out_channels: int
    features: Sequence[int]
    kernels: Sequence[Steps]
    strides: Sequence[Steps]
    blocks: Sequence[int]  # convolutions, or residual blocks, of the encoder's stages
    decoder_convolutions: Sequence[int]  # of the decoder's stages, from the coarsest
    stem_channels: int | None = None


class _Convolution(nn.Sequential):
    """Convolution, norm and activation."""

    def __init__(self, layers: Layers, channels: tuple[int, int], kernel: Steps, stride: Steps) -> None:
        parts: dict[str, nn.Module] = {
            "conv": layers.convolution(channels, kernel, stride, bias=layers.bias),
            "norm": layers.normalisation(channels[1]),
            "nonlin": layers.activation(),
        }
        order = ("conv", "nonlin", "norm") if layers.activation_first else ("conv", "norm", "nonlin")
        super().__init__(OrderedDict((name, parts[name]) for name in order))


class _Branch(nn.Sequential):
    """Convolution and norm: what a branch of a residual block ends in."""

    def __init__(self, layers: Layers, channels: tuple[int, int], kernel: Steps, *, bias: bool) -> None:
        convolution = layers.convolution(channels, kernel, layers.ones, bias=bias)
        super().__init__(OrderedDict(conv=convolution, norm=layers.normalisation(channels[1])))


class _Convolutions(nn.Module):
    """Several in a row; the first one strides."""

    def __init__(self, layers: Layers, count: int, channels: tuple[int, int], kernel: Steps, stride: Steps) -> None:
        super().__init__()
        rest = [_Convolution(layers, (channels[1], channels[1]), kernel, layers.ones) for _ in range(count - 1)]
        self.convs = nn.Sequential(_Convolution(layers, channels, kernel, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class _ResidualBlock(nn.Module):
    """Two convolutions beside a skip that pools and projects (ResNet-D)."""

    def __init__(self, layers: Layers, channels: tuple[int, int], kernel: Steps, stride: Steps) -> None:
        super().__init__()
        self.conv1 = _Convolution(layers, channels, kernel, stride)
        self.conv2 = _Branch(layers, (channels[1], channels[1]), kernel, bias=layers.bias)
        skip: list[nn.Module] = []
        if any(step != 1 for step in stride):
            skip.append(_POOLS[layers.dimensions](tuple(stride), tuple(stride)))
        if channels[0] != channels[1]:
            skip.append(_Branch(layers, channels, layers.ones, bias=False))
        self.skip = nn.Sequential(*skip)
        self.nonlin2 = layers.activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.skip(x)
        out = self.conv2(self.conv1(x))
        out += residual
        return self.nonlin2(out)


class _ResidualBlocks(nn.Module):
    """Several in a row; the first one strides."""

    def __init__(self, layers: Layers, count: int, channels: tuple[int, int], kernel: Steps, stride: Steps) -> None:
        super().__init__()
        rest = [_ResidualBlock(layers, (channels[1], channels[1]), kernel, layers.ones) for _ in range(count - 1)]
        self.blocks = nn.Sequential(_ResidualBlock(layers, channels, kernel, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class _PlainEncoder(nn.Module):
    """Stages of convolutions; gives the output of each."""

    def __init__(self, layers: Layers, shape: Shape) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(nn.Sequential(_Convolutions(layers, *stage)) for stage in _encoder_stages(shape, shape.in_channels))
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return _each(self.stages, x)


class _ResidualEncoder(nn.Module):
    """A stem, then stages of residual blocks; gives the output of each stage."""

    def __init__(self, layers: Layers, shape: Shape) -> None:
        super().__init__()
        channels = shape.stem_channels or shape.features[0]
        self.stem = _Convolutions(layers, 1, (shape.in_channels, channels), shape.kernels[0], layers.ones)
        self.stages = nn.Sequential(*(_ResidualBlocks(layers, *stage) for stage in _encoder_stages(shape, channels)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return _each(self.stages, self.stem(x))


def _each(stages: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = []
    for stage in stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def _encoder_stages(shape: Shape, channels: int) -> list[tuple[int, tuple[int, int], Steps, Steps]]:
    """Of each stage: blocks, channels in and out, kernel, stride."""
    inputs = [channels, *shape.features[:-1]]
    pairs = zip(inputs, shape.features, strict=True)
    return list(zip(shape.blocks, pairs, shape.kernels, shape.strides, strict=True))


class _Decoder(nn.Module):
    """From the coarsest stage to logits at the finest; the heads of coarser stages are kept for their weights only."""

    def __init__(self, layers: Layers, shape: Shape) -> None:
        super().__init__()
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        head = _CONVOLUTIONS[layers.dimensions]
        for count, stage in zip(shape.decoder_convolutions, range(len(shape.features) - 1, 0, -1), strict=True):
            below, here, stride = shape.features[stage], shape.features[stage - 1], tuple(shape.strides[stage])
            up = _TRANSPOSED[layers.dimensions](below, here, stride, stride, bias=layers.bias)
            self.transpconvs.append(up)
            kernel = shape.kernels[stage - 1]
            self.stages.append(_Convolutions(layers, count, (2 * here, here), kernel, layers.ones))
            self.seg_layers.append(head(here, shape.out_channels, 1, 1, 0, bias=True))

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        x = skips[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((up(x), skip), 1))
        return self.seg_layers[-1](x)


class NnunetNetwork(nn.Module):
    """`[1, channel, ...]` -> logits `[1, class, ...]`; every axis a multiple of the product of its strides."""

    def __init__(self, layers: Layers, shape: Shape, *, residual: bool) -> None:
        super().__init__()
        _check(layers, shape)
        self.encoder = _ResidualEncoder(layers, shape) if residual else _PlainEncoder(layers, shape)
        self.decoder = _Decoder(layers, shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the finest stage."""
        return self.decoder(self.encoder(x))


def _check(layers: Layers, shape: Shape) -> None:
    stages = len(shape.features)
    if not 2 <= stages <= _MOST_STAGES:
        raise ValueError(f"expected 2 to {_MOST_STAGES} stages, found {stages} in features")
    wanted = {"kernels": stages, "strides": stages, "blocks": stages, "decoder_convolutions": stages - 1}
    for name, count in wanted.items():
        if (found := len(getattr(shape, name))) != count:
            raise ValueError(f"expected {count} entries in {name} beside {stages} in features, found {found}")
    for name in ("kernels", "strides"):
        if any(len(entry) != layers.dimensions for entry in getattr(shape, name)):
            raise ValueError(f"expected {layers.dimensions} numbers in each entry of {name}")


def build_plain(layers: Layers, shape: Shape) -> NnunetNetwork:
    """PlainConvUNet."""
    return NnunetNetwork(layers, shape, residual=False)


def build_residual(layers: Layers, shape: Shape) -> NnunetNetwork:
    """ResidualEncoderUNet."""
    return NnunetNetwork(layers, shape, residual=True)


def without_repetitions(names: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint without those that `all_modules` and the decoder's encoder say again."""
    return {
        name: tensor
        for name, tensor in names.items()
        if ".all_modules." not in name and not name.startswith("decoder.encoder.")
    }
