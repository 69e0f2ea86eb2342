"""The engine: keeps networks warm and takes one sampled volume through one of them, back to the source grid.

    turn and pad -> channels -> windows -> logits -> softmax -> components -> source grid

Everything up to the components happens on the axes and spacing of the model. What goes back is probabilities, not
logits: a logit has no bound, so between two voxels that disagree interpolated logits push the boundary towards the less
certain one, by up to a voxel; probabilities put it where both classes are equally likely.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.imaging import Geometry, SampledVolume
from dicomnode.imaging.orientation import AxisMap, axes_between, axis_letters, to_model, to_source
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference.channels import build_channels
from dicomnode.inference.components import keep_largest_components
from dicomnode.inference.device import (
    DeviceName,
    Precision,
    autocast,
    choose_device,
    choose_precision,
    choose_threads,
    errors_of_the_device,
    free_bytes,
)
from dicomnode.inference.memory import forward_bytes_per_voxel
from dicomnode.inference.probabilities import Labels as ClassLabels
from dicomnode.inference.probabilities import softmax_in_place
from dicomnode.inference.runners import RUNNERS
from dicomnode.inference.source_grid import ClassProbabilities, label_dtype, labels_on_source_grid
from dicomnode.inference.windows import WindowPlan, blended_logits, plan_whole, plan_windows
from dicomnode.models import Manifest, ModelPackage

Floats = NDArray[np.float32]

_WARM_NETWORKS = 2
_MOST_CPU_BYTES = 1 << 30  # of one forward: a worker shares its host with the listener and the archive's other clients
_PART_OF_FREE = 0.5
_SPACING_TOLERANCE = 0.01  # relative


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """Labels `[slice, row, column]` on the source grid, and how they came about."""

    labels: Labels
    device: str
    precision: Precision
    window: tuple[int, int, int]  # in voxels of the model, on its axes
    windows: int
    seconds_by_phase: Mapping[str, float]  # wall clock


@dataclass(frozen=True, slots=True, eq=False)
class _Warm:
    """A network on its device, ready to run."""

    manifest: Manifest
    network: torch.nn.Module
    bytes_per_voxel: float  # of one forward; 0 where the manifest says the window


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def model_spacing(package: ModelPackage, geometry: Geometry) -> tuple[float, float, float]:
    """The spacing in mm along (slice, row, column) of `geometry` at which the model wants it sampled."""
    declared = package.manifest.input
    permutation = axes_between(axis_letters(geometry), declared.orientation).permutation
    first, second, third = (declared.spacing_mm[permutation.index(axis)] for axis in range(3))
    return first, second, third


class Engine:
    """One device and the networks that are warm on it; one volume at a time."""

    def __init__(self, device: DeviceName = "auto", threads: int = 0, precision: Precision | None = None) -> None:
        """Set torch up for this process.

        Args:
            device: "auto" is CUDA where there is one.
            threads: on the CPU; 0: one less than there are cores.
            precision: None: the fastest that this device computes truly.

        Raises:
            Unavailable: CUDA was asked for and is not there.
        """
        self.device = choose_device(device)
        self.precision = precision or choose_precision(self.device)
        self.threads = choose_threads(threads)
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.deterministic = True
        self._warm: OrderedDict[str, _Warm] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def segment(self, package: ModelPackage, sampled: SampledVolume, source: Geometry) -> Inference:
        """Segment a volume that was sampled at `model_spacing`; labels at the centres of the source's voxels.

        Source voxels outside the sampled grid, and classes that no segment of the package names, are 0. The same
        input gives the same labels on the same device.

        Raises:
            ModelError: the package is altered or wrong, or its network gives NaN.
            Unavailable: not enough memory now.
        """
        _check_grids(package, sampled, source)
        with self._one_at_a_time, torch.inference_mode(), errors_of_the_device("segmentation"):
            return self._segment(package, sampled, source)

    def _segment(self, package: ModelPackage, sampled: SampledVolume, source: Geometry) -> Inference:
        clock = _Clock()
        axis_map = axes_between(axis_letters(sampled.geometry), package.manifest.input.orientation)
        with clock.phase("load"):
            warm = self._warm_network(package)
        with clock.phase("prepare"):
            voxels = to_model(sampled.voxels, axis_map)
            plan = self._plan(warm, voxels.shape)
            channels = torch.from_numpy(build_channels(voxels, package.manifest.input, plan.padded_shape))
        with clock.phase("windows"):
            logits = self._logits(warm, channels.to(self.device), plan)
        with clock.phase("probabilities"):
            probabilities, winners = softmax_in_place(logits, voxels.shape)
        with clock.phase("components"):
            kept = package.manifest.postprocessing.largest_components
            keep_largest_components(probabilities, winners, kept)
        with clock.phase("back"):
            answer = _answer(package, (probabilities, winners), axis_map, sampled.geometry)
            labels = labels_on_source_grid(answer, source, self.threads)
        return Inference(labels, str(self.device), self.precision, plan.window, plan.count, clock.seconds)

    def _warm_network(self, package: ModelPackage) -> _Warm:
        """The package's network on the device; kept until others were used more recently."""
        key = f"{package.folder} {package.manifest.model_dump_json()}"
        if key not in self._warm:
            while len(self._warm) >= _WARM_NETWORKS:
                self._warm.popitem(last=False)
            self._warm[key] = self._load(package)
        self._warm.move_to_end(key)
        return self._warm[key]

    def _load(self, package: ModelPackage) -> _Warm:
        manifest = package.manifest
        network = RUNNERS[manifest.network.architecture](package).to(self.device)
        if manifest.inference.window != "whole":
            return _Warm(manifest, network, 0.0)
        with autocast(self.device, self.precision):
            per_voxel = forward_bytes_per_voxel(network, manifest.network.in_channels, manifest.input.padding_multiple)
        return _Warm(manifest, network, per_voxel)

    def _plan(self, warm: _Warm, shape: tuple[int, int, int]) -> WindowPlan:
        wanted, multiple = warm.manifest.inference, warm.manifest.input.padding_multiple
        if wanted.window != "whole":
            return plan_windows(shape, wanted.window, wanted.overlap)
        budget = _PART_OF_FREE * free_bytes(self.device)
        if self.device.type == "cpu":
            budget = min(budget, _MOST_CPU_BYTES)
        return plan_whole(shape, multiple, wanted.overlap, int(budget / warm.bytes_per_voxel))

    def _logits(self, warm: _Warm, channels: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
        with autocast(self.device, self.precision):
            return blended_logits(warm.network, channels, plan, warm.manifest.network.out_channels)


def _answer(
    package: ModelPackage, said: tuple[Floats, ClassLabels], axis_map: AxisMap, geometry: Geometry
) -> ClassProbabilities:
    """What the network said, turned to the axes of the sampled grid."""
    probabilities, winners = to_source(said[0], axis_map), to_source(said[1], axis_map)
    values = np.zeros(len(probabilities), label_dtype(len(probabilities)))
    for segment in package.segments:
        values[list(segment.labels)] = segment.labels
    return ClassProbabilities(probabilities, winners, geometry, values)


def _check_grids(package: ModelPackage, sampled: SampledVolume, source: Geometry) -> None:
    """Catch a caller that mixed up volumes or axes; both would give a plausible wrong answer."""
    if sampled.geometry.frame_of_reference_uid != source.frame_of_reference_uid:
        raise ValueError("expected the sampled and the source grid in one frame of reference, found two")
    wanted, found = model_spacing(package, sampled.geometry), sampled.geometry.spacing_mm
    if any(abs(f / w - 1) > _SPACING_TOLERANCE for w, f in zip(wanted, found, strict=True)):
        raise ValueError(f"expected voxels sampled at {wanted} mm along slice, row, column, found {found}")
