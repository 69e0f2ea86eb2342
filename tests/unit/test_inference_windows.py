"""Windows and their blend, against MONAI's sliding window."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.unet import UNet

from dicomnode.errors import ModelError, Unavailable
from dicomnode.inference.windows import blended_logits, importance_map, plan_whole, plan_windows

Shape = tuple[int, int, int]


@pytest.mark.parametrize("shape", [(96, 96, 96), (100, 97, 250), (192, 168, 300), (97, 96, 169)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
def test_windows_are_where_monai_puts_them(shape: Shape, overlap: float) -> None:
    window = (96, 96, 96)
    interval = [n if n == size else int(size * (1 - overlap)) for n, size in zip(shape, window, strict=True)]
    expected = dense_patch_slices(shape, window, interval)
    assert starts(plan_windows(shape, window, overlap).slices()) == starts(expected)


def starts(places: Iterable[tuple[slice, ...]]) -> list[list[int]]:
    """Where windows begin along each axis."""
    return [[int(side.start) for side in place] for place in places]


@pytest.mark.parametrize("shape", [(5, 200, 97), (1, 1, 1), (96, 97, 95)])
def test_windows_cover_every_voxel_and_end_with_the_padded_volume(shape: Shape) -> None:
    plan = plan_windows(shape, (96, 64, 32), 0.25)
    seen = np.zeros(plan.padded_shape, bool)
    for place in plan.slices():
        assert seen[place].shape == (96, 64, 32)
        seen[place] = True
    assert seen.all()
    assert all(padded >= n for padded, n in zip(plan.padded_shape, shape, strict=True))


@pytest.mark.parametrize("window", [(96, 96, 96), (8, 40, 33)])
def test_the_importance_of_a_windows_voxels_is_monais(window: Shape) -> None:
    torch.testing.assert_close(importance_map(window), compute_importance_map(window, mode="gaussian"))


@pytest.mark.parametrize("shape", [(64, 80, 72), (32, 32, 32), (40, 33, 70)])
def test_blended_logits_are_those_of_monai(shape: Shape) -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, 4, (4, 8, 8), (2, 2), num_res_units=1).eval()
    channels = torch.randn(2, *shape)
    with torch.inference_mode():
        found = blended_logits(network, channels, plan_windows(shape, (32, 32, 32), 0.25), 4)
        expected = sliding_window_inference(channels[None], (32, 32, 32), 1, network, 0.25, "gaussian")
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
    assert (found.argmax(0) == expected[0].argmax(0)).all()


def test_the_whole_is_one_window_padded_to_the_multiple() -> None:
    plan = plan_whole((53, 91, 96), 16, 0.25, 64 * 96 * 96)
    assert (plan.padded_shape, plan.window, plan.count) == ((64, 96, 96), (64, 96, 96), 1)


def test_what_does_not_fit_is_halved_along_its_longest_side_until_it_does() -> None:
    plan = plan_whole((200, 274, 274), 16, 0.25, 5_000_000)
    assert int(np.prod(plan.window)) <= 5_000_000
    assert all(n % 16 == 0 for n in plan.window)
    seen = np.zeros(plan.padded_shape, bool)
    for place in plan.slices():
        seen[place] = True
    assert seen.all()


@pytest.mark.parametrize("multiple", [1, 16, 64, 100])
def test_where_not_even_small_windows_fit_the_job_is_to_come_back_later(multiple: int) -> None:
    with pytest.raises(Unavailable, match="needs more memory than is free"):
        plan_whole((200, 274, 274), multiple, 0.25, 1000)


def test_a_network_that_gives_another_shape_is_refused() -> None:
    plan = plan_windows((8, 8, 8), (8, 8, 8), 0.0)
    with pytest.raises(
        ModelError, match=r"expected logits of shape \[1, 3, 8, 8, 8\] from the network, found \[1, 2, 8"
    ):
        blended_logits(lambda x: torch.cat([x, x], 1), torch.zeros(1, 8, 8, 8), plan, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_logit_that_is_not_finite_is_found(value: float) -> None:
    def spoil(window: torch.Tensor) -> torch.Tensor:
        logits = window.repeat(1, 2, 1, 1, 1)
        logits[0, 1, 3, 4, 5] = value
        return logits

    plan = plan_windows((16, 8, 8), (8, 8, 8), 0.0)
    with pytest.raises(ModelError, match="expected finite logits from the network, found NaN or infinity"):
        blended_logits(spoil, torch.zeros(1, 16, 8, 8), plan, 2)
