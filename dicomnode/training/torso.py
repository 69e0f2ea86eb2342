"""Train the shipped torso network on procedural phantoms only.

    python -m dicomnode.training.torso --minutes 60 --out DIR [--resume] [--seed N] [--threads N]

One process draws phantoms and samples, this one learns. A checkpoint is written every few minutes and at the
end, under a temporary name that then replaces the old one: a killed run continues with --resume.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dicomnode.training.torso_network import build_training_network
from dicomnode.training.torso_samples import MAX_VOXELS, stream_samples

LEARNING_RATE = 1e-3
WARM_UP_ITERATIONS = 100
AVERAGE_DECAY = 0.999
CHECKPOINT_NAME = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one training run is asked to do."""

    minutes: float
    out: Path
    seed: int = 0
    resume: bool = False
    threads: int = 1
    checkpoint_minutes: float = 3.0
    max_voxels: int = MAX_VOXELS
    max_iterations: int | None = None


@dataclass(slots=True)
class Learner:
    """Network, running average of its weights, optimiser, and how far they have come."""

    network: UNet
    average: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    iteration: int = 0
    elapsed_s: float = 0.0
    recent_loss: float = math.nan
    skipped: int = 0

    @classmethod
    def start(cls, seed: int) -> "Learner":
        """Give an untrained learner, the same for the same seed."""
        torch.manual_seed(seed)
        network = build_training_network()
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        return cls(network, average, torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-4))


class SampleStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples as tensors: image `[2, slice, row, column]` and labels `[1, slice, row, column]`."""

    def __init__(self, seed: int, max_voxels: int) -> None:
        self._seed = seed
        self._max_voxels = max_voxels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for image, labels in stream_samples(self._seed, self._max_voxels):
            yield torch.from_numpy(image), torch.from_numpy(labels.astype(np.int64))[None]


def train(plan: Plan) -> Learner:
    """Train until the planned minutes are used up, counting those before a resume; leave a checkpoint."""
    torch.set_num_threads(plan.threads)
    plan.out.mkdir(parents=True, exist_ok=True)
    checkpoint = plan.out / CHECKPOINT_NAME
    learner = read_checkpoint(checkpoint) if plan.resume else Learner.start(plan.seed)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    # A resumed run must not see the samples of its beginning again.
    stream = SampleStream(plan.seed * 1_000_003 + learner.iteration, plan.max_voxels)
    loader = DataLoader(stream, batch_size=1, num_workers=1, prefetch_factor=6)
    began, before = time.monotonic(), learner.elapsed_s
    saved, reported = began, 0
    for image, labels in loader:
        step(learner, image, labels, loss_function, learning_rate(learner, plan))
        now = time.monotonic()
        learner.elapsed_s = before + now - began
        if learner.iteration - reported >= 100:
            reported = learner.iteration
            print(_progress_line(learner, plan), flush=True)  # noqa: T201  what this program is watched by
        if now - saved > 60.0 * plan.checkpoint_minutes:
            saved = now
            write_checkpoint(checkpoint, learner)
        if is_finished(learner, plan):
            break
    write_checkpoint(checkpoint, learner)
    return learner


def is_finished(learner: Learner, plan: Plan) -> bool:
    """Tell whether the time or the iterations of the plan are used up."""
    if plan.max_iterations is not None and learner.iteration >= plan.max_iterations:
        return True
    return learner.elapsed_s >= 60.0 * plan.minutes


def learning_rate(learner: Learner, plan: Plan) -> float:
    """Give the rate now: a short warm-up, then half a cosine over the planned time."""
    done = min(1.0, learner.elapsed_s / (60.0 * plan.minutes))
    warm_up = min(1.0, (learner.iteration + 1) / WARM_UP_ITERATIONS)
    return LEARNING_RATE * warm_up * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6


def step(learner: Learner, image: Tensor, labels: Tensor, loss_function: DiceCELoss, rate: float) -> float:
    """Learn from one batch and give its loss, or skip it and give NaN where its gradient is not finite.

    `image` is `[batch, 2, slice, row, column]`, `labels` is `[batch, 1, slice, row, column]` of int64. Forward
    and backward run in bfloat16 where torch allows it; loss and weights stay in float32.
    """
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.network.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = learner.network(image.to(memory_format=torch.channels_last_3d))
    loss = loss_function(logits.float(), labels)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(learner.network.parameters(), 5.0)
    learner.iteration += 1
    if not torch.isfinite(norm):
        learner.skipped += 1
        return math.nan
    learner.optimizer.step()
    _update_average(learner)
    value = float(loss.detach())
    learner.recent_loss = value if math.isnan(learner.recent_loss) else 0.98 * learner.recent_loss + 0.02 * value
    return value


def write_checkpoint(path: Path, learner: Learner) -> None:
    """Write everything a resume needs, so that `path` always holds a whole checkpoint."""
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        torch.save(
            {
                "network": learner.network.state_dict(),
                "average": learner.average,
                "optimizer": learner.optimizer.state_dict(),
                "iteration": learner.iteration,
                "elapsed_s": learner.elapsed_s,
                "recent_loss": learner.recent_loss,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path) -> Learner:
    """Give the learner a checkpoint holds, ready to go on."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    learner = Learner.start(seed=0)
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.average = state["average"]
    learner.iteration, learner.elapsed_s = state["iteration"], state["elapsed_s"]
    learner.recent_loss = state["recent_loss"]
    return learner


def _update_average(learner: Learner) -> None:
    """Move the average towards the weights, faster in the beginning."""
    decay = min(AVERAGE_DECAY, (1 + learner.iteration) / (10 + learner.iteration))
    for name, value in learner.network.state_dict().items():
        learner.average[name].lerp_(value.detach(), 1.0 - decay)


def _progress_line(learner: Learner, plan: Plan) -> str:
    rate = learning_rate(learner, plan)
    return (
        f"iteration {learner.iteration:6d}  minute {learner.elapsed_s / 60.0:6.1f} of {plan.minutes:g}  "
        f"loss {learner.recent_loss:.3f}  learning rate {rate:.1e}  skipped {learner.skipped}"
    )


def _parse_arguments() -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m dicomnode.training.torso", description="Train the torso network on phantoms."
    )
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock minutes to train, resumes included")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="continue the checkpoint in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of the learning process")
    chosen = parser.parse_args()
    return Plan(chosen.minutes, chosen.out, chosen.seed, chosen.resume, chosen.threads)


if __name__ == "__main__":
    train(_parse_arguments())
