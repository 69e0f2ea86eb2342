"""One stage of a model: a volume through its steps, through its networks, through its steps, to labels.

Everything between the first step and the last happens on the axes and spacing of the stage.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging.orientation import axis_letters
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference import after, before
from dicomnode.inference.admission import Course
from dicomnode.inference.after.answer import Found
from dicomnode.inference.before.padding import padded
from dicomnode.inference.device import Precision
from dicomnode.inference.forwarding import mirrored
from dicomnode.inference.picture import Picture, Sampled, Shape
from dicomnode.inference.planning import STYLES
from dicomnode.inference.scene import Scene
from dicomnode.inference.windows import Forward
from dicomnode.models.before import CropForeground, Orient, Resample
from dicomnode.models.stages import Network, Stage

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How the answer of one stage came about."""

    stage: str
    networks: tuple[str, ...]
    device: str
    precision: Precision
    backend: str  # what computed it: torch, openvino or onnxruntime
    window: Shape  # in voxels of the stage, on its axes
    windows: int  # through each network; 0: the stage had nothing to look at
    steps: tuple[str, ...]  # of the ladder of `admission`
    predicted_bytes: int  # on the device, at the highest
    seconds_by_phase: dict[str, float]  # wall clock
    cpu_seconds_by_phase: dict[str, float]


@dataclass(frozen=True, slots=True)
class NamedForward:
    """A network that is ready to run where the course says."""

    name: str
    forward: Forward


@dataclass(slots=True)
class Clock:
    """Seconds by phase: on the wall, and of the process on its processors."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    cpu_seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str, without: str = "") -> Generator[None]:
        """Time what is done within, but for what another phase takes of it."""
        clocks = ((self.seconds, time.perf_counter), (self.cpu_seconds, time.process_time))
        starts = [now() - seconds.get(without, 0.0) for seconds, now in clocks]
        yield
        for (seconds, now), start in zip(clocks, starts, strict=True):
            seconds[name] = seconds.get(name, 0.0) + now() - seconds.get(without, 0.0) - start

    def each(self, name: str, values: Iterator[Value]) -> Iterator[Value]:
        """The same values; making them is timed as a phase."""
        while True:
            with self.phase(name):
                value = next(values, None)
            if value is None:
                return
            yield value


def prepare(stage: Stage, scene: Scene) -> Picture:
    """What the networks of a stage are shown of the scene, in FP32.

    Raises:
        NothingToSee: it looks at what an earlier stage found, and that was nothing.
        ModelError: its steps do not fit the volume or each other.
    """
    picture = _start(stage, scene)
    for step in stage.before:
        picture = before.apply(step, picture, scene)
    return picture.with_voxels(picture.voxels.to(scene.device, torch.float32))


def say(
    stage: Stage, network: Network, forwards: Sequence[NamedForward], picture: Picture, course: Course
) -> torch.Tensor:
    """The logits `[class, axis 0, axis 1, axis 2]` of the picture, the mean of all networks.

    Raises:
        ModelError: a network gives NaN, infinity or another shape; names stage and network.
    """
    channels, inner = fitted(stage, network, picture, course)
    total: torch.Tensor | None = None
    for named in forwards:
        logits = _of_one(stage, network, named, channels, course)
        total = logits if total is None else total.add_(logits)
    if total is None:
        raise AssertionError("a stage has a network: the manifest checks that")
    return (total.div_(len(forwards)) if len(forwards) > 1 else total)[(slice(None), *inner)]


def conclude(stage: Stage, logits: torch.Tensor, picture: Picture, scene: Scene) -> Labels:
    """The labels on the source grid that the steps of a stage make of its logits.

    Raises:
        ModelError: its steps do not fit each other.
    """
    answer: after.Answer = after.begin(logits, picture.moves, picture.spacing_mm)
    for step in stage.after:
        answer = after.apply(step, answer, scene)
    if not isinstance(answer, Found) or answer.moves:
        raise AssertionError("a stage decides and comes back: the manifest checks that")
    return cast(Labels, answer.labels)


def nothing_found(scene: Scene) -> Labels:
    """Labels that say nothing."""
    return np.zeros(scene.source.geometry.shape, np.uint8)


def _start(stage: Stage, scene: Scene) -> Picture:
    """The scanner's volume; made upright where it is sheared and no step does that itself."""
    volume, geometry = scene.source, scene.source.geometry
    moving = next((step for step in stage.before if not isinstance(step, Orient | CropForeground)), None)
    if geometry.is_sheared and not (isinstance(moving, Resample) and moving.grid == "faces"):
        return _upright(scene)
    voxels = volume.voxels if volume.voxels.flags.writeable else volume.voxels.copy()
    return Picture(torch.from_numpy(voxels)[None], axis_letters(geometry), geometry.spacing_mm)


def _upright(scene: Scene) -> Picture:
    source = scene.source.geometry
    _, row_mm, column_mm = source.spacing_mm
    slice_mm = float(source.affine[:3, 0] @ source.normal)
    upright = scene.resample(scene.source, (slice_mm, row_mm, column_mm))
    to_index = np.asarray(np.linalg.solve(upright.geometry.affine, source.affine), np.float64)
    shape, spacing_mm = upright.geometry.shape, upright.geometry.spacing_mm
    move = Sampled(to_index, source.shape, source.spacing_mm, shape, spacing_mm)
    voxels = torch.from_numpy(np.ascontiguousarray(upright.voxels))[None]
    return Picture(voxels, axis_letters(upright.geometry), spacing_mm, (move,))


def fitted(stage: Stage, network: Network, picture: Picture, course: Course) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """The channels in the shape of the plan, voxels added on both sides, and where the picture lies in it.

    Raises:
        ModelError: the network takes another number of channels.
    """
    if len(picture.voxels) != network.in_channels:
        problem = f"expected {network.in_channels} channels after the steps before it, found {len(picture.voxels)}"
        raise ModelError(f"stage {stage.name!r}: {problem}")
    lacking = [wanted - count for wanted, count in zip(course.plan.padded_shape, picture.shape, strict=True)]
    first, second, third = (count // 2 for count in lacking)
    behind = (lacking[0] - first, lacking[1] - second, lacking[2] - third)
    wanted = padded(picture, (first, second, third), behind, stage.windows.pad_value)
    starts = (first, second, third)
    inner = tuple(slice(start, start + count) for start, count in zip(starts, picture.shape, strict=True))
    return wanted.voxels.to(course.scores_on), inner


def forward_of(stage: Stage, network: Network, named: NamedForward, course: Course) -> Forward:
    """A network as the windows of a stage need it: of three dimensions, mirrored, on the course's device."""
    of_slices = STYLES[stage.windows.style].of_slices
    forward = of_slices(named.forward) if network.dimensions == 2 else named.forward
    forward = mirrored(forward, stage.windows.mirror_axes)
    return forward if course.scores_on == course.device else _between(forward, course)


def _of_one(
    stage: Stage, network: Network, named: NamedForward, channels: torch.Tensor, course: Course
) -> torch.Tensor:
    forward, blend = forward_of(stage, network, named, course), STYLES[stage.windows.style].blend
    try:
        return blend(forward, channels, course.plan, stage.windows, network.out_channels)
    except ModelError as error:
        raise ModelError(f"stage {stage.name!r}, network {named.name!r}: {error}") from error


def _between(forward: Forward, course: Course) -> Forward:
    """Windows go to the device and logits come back, one at a time."""
    return lambda window: forward(window.to(course.device)).to(course.scores_on)
