"""Whether a volume fits into memory, told before a network sees it, and what is done where it does not.

A ladder: the whole in one window, smaller windows, scores on the host instead of the device, the CPU instead of the
device. Each step taken stands in the result's provenance. Where none is left, the job comes back later.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dicomnode.errors import ModelError, Unavailable
from dicomnode.inference.picture import Shape
from dicomnode.inference.planning import plan_stage
from dicomnode.inference.room import physical_bytes
from dicomnode.inference.windows import WindowPlan
from dicomnode.models.stages import Network, Windows

_FP32 = 4  # bytes
_MOST_WINDOWS = 50_000  # of a volume: published models take some hundreds
_PART_OF_FREE = 0.5  # of a device's memory: others allocate too
_MOST_CPU_BYTES = 1 << 30  # of one forward: a worker shares its host with the listener and the archive's other clients

FreeBytes = Callable[[torch.device], int]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stage needs memory for, beside its weights and the volume itself."""

    shape: Shape  # on the network's grid
    network: Network
    windows: Windows
    networks: int  # whose mean is taken
    bytes_per_voxel: float  # of a window, in one forward
    swept_axis: int | None = None  # along which scores are let go of as soon as they are decided; None: all are kept

    def forward_bytes(self, plan: WindowPlan) -> int:
        """Of one window's forward."""
        return int(self.bytes_per_voxel * math.prod(plan.window))

    def score_bytes(self, plan: WindowPlan) -> int:
        """Of the scores that are kept: one sum, and one mean where there are several networks."""
        sums, kept = 1 if self.networks == 1 else 2, list(plan.padded_shape)
        if self.swept_axis is not None:
            kept[self.swept_axis] = plan.window[self.swept_axis]
        return _FP32 * sums * self.network.out_channels * math.prod(kept)


@dataclass(frozen=True, slots=True)
class Course:
    """How a stage is run: where, in which windows, and which steps of the ladder that took."""

    device: torch.device
    plan: WindowPlan
    scores_on: torch.device
    steps: tuple[str, ...]
    predicted_bytes: int  # on `device`, at the highest


def admit(demand: Demand, devices: Sequence[torch.device], free_bytes: FreeBytes) -> Course:
    """The first course that fits, on the first of the devices that has the memory for one.

    Raises:
        ModelError: none ever fits into this computer, or takes no end.
        Unavailable: none fits now; with the bytes needed and free.
    """
    steps: tuple[str, ...] = ()
    refusals: list[str] = []
    for device in devices:
        try:
            return _on(device, demand, steps, free_bytes)
        except Unavailable as error:
            refusals.append(f"{device}: {error}")
            steps = (*steps, f"not on {device}: {error}")
    raise Unavailable(f"expected memory for {demand.shape} voxels, found too little; {'; '.join(refusals)}")


def _on(device: torch.device, demand: Demand, steps: tuple[str, ...], free_bytes: FreeBytes) -> Course:
    free = free_bytes(device)
    budget = _PART_OF_FREE * free
    window_budget = min(budget, _MOST_CPU_BYTES) if device.type == "cpu" else budget
    most_voxels = int(window_budget / demand.bytes_per_voxel) if demand.bytes_per_voxel else 1 << 62
    plan = plan_stage(demand.shape, demand.windows, demand.network, most_voxels)
    if plan.count > _MOST_WINDOWS:
        problem = f"expected at most {_MOST_WINDOWS} windows, found {plan.count} for {_times(demand.shape)} voxels"
        raise ModelError(f"{problem}; see windows.patch and windows.overlap in the manifest")
    if demand.windows.patch == "whole" and plan.count > 1:
        steps = (*steps, f"windows of {_times(plan.window)} voxels instead of the whole {_times(plan.padded_shape)}")
    forward, scores = demand.forward_bytes(plan), demand.score_bytes(plan)
    if forward + scores <= budget:
        return Course(device, plan, device, steps, forward + scores)
    host = torch.device("cpu")
    if device.type != "cpu" and forward <= budget and scores <= _PART_OF_FREE * free_bytes(host):
        return Course(device, plan, host, (*steps, f"scores of {_gib(scores)} on the host"), forward)
    if device.type == "cpu" and forward + scores > physical_bytes():
        problem = f"a window of {_times(plan.window)} voxels needs {_gib(forward)}, and scores {_gib(scores)}"
        raise ModelError(f"{problem}, expected at most the {_gib(physical_bytes())} that this computer has")
    raise Unavailable(
        f"needs {_gib(forward)} for a window of {_times(plan.window)} voxels and {_gib(scores)} for scores, "
        f"may take {_gib(int(budget))} of {_gib(free)} free"
    )


def _times(shape: Shape) -> str:
    return " x ".join(str(count) for count in shape)


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
