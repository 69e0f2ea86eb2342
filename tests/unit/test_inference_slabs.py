"""Slabs of blended logits, against MONAI's sliding window and against the whole volume at once."""

from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray

from dicomnode.errors import ModelError
from dicomnode.imaging.orientation import AxisMap
from dicomnode.inference.picture import Turned, index_map
from dicomnode.inference.slabs import Sweep, finished_slabs, sum_dtype
from dicomnode.inference.source_grid import ClassScores, labels_from_scores
from dicomnode.inference.streaming import Way, labels_of_slabs
from dicomnode.inference.windows import plan_windows

Shape = tuple[int, int, int]
WINDOW = (32, 32, 32)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, 4, (4, 8, 8), (2, 2), num_res_units=1).eval().requires_grad_(requires_grad=False)


def joined(network: torch.nn.Module, channels: torch.Tensor, sweep: Sweep) -> torch.Tensor:
    """All slabs as one volume; neighbours have one plane in common, and it is the same."""
    axis = 1 + sweep.axis
    slabs = list(finished_slabs(network, lambda place: channels[(slice(None), *place)], sweep))
    assert [slab.first for slab in slabs[1:]] == [s.first + s.logits.shape[axis] - 1 for s in slabs[:-1]]
    for before, behind in pairwise(slabs):
        assert torch.equal(before.logits.select(axis, -1), behind.logits.select(axis, 0))
    return torch.cat([slabs[0].logits, *(s.logits.narrow(axis, 1, s.logits.shape[axis] - 1) for s in slabs[1:])], axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(64, 80, 72), (32, 32, 32), (40, 33, 70), (30, 20, 90)])
def test_slabs_together_are_what_monai_gives(network: torch.nn.Module, shape: Shape, axis: int) -> None:
    plan = plan_windows(shape, WINDOW, 0.25)
    inner = tuple(slice(0, count) for count in shape)
    channels = torch.randn(1, *plan.padded_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = sliding_window_inference(channels[None], WINDOW, 1, network, 0.25, "gaussian")
        found = joined(network, channels, Sweep(plan, shape, 4, axis))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(found, expected[0][(slice(None), *inner)], rtol=1e-4, atol=1e-4)


def test_padding_before_the_volume_is_left_out(network: torch.nn.Module) -> None:
    plan = plan_windows((70, 40, 50), WINDOW, 0.5)
    channels = torch.randn(1, *plan.padded_shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = joined(network, channels, Sweep(plan, plan.padded_shape, 4))
        inner = joined(network, channels, Sweep(plan, (33, 20, 30), 4, 0, (29, 11, 3)))
    assert torch.equal(inner, whole[:, 29:62, 11:31, 3:33])


def test_sums_in_half_precision_are_near(network: torch.nn.Module) -> None:
    plan = plan_windows((64, 40, 50), WINDOW, 0.5)
    channels = torch.randn(1, *plan.padded_shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        exact = joined(network, channels, Sweep(plan, plan.padded_shape, 4))
        near = joined(network, channels, Sweep(plan, plan.padded_shape, 4, sums=torch.float16))
    torch.testing.assert_close(near, exact, rtol=2e-3, atol=2e-2)


def test_many_classes_of_a_network_in_half_precision_are_summed_in_half() -> None:
    assert sum_dtype(torch.float32, 118) == sum_dtype(torch.bfloat16, 5) == torch.float32
    assert sum_dtype(torch.bfloat16, 25) == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_logit_that_is_not_finite_is_found(value: float) -> None:
    def spoil(window: torch.Tensor) -> torch.Tensor:
        logits = window.repeat(1, 2, 1, 1, 1)
        logits[0, 1, 3, 4, 5] = value
        return logits

    sweep = Sweep(plan_windows((16, 8, 8), (8, 8, 8), 0.0), (16, 8, 8), 2)
    with pytest.raises(ModelError, match="expected finite logits from the network, found NaN or infinity"):
        list(finished_slabs(spoil, lambda place: torch.zeros(1, 16, 8, 8)[(slice(None), *place)], sweep))


def test_a_network_that_gives_another_shape_is_refused() -> None:
    sweep = Sweep(plan_windows((8, 8, 8), (8, 8, 8), 0.0), (8, 8, 8), 3)
    with pytest.raises(ModelError, match=r"expected logits of shape \[1, 3, 8, 8, 8\] from the network, found"):
        list(finished_slabs(lambda x: x, lambda place: torch.zeros(1, 8, 8, 8)[(slice(None), *place)], sweep))


def all_turns() -> list[AxisMap]:
    return [AxisMap(axes, flips) for axes, flips in product(permutations(range(3)), product((False, True), repeat=3))]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("turn", all_turns(), ids=str)
@pytest.mark.parametrize("softmax", [True, False])
def test_labels_of_slabs_are_those_of_the_whole(turn: AxisMap, softmax: bool) -> None:
    sampled_shape, source_shape = (23, 11, 13), (30, 20, 19)
    to_sampled = np.diag([0.77, 0.55, 0.7, 1.0])
    to_sampled[:3, 3] = (-0.1, 0.2, 0.05)
    shape: Shape = tuple(sampled_shape[axis] for axis in turn.permutation)  # pyright: ignore[reportAssignmentType]
    logits = smooth_noise((5, *shape))
    way = Way(index_map(Turned(turn, sampled_shape)) @ to_sampled, source_shape, shape, 0.5)
    scores = torch.softmax(logits, 0) if softmax else logits
    turned = turned_back(scores, turn)
    values = np.array([0, 1, 2, 0, 9], np.uint8)
    answer = ClassScores(turned, turned.argmax(0).astype(np.uint8), values, softmax, 0.5)
    expected = labels_from_scores(answer, to_sampled, source_shape)
    plan = plan_windows(shape, shape, 0.0)
    sweep = Sweep(plan, shape, 5, way.swept_axis)
    slabs = finished_slabs(lambda _: logits[None], lambda _: logits, sweep)
    np.testing.assert_array_equal(labels_of_slabs(slabs, way, values, softmax=softmax), expected)
    assert len(np.unique(expected)) == 4


def smooth_noise(shape: tuple[int, ...]) -> torch.Tensor:
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.avg_pool3d(noise, 5, 1, 2)[0] * 20


def turned_back(scores: torch.Tensor, turn: AxisMap) -> NDArray[np.float32]:
    against = [1 + axis for axis, flipped in enumerate(turn.flips) if flipped]
    order = [1 + turn.permutation.index(axis) for axis in range(3)]
    return np.ascontiguousarray(scores.flip(against).permute(0, *order).numpy())
