"""Layers laid out for a CPU compute what torch's do; a network made of them says the same."""

import pytest
import torch
from torch import nn

from dicomnode.inference.cpu_layers import (
    BandedConvolution,
    FoldedInstanceNorm,
    PhasedTransposedConvolution,
    band_length,
    is_phased_faster,
)
from dicomnode.inference.device import Precision, autocast, choose_precision
from dicomnode.inference.networks import NETWORKS
from dicomnode.inference.prepared import prepare
from tests.unit.test_inference_parts import SMALL_NETWORKS

SMALL = {
    **SMALL_NETWORKS,
    "BasicUNetPlusPlus": {"features": [4, 4, 8, 8, 16, 4]},
    "MedNeXt": {"init_filters": 4},
    "SegResNetDS": {"init_filters": 8},
}
CPU = torch.device("cpu")
SHAPES = [(1, 7, 5, 9), (2, 20, 6, 10), (1, 1, 1, 1), (1, 3, 4, 2)]
CHANNELS = [(5, 5), (1, 2), (3, 7)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("channels", "band", "bias"), [((5, 5), 3, True), ((1, 2), 8, False), ((3, 7), 2, True)])
def test_a_banded_convolution_is_the_convolution(
    shape: tuple[int, ...], channels: tuple[int, int], band: int, bias: bool
) -> None:
    convolution = nn.Conv3d(*channels, 3, padding=1, bias=bias).double()
    voxels = torch.randn(shape[0], channels[0], *shape[1:]).double()
    with torch.inference_mode():
        found = BandedConvolution(convolution, band, torch.float64)(voxels)
        torch.testing.assert_close(found, convolution(voxels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_phased_transposed_convolution_is_the_transposed_convolution(
    shape: tuple[int, ...], channels: tuple[int, int], bias: bool
) -> None:
    convolution = nn.ConvTranspose3d(*channels, 3, stride=2, padding=1, output_padding=1, bias=bias).double()
    voxels = torch.randn(shape[0], channels[0], *shape[1:]).double()
    with torch.inference_mode():
        found = PhasedTransposedConvolution(convolution, torch.float64)(voxels)
        torch.testing.assert_close(found, convolution(voxels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8, 6), (2, 16, 4, 12), (1, 3, 5, 7), (1, 2, 1, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 48, 100])
@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_norm_is_the_instance_norm(shape: tuple[int, ...], channels: int, affine: bool) -> None:
    norm = nn.InstanceNorm3d(channels, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    voxels = torch.randn(shape[0], channels, *shape[1:]) * 3 + 20
    with torch.inference_mode():
        torch.testing.assert_close(FoldedInstanceNorm(norm)(voxels), norm(voxels), rtol=1e-3, atol=1e-3)


def test_the_statistics_of_bf16_are_not_rounded_to_bf16() -> None:
    voxels = (torch.randn(1, 5, 16, 16, 16) + 40).bfloat16()
    with torch.inference_mode():
        found = FoldedInstanceNorm(nn.InstanceNorm3d(5))(voxels)
        torch.testing.assert_close(found.float(), nn.functional.instance_norm(voxels.float()), rtol=8e-3, atol=8e-3)


def test_few_channels_go_in_bands_and_many_do_not() -> None:
    assert band_length(5, 5) == 3
    assert band_length(32, 32) == band_length(25, 25) == 1
    assert is_phased_faster(5)
    assert not is_phased_faster(16)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_of_the_table_says_the_same_prepared(name: str) -> None:
    network = NETWORKS[name](**SMALL[name], in_channels=1, out_channels=3).eval()
    voxels = torch.randn(1, 1, 32, 64, 32)
    with torch.inference_mode():
        expected = network(voxels)
        found = prepare(network, CPU, Precision.FP32)(voxels)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_of_the_table_says_nearly_the_same_in_half_precision(name: str) -> None:
    precision = choose_precision(CPU)
    network = NETWORKS[name](**SMALL[name], in_channels=1, out_channels=3).eval()
    voxels = torch.randn(1, 1, 32, 64, 32)
    with torch.inference_mode():
        exact = network(voxels)
        with autocast(CPU, precision):
            cast = network(voxels).float()
            found = prepare(network, CPU, precision)(voxels).float()
    assert (found - exact).abs().mean() <= 1.5 * (cast - exact).abs().mean() + 1e-5


@pytest.mark.parametrize("classes", [2, 5, 9, 25])
def test_the_unet_of_residual_units_says_the_same_prepared(classes: int) -> None:
    network = NETWORKS["UNet"](3, 1, classes, (16, 32, 64), (2, 2), num_res_units=2).eval()
    voxels = torch.randn(1, 1, 40, 32, 52)
    with torch.inference_mode():
        expected = network(voxels)
        found = prepare(network, CPU, Precision.FP32)(voxels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
