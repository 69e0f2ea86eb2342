"""Samples, learning and checkpoints of the torso network."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from dicomnode.training.phantoms import Target
from dicomnode.training.torso import (
    CHECKPOINT_NAME,
    Learner,
    Plan,
    learning_rate,
    read_checkpoint,
    step,
    train,
    write_checkpoint,
)
from dicomnode.training.torso_samples import PADDING_MULTIPLE, build_channels, pad_to_multiple, stream_samples

TINY_VOXELS = 24_000
LOSS = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:  # pyright: ignore[reportUnusedFunction]
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    image, labels = next(itertools.islice(stream_samples(5, TINY_VOXELS), 2, None))
    return torch.from_numpy(image)[None], torch.from_numpy(labels.astype(np.int64))[None, None]


def test_the_same_seed_gives_the_same_samples() -> None:
    for (image, labels), (again, labels_again) in zip(
        itertools.islice(stream_samples(7, TINY_VOXELS), 2),
        itertools.islice(stream_samples(7, TINY_VOXELS), 2),
        strict=True,
    ):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(labels, labels_again)


def test_samples_have_two_bounded_channels_and_network_classes_on_a_padded_grid() -> None:
    for image, labels in itertools.islice(stream_samples(8, TINY_VOXELS), 6):
        assert image.shape == (2, *labels.shape)
        assert all(count % PADDING_MULTIPLE == 0 for count in labels.shape)
        assert np.abs(image).max() <= 2.0
        assert set(np.unique(labels)) <= {int(target) for target in Target}


def test_padding_goes_to_the_far_ends_and_is_air() -> None:
    padded = pad_to_multiple(np.full((3, 16, 20), 40.0, np.float32))
    assert padded.shape == (16, 16, 32)
    assert (padded[:3, :, :20] == 40.0).all()
    assert (padded[3:] == -1024.0).all()
    assert (padded[:, :, 20:] == -1024.0).all()


def test_channels_map_hu_linearly_and_clip() -> None:
    channels = build_channels(np.array([[[-3000.0, -1000.0, -160.0, 40.0, 240.0, 1000.0]]], np.float32))
    np.testing.assert_allclose(channels[0, 0, 0], [-2.0, -2.0, -0.32, 0.08, 0.48, 2.0], atol=1e-6)
    np.testing.assert_allclose(channels[1, 0, 0], [-2.0, -2.0, -2.0, 0.0, 2.0, 2.0], atol=1e-6)


def test_a_short_training_lowers_the_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    learner = Learner.start(seed=0)
    losses = [step(learner, *batch, LOSS, rate=2e-3) for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]


def test_fields_of_few_slices_give_finite_gradients() -> None:
    learner = Learner.start(seed=0)
    generator = torch.Generator().manual_seed(0)
    for slices in (16, 32):
        image = torch.randn((1, 2, slices, 48, 48), generator=generator)
        labels = torch.randint(0, 9, (1, 1, slices, 48, 48), generator=generator)
        for _ in range(4):
            assert math.isfinite(step(learner, image, labels, LOSS, rate=1e-3))


def test_a_batch_without_finite_gradients_changes_no_weights(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    learner = Learner.start(seed=0)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    assert math.isnan(step(learner, torch.full_like(batch[0], math.nan), batch[1], LOSS, rate=1e-3))
    assert learner.skipped == 1
    for name, value in learner.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_rate_warms_up_and_falls_to_almost_nothing_at_the_end(tmp_path: Path) -> None:
    plan, learner = Plan(minutes=10, out=tmp_path), Learner.start(seed=0)
    rates = []
    for iteration, minute in ((0, 0.0), (1000, 1.0), (2000, 5.0), (3000, 10.0)):
        learner.iteration, learner.elapsed_s = iteration, 60.0 * minute
        rates.append(learning_rate(learner, plan))
    assert rates[0] < rates[1]
    assert rates[1] > rates[2] > 100 * rates[3]


def test_a_checkpoint_holds_the_learner(tmp_path: Path, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    learner = Learner.start(seed=1)
    for _ in range(3):
        step(learner, *batch, LOSS, rate=1e-3)
    learner.elapsed_s = 12.5
    write_checkpoint(tmp_path / CHECKPOINT_NAME, learner)
    again = read_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert (again.iteration, again.elapsed_s, again.recent_loss) == (3, 12.5, learner.recent_loss)
    # The next step is the same, so network and optimiser are whole.
    assert step(again, *batch, LOSS, rate=1e-3) == pytest.approx(step(learner, *batch, LOSS, rate=1e-3), rel=1e-3)
    for name, value in learner.average.items():
        torch.testing.assert_close(again.average[name], value, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path, learner = tmp_path / CHECKPOINT_NAME, Learner.start(seed=1)
    write_checkpoint(path, learner)
    learner.average["unwritable"] = (value for value in ())  # type: ignore[assignment]  a generator cannot be pickled
    with pytest.raises(TypeError):
        write_checkpoint(path, learner)
    assert read_checkpoint(path).iteration == 0


def test_a_resumed_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = train(Plan(minutes=5, out=tmp_path, max_voxels=TINY_VOXELS, max_iterations=2))
    second = train(Plan(minutes=5, out=tmp_path, max_voxels=TINY_VOXELS, max_iterations=3, resume=True))
    assert (first.iteration, second.iteration) == (2, 3)
    assert second.elapsed_s > first.elapsed_s > 0.0
    assert read_checkpoint(tmp_path / CHECKPOINT_NAME).iteration == 3
