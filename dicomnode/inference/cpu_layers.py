"""Layers that compute what torch's do, laid out for the vector units of a CPU.

Activations lie with the channels last (`torch.channels_last_3d`), in which oneDNN's kernels need no reordering. What
its kernels still do badly is few channels: a register holds 16 of them, and a network's last layers have as many as
there are classes. Those layers take several voxels of a row at once instead. Each layer is exact: it differs from
torch's by the rounding of another order of the same sums.
"""

import math

import torch
from torch import nn
from torch.nn import functional

_CHANNELS_LAST = torch.channels_last_3d
_LANES = 16  # 32-bit sums in one register
_LEAST_COLUMNS = 64  # the statistics of fewer columns than that are slow
_SLAB_PLANES = 96  # of a banded convolution at one time: its intermediate arrays stay in the cache
_WORTH_IT = 0.7  # of the time of torch's layer


def band_length(in_channels: int, out_channels: int) -> int:
    """How many voxels of a row a 3 x 3 x 3 convolution should take at once; 1 where torch's own is as fast."""

    def cost(voxels: int) -> float:
        return _pairs((voxels + 2) * in_channels) * _lanes(voxels * out_channels) / voxels

    best = min(range(2, 9), key=cost)
    return best if cost(best) < _WORTH_IT * 3 * _pairs(in_channels) * _lanes(out_channels) else 1


def is_phased_faster(out_channels: int) -> bool:
    """Whether `PhasedTransposedConvolution` is the faster one."""
    return 2 * _lanes(2 * out_channels) < _WORTH_IT * 3 * _lanes(out_channels)


def _pairs(channels: int) -> int:
    return -(-channels // 2) * 2  # BF16 is multiplied in pairs


def _lanes(channels: int) -> int:
    return -(-channels // _LANES) * _LANES


class BandedConvolution(nn.Module):
    """A 3 x 3 x 3 convolution that computes `band` neighbouring voxels of a row as channels of one.

    Each band and its two neighbours are laid side by side as the channels of one voxel; the kernel along the row
    becomes a banded matrix.
    """

    def __init__(self, convolution: nn.Conv3d, band: int, dtype: torch.dtype) -> None:
        """Take the weights of a convolution of stride 1 that pads with one zero."""
        super().__init__()
        self._band = band
        self._channels = convolution.out_channels
        kernel = convolution.weight.detach()  # [out, in, 3, 3, 3]
        out_channels, in_channels = kernel.shape[:2]
        banded = kernel.new_zeros((band, out_channels, band + 2, in_channels, 3, 3))
        for voxel in range(band):
            banded[voxel, :, voxel : voxel + 3] = kernel.permute(0, 4, 1, 2, 3)
        flat = banded.reshape(band * out_channels, (band + 2) * in_channels, 3, 3, 1)
        self.weight = _frozen(flat.to(dtype, memory_format=_CHANNELS_LAST))
        bias = convolution.bias
        self.bias = None if bias is None else _frozen(bias.detach().to(dtype).repeat(band))

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """`[n, in, a0, a1, a2]` -> `[n, out, a0, a1, a2]`."""
        count, _, first, second, third = voxels.shape
        last = voxels.permute(0, 2, 3, 4, 1)
        result = last.new_empty((count, first, second, third, self._channels), dtype=self.weight.dtype)
        for start in range(0, first, _SLAB_PLANES):
            end = min(start + _SLAB_PLANES, first)
            result[:, start:end] = self._planes(last, start, end)
        return result.permute(0, 4, 1, 2, 3)

    def _planes(self, voxels: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """`[n, a0, a1, a2, in]` -> the planes from `start` to `end` of the result, `[n, a0, a1, a2, out]`."""
        count, _, second, third, _ = voxels.shape
        sides = self._side_by_side(voxels, start - 1, end + 1)
        banded = functional.conv3d(sides, self.weight, self.bias, padding=(0, 1, 0))
        return banded.permute(0, 2, 3, 4, 1).reshape(count, end - start, second, -1, self._channels)[..., :third, :]

    def _side_by_side(self, voxels: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Every band and the voxels beside it as channels of one voxel, zeros outside the volume."""
        count, first, second, third, channels = voxels.shape
        bands = -(-third // self._band)
        row = (bands * self._band + 2) * channels
        padded = voxels.new_empty((count, end - start, second, row), dtype=self.weight.dtype)
        padded[..., :channels] = padded[..., (third + 1) * channels :] = 0
        low, high = max(start, 0), min(end, first)
        padded[:, : low - start] = padded[:, high - start :] = 0
        inner = padded.view(count, end - start, second, -1, channels)[:, low - start : high - start, :, 1 : third + 1]
        inner.copy_(voxels[:, low:high])
        size = (count, end - start, second, bands, (self._band + 2) * channels)
        step = (padded.stride(0), padded.stride(1), row, self._band * channels, 1)
        return padded.as_strided(size, step).contiguous().permute(0, 4, 1, 2, 3)


class PhasedTransposedConvolution(nn.Module):
    """A transposed 3 x 3 x 3 convolution of stride 2 that doubles each axis, as four ordinary ones.

    An even output voxel has one tap of the kernel, an odd one has two: each of the four parities along the first two
    axes is an ordinary convolution, in which the two voxels of a pair along the last axis are channels of one.
    """

    def __init__(self, convolution: nn.ConvTranspose3d, dtype: torch.dtype) -> None:
        """Take the weights of a transposed convolution of padding and output padding 1."""
        super().__init__()
        kernel = convolution.weight.detach().transpose(0, 1)  # [out, in, 3, 3, 3]
        taps = {0: [1], 1: [2, 0]}  # by parity, from the input voxel at the output's half to the one behind it
        self._parities = [(first, second) for first in (0, 1) for second in (0, 1)]
        self.weights = nn.ParameterList(
            _frozen(_paired(kernel[:, :, taps[first]][:, :, :, taps[second]]).to(dtype, memory_format=_CHANNELS_LAST))
            for first, second in self._parities
        )
        bias = convolution.bias
        self.bias = None if bias is None else _frozen(bias.detach().to(dtype).repeat(2))

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """`[n, in, a0, a1, a2]` -> `[n, out, 2 a0, 2 a1, 2 a2]`."""
        count, channels, first, second, third = voxels.shape
        padded = voxels.new_zeros((count, first + 1, second + 1, third + 1, channels), dtype=self.weights[0].dtype)
        padded[:, :first, :second, :third] = voxels.permute(0, 2, 3, 4, 1)
        padded = padded.permute(0, 4, 1, 2, 3)
        row = third * self.weights[0].shape[0]
        doubled = padded.new_empty((count, first, 2, second, 2, row))
        for (odd_first, odd_second), weight in zip(self._parities, self.weights, strict=True):
            part = padded[:, :, : first + odd_first, : second + odd_second]
            phase = functional.conv3d(part, weight, self.bias)
            doubled[:, :, odd_first, :, odd_second] = phase.permute(0, 2, 3, 4, 1).reshape(count, first, second, row)
        return doubled.view(count, 2 * first, 2 * second, 2 * third, -1).permute(0, 4, 1, 2, 3)


def _paired(kernel: torch.Tensor) -> torch.Tensor:
    """`[out, in, k0, k1, 3]` -> `[2 out, in, k0, k1, 2]`: the even voxel of a pair, then the odd one."""
    even = torch.stack([kernel[..., 1], torch.zeros_like(kernel[..., 1])], dim=-1)
    odd = torch.stack([kernel[..., 2], kernel[..., 0]], dim=-1)
    return torch.cat([even, odd])


class ChannelsLastConvolution(nn.Module):
    """A convolution, transposed or not, whose weights lie as its activations do, in the precision of its sums."""

    def __init__(self, convolution: nn.Conv3d | nn.ConvTranspose3d, dtype: torch.dtype) -> None:
        """Take over a convolution; its own weights are converted."""
        super().__init__()
        self._convolution = convolution.to(dtype)
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=_CHANNELS_LAST)
        self._dtype = dtype

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """What the convolution gives, the channels last."""
        return self._convolution(voxels.to(self._dtype, memory_format=_CHANNELS_LAST))


class FoldedInstanceNorm(nn.Module):
    """An instance norm over voxels whose channels are last.

    Several voxels count as one with more channels, which fills the registers; their statistics are joined afterwards.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        """Take the weights of a norm that keeps no running statistics."""
        super().__init__()
        channels = norm.num_features
        weight, bias = norm.weight, norm.bias
        self._eps = norm.eps
        self.weight = _frozen(weight.detach().float() if norm.affine else torch.ones(channels))
        self.bias = _frozen(bias.detach().float() if norm.affine else torch.zeros(channels))

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """`[n, channel, a0, a1, a2]` -> the same, each channel of each of n with mean 0 and variance 1, then scaled."""
        last = voxels.permute(0, 2, 3, 4, 1).contiguous()
        return (
            torch.stack([self._normalised(one) for one in last.unbind()]).permute(0, 4, 1, 2, 3)
            if len(last) > 1
            else self._normalised(last[0])[None].permute(0, 4, 1, 2, 3)
        )

    def _normalised(self, voxels: torch.Tensor) -> torch.Tensor:
        """The same of one, `[a0, a1, a2, channel]`."""
        channels = voxels.shape[-1]
        fold = _fold(channels, voxels.numel() // channels)
        columns = voxels.view(-1, 1, 1, channels * fold).permute(0, 3, 1, 2)
        mean, variance = _statistics(columns, channels)
        weight, bias, mean, variance = (each.repeat(fold) for each in (self.weight, self.bias, mean, variance))
        scaled = functional.batch_norm(columns, mean, variance, weight, bias, training=False, eps=self._eps)
        return scaled.permute(0, 2, 3, 1).reshape(voxels.shape)


def _fold(channels: int, voxels: int) -> int:
    """How many voxels count as one: they fill whole registers and divide the number of voxels; else 1."""
    whole = math.lcm(channels, _LANES) // channels
    fold = whole * -(-_LEAST_COLUMNS // (whole * channels))
    return fold if voxels % fold == 0 else 1


def _statistics(columns: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel in FP32, from `[voxel, column, 1, 1]` whose columns repeat the channels."""
    count = columns.shape[1]
    running = torch.zeros(count), torch.ones(count)  # not used; being FP32, they make the results FP32
    means, variances = torch.batch_norm_update_stats(columns, *running, 0.0)
    means, variances = means.view(-1, channels), variances.view(-1, channels)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)


class LeakyInPlace(nn.Module):
    """Negative values times a slope, in the memory of a tensor that nobody else reads."""

    def __init__(self, slope: float) -> None:
        """Take the slope."""
        super().__init__()
        self._slope = slope

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """The same tensor."""
        return functional.leaky_relu_(voxels, self._slope)


class SumInPlace(nn.Module):
    """The sum of two branches in the memory of the first one's result, as of MONAI's `ResidualUnit`."""

    def __init__(self, branch: nn.Module, residual: nn.Module) -> None:
        """Take a branch that makes a new tensor, and what is added to it."""
        super().__init__()
        self.branch, self.residual = branch, residual

    def forward(self, voxels: torch.Tensor) -> torch.Tensor:
        """The sum of what both branches make of the same voxels."""
        residual = self.residual(voxels)
        return self.branch(voxels).add_(residual)


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
