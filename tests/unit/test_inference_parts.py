"""Networks of the table, islands, probabilities, memory and devices."""

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import ModelError, NodeError, Unavailable
from dicomnode.inference import Precision
from dicomnode.inference.components import keep_largest_components
from dicomnode.inference.device import choose_precision, choose_threads, errors_of_the_device
from dicomnode.inference.memory import forward_bytes_per_voxel, measured_bytes_per_voxel, probes_of
from dicomnode.inference.networks import NETWORKS
from dicomnode.inference.probabilities import softmax_in_place
from dicomnode.inference.room import require_room
from dicomnode.inference.runners import RUNNERS
from dicomnode.models.stages import Network, Windows
from tests.toy_models import toy_engine

SMALL_NETWORKS: dict[str, dict[str, object]] = {
    "AttentionUnet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2]},
    "BasicUNet": {"features": [4, 4, 8, 8, 16, 4]},
    "DynUNet": {
        "spatial_dims": 3,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 16],
    },
    "SegResNet": {"init_filters": 8},
    "UNet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2]},
    "VNet": {},
}


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_every_network_of_the_table_builds_from_plain_arguments_and_keeps_the_shape(name: str) -> None:
    network = NETWORKS[name](**SMALL_NETWORKS[name], in_channels=1, out_channels=3).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 48, 32)).shape == (1, 3, 32, 48, 32)


def test_every_runner_is_one_that_a_manifest_may_name() -> None:
    assert set(get_args(Network.model_fields["runner"].annotation)) >= set(RUNNERS)


@pytest.mark.parametrize("classes", [2, 9, 300])
def test_probabilities_sum_to_one_and_the_winner_is_the_argmax(classes: int) -> None:
    logits = torch.randn(classes, 4, 6, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 0, 0, 0] = 1.0  # of equals the first wins
    expected = torch.softmax(logits, 0)[:, :3, :6, :5].numpy()
    probabilities, winners = softmax_in_place(logits, (3, 6, 5))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(winners, expected.argmax(0))
    assert winners.dtype == (np.uint8 if classes < 256 else np.uint16)


def of_labels(labels: NDArray[np.uint8], classes: int, sure: float = 0.8) -> NDArray[np.float32]:
    """Probabilities where the labelled class has `sure` and class 0 (or 1 beside it) most of the rest."""
    probabilities = np.full((classes, *labels.shape), 0.01, np.float32)
    np.put_along_axis(probabilities, labels[None].astype(np.intp), sure, 0)
    probabilities[0] += 1 - probabilities.sum(0)
    return probabilities


def count_components(mask: NDArray[np.bool_]) -> int:
    """How many pieces a mask is in."""
    return int(ndimage.label(mask, output=np.empty(mask.shape, np.int32)))  # pyright: ignore[reportArgumentType]


def test_only_the_largest_components_stay_and_the_runner_up_takes_the_others() -> None:
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[1:4, 2:8, 2:8] = labels[1:3, 12:16, 12:16] = labels[5, 18, 18] = 2
    labels[0, :2, :2] = 1
    probabilities = of_labels(labels, 3)
    for kept in (2, 1):
        keep_largest_components(probabilities, labels, {2: kept})
        assert count_components(labels == 2) == kept
    assert (labels[1:4, 2:8, 2:8] == 2).all()
    assert (labels[0, :2, :2] == 1).all()
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), labels)


def test_an_island_that_goes_to_another_limited_structure_is_looked_at_there_too() -> None:
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[:, 2:6, 2:6], labels[:, 12:16, 2:6] = 1, 2
    labels[1:3, 4:6, 16:18] = 2  # an island of 2 whose runner-up is 1, where it would be an island again
    probabilities = of_labels(labels, 3, 0.6)
    probabilities[:, 1:3, 4:6, 16:18] = np.array([0.1, 0.3, 0.6]).reshape(3, 1, 1, 1)
    keep_largest_components(probabilities, labels, {1: 1, 2: 1})
    assert (labels[1:3, 4:6, 16:18] == 0).all()
    assert ((labels == 1).sum(), (labels == 2).sum()) == (64, 64)


def test_where_nothing_else_was_probable_background_wins() -> None:
    labels = np.zeros((1, 1, 5), np.uint8)
    labels[0, 0, [0, 1, 4]] = 1
    probabilities = np.stack([labels == 0, labels == 1]).astype(np.float32)
    keep_largest_components(probabilities, labels, {1: 1})
    np.testing.assert_array_equal(labels, [[[1, 1, 0, 0, 0]]])
    np.testing.assert_array_equal(probabilities.sum(0), 1)


def test_a_structure_that_is_absent_needs_no_components() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    keep_largest_components(of_labels(labels, 3), labels, {1: 1, 2: 2})
    assert not labels.any()


@pytest.mark.parametrize("side", [32, 64, 96])
def test_the_memory_of_a_forward_is_that_of_its_largest_layers(side: int) -> None:
    network = NETWORKS["BasicUNet"](**SMALL_NETWORKS["BasicUNet"], in_channels=1, out_channels=3).eval()
    with torch.inference_mode():
        per_voxel = forward_bytes_per_voxel(network, 1, (side, side, side))
    # Full resolution: 4 features of 4 bytes at a time, of which the estimate counts eight; the widest layer has 8.
    assert 8 * 4 * 4 <= per_voxel <= 8 * 4 * 8


PROBES: list[tuple[dict[str, object], list[tuple[int, int, int]]]] = [
    ({"patch": "whole", "multiple": 48}, [(96, 96, 96)]),
    ({"patch": [320, 320, 320]}, [(64, 64, 64), (128, 128, 128), (320, 320, 320)]),
    ({"patch": [28, 256, 224]}, [(28, 64, 64), (28, 128, 128), (28, 256, 224)]),
    ({"patch": [96, 96, 96]}, [(64, 64, 64), (96, 96, 96)]),
    ({"patch": [512, 512]}, [(1, 64, 64), (1, 128, 128), (1, 512, 512)]),
    ({"patch": [8, 8, 8]}, [(8, 8, 8)]),
]


@pytest.mark.parametrize(("windows", "expected"), PROBES, ids=str)
def test_memory_is_measured_in_a_small_window_that_divides_like_the_patch(
    windows: dict[str, object], expected: list[tuple[int, int, int]]
) -> None:
    assert probes_of(Windows.model_validate(windows)) == expected


def test_a_network_that_takes_its_own_window_only_is_measured_in_it() -> None:
    arguments: dict[str, object] = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2}
    network = NETWORKS["UNETR"](**arguments, img_size=(80, 80, 80), in_channels=1, out_channels=2).eval()
    with torch.inference_mode():
        measured = measured_bytes_per_voxel(network, 1, Windows(patch=(80, 80, 80)))
        assert measured == forward_bytes_per_voxel(network, 1, (80, 80, 80))


def test_a_grid_beyond_this_computer_is_refused_and_one_beyond_what_is_free_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_room((100, 100, 100), 1)
    with pytest.raises(ModelError, match=r"a grid of 100000 x 100000 x 1000 voxels needs 149011.61 GiB, expected at "):
        require_room((1e5, 1e5, 1e3), 1)
    monkeypatch.setattr("dicomnode.inference.room.free_bytes", lambda _: 1000)
    with pytest.raises(Unavailable, match=r"a grid of 10 x 10 x 10 voxels needs 0.00 GiB, may take 0.00 GiB"):
        require_room((10, 10, 10), 1)


def raised_while(error: BaseException) -> NodeError:
    with pytest.raises(NodeError) as caught, errors_of_the_device("segmentation"):
        raise error
    return caught.value


def test_memory_that_is_not_there_now_is_worth_another_try_and_nothing_else_is() -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), torch.AcceleratorError("CUDA error")):
        assert isinstance(raised_while(error), Unavailable)
    with pytest.raises(Unavailable, match="more memory than is free"), errors_of_the_device("segmentation"):
        torch.empty(1 << 55)
    with (
        pytest.raises(ModelError, match=r"segmentation failed: .*size of tensor"),
        errors_of_the_device("segmentation"),
    ):
        torch.add(torch.zeros(2), torch.zeros(3))


def test_errors_of_ours_pass_untouched() -> None:
    error = ModelError("as it was")
    assert raised_while(error) is error


def test_half_precision_on_this_cpu_was_tried_before_it_is_chosen() -> None:
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    assert choose_precision(torch.device("cpu")) == (Precision.BF16 if supported else Precision.FP32)


def test_at_least_one_thread_is_used() -> None:
    assert choose_threads(0) >= 1
    assert choose_threads(3) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a CUDA device")
def test_a_cuda_device_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(Unavailable, match="expected a CUDA device, found none"):
        toy_engine(device="cuda")
