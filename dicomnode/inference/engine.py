"""The engine: keeps networks warm and takes one volume through the stages of a model, to one label map.

    for each stage: steps before -> windows through its networks -> steps after -> labels on the source grid

What goes back to the source grid, and in which order it is decided, is the model's own: see `models.after`.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging import Volume
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference.admission import Course, Demand, FreeBytes, admit
from dicomnode.inference.after.answer import label_dtype
from dicomnode.inference.allocator import give_back_freed_memory, keep_freed_memory
from dicomnode.inference.device import (
    DeviceName,
    Precision,
    choose_device,
    choose_precision,
    choose_threads,
    errors_of_the_device,
    free_bytes,
)
from dicomnode.inference.openvino_cpu import backend_for
from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import NothingToSee, Resample, Scene
from dicomnode.inference.stages import Clock, NamedForward, StageRecord, nothing_found, prepare
from dicomnode.inference.sweeping import Return, Showing, answer, plan_return
from dicomnode.inference.warm import Place, WarmNetworks
from dicomnode.models import ModelPackage
from dicomnode.models.manifest import Verified
from dicomnode.models.stages import Stage

_CPU = torch.device("cpu")
_WARM_PART_OF_FREE = 0.25  # of the device's memory when the engine starts, for the weights of all models


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """Labels `[slice, row, column]` on the source grid, and how they came about."""

    labels: Labels
    stages: tuple[StageRecord, ...]

    @property
    def seconds_by_phase(self) -> Mapping[str, float]:
        """Wall clock over all stages."""
        return _summed(stage.seconds_by_phase for stage in self.stages)

    @property
    def cpu_seconds_by_phase(self) -> Mapping[str, float]:
        """Of the process, over all stages."""
        return _summed(stage.cpu_seconds_by_phase for stage in self.stages)


def _summed(stages: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    total: dict[str, float] = {}
    for stage in stages:
        for phase, seconds in stage.items():
            total[phase] = total.get(phase, 0.0) + seconds
    return total


class Engine:
    """One device and the networks that are warm on it; one volume at a time."""

    def __init__(
        self,
        resample: Resample,
        device: DeviceName = "auto",
        threads: int = 0,
        precision: Precision | None = None,
        warm_bytes: int | None = None,
        free: FreeBytes = free_bytes,
    ) -> None:
        """Set torch up for this process.

        Args:
            resample: makes grids of rule "faces"; `assembly.resample` does.
            device: "auto" is CUDA where there is one.
            threads: on the CPU; 0: one less than there are cores.
            precision: None: the fastest that this device computes truly and the model was verified in.
            warm_bytes: of weights that stay loaded; None: a quarter of what is free now.
            free: how much memory a device has left.

        Raises:
            Unavailable: CUDA was asked for and is not there.
        """
        self._resample = resample
        self.device = choose_device(device)
        self.threads = choose_threads(threads)
        self._precisions = {device: precision or choose_precision(device) for device in {self.device, _CPU}}
        self._is_asked_for = precision is not None
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        torch.backends.cudnn.deterministic = True
        self._free = free
        self._warm = WarmNetworks(int(_WARM_PART_OF_FREE * free(self.device)) if warm_bytes is None else warm_bytes)
        self._one_at_a_time = threading.Lock()

    @property
    def warm_networks(self) -> int:
        """How many networks are loaded."""
        return self._warm.count

    def segment(self, package: ModelPackage, volume: Volume) -> Inference:
        """Segment a volume; labels at the centres of its voxels, 0 where no segment of the package is.

        The same input gives the same labels on the same device.

        Raises:
            ModelError: the package is altered or wrong, or a network of it gives NaN.
            Unavailable: not enough memory now.
        """
        manifest = package.manifest
        if manifest.input.images != 1:
            raise ModelError(f"model {manifest.name}: expected input.images = 1, found {manifest.input.images}")
        with self._one_at_a_time, torch.inference_mode(), errors_of_the_device("segmentation"):
            try:
                return self._segment(package, volume)
            finally:
                give_back_freed_memory()

    def _segment(self, package: ModelPackage, volume: Volume) -> Inference:
        scene = Scene(volume, self._resample, self.device, self.threads)
        result: Labels | None = None
        records: list[StageRecord] = []
        wanted = _labels_wanted(package)
        for index, stage in enumerate(package.manifest.stages):
            labels, record = self._run(package, stage, scene)
            records.append(record)
            if any(stage.name in later.needs for later in package.manifest.stages[index + 1 :]):
                scene = replace(scene, labels={**scene.labels, stage.name: labels})
            result = _written(stage, labels, wanted, result)
        return Inference(nothing_found(scene) if result is None else result, tuple(records))

    def _run(self, package: ModelPackage, stage: Stage, scene: Scene) -> tuple[Labels, StageRecord]:
        clock = Clock()
        place = Place(self.device, self._precision_of(package, stage, self.device))
        try:
            with clock.phase("prepare"):
                picture = prepare(stage, scene)
        except NothingToSee:
            return nothing_found(scene), _record(stage, place, None, clock)
        with clock.phase("load"):
            returned = plan_return(stage, picture)
            course = self._course(package, stage, picture, place, returned)
            place = self._place(package, stage, course)
            warm = [self._warm.network(package, name, place) for name in stage.networks]
        forwards = [NamedForward(name, network) for name, network in zip(stage.networks, warm, strict=True)]
        network = package.manifest.networks[stage.networks[0]]
        labels = answer(Showing(stage, network, forwards, picture, course, returned), scene, clock)
        backend = ", ".join(sorted({network.backend for network in warm}))
        return labels, _record(stage, replace(place, backend=backend), course, clock)

    def _course(
        self, package: ModelPackage, stage: Stage, picture: Picture, place: Place, returned: Return | None
    ) -> Course:
        network = package.manifest.networks[stage.networks[0]]
        per_voxel = self._warm.bytes_per_voxel(package, stage, place)
        swept_axis = returned.way.swept_axis if returned else None
        demand = Demand(picture.shape, network, stage.windows, len(stage.networks), per_voxel, swept_axis)
        return admit(demand, list(dict.fromkeys((self.device, _CPU))), self._free)

    def _place(self, package: ModelPackage, stage: Stage, course: Course) -> Place:
        precision = self._precision_of(package, stage, course.device)
        if self._is_asked_for:
            return Place(course.device, precision)
        network = package.manifest.networks[stage.networks[0]]
        return Place(course.device, precision, backend_for(network, stage.windows, course, precision))

    def _precision_of(self, package: ModelPackage, stage: Stage, device: torch.device) -> Precision:
        """What was asked for; else half precision where the device has it and the package was verified in it.

        An ONNX program knows no other precision than its own.
        """
        if any(package.manifest.networks[name].runner == "onnx" for name in stage.networks):
            return Precision.FP32
        precision = self._precisions[device]
        is_allowed = self._is_asked_for or _is_verified(package.manifest.verified, precision)
        return precision if is_allowed else Precision.FP32


def _is_verified(verified: Verified, precision: Precision) -> bool:
    dice = {Precision.FP32: 1.0, Precision.BF16: verified.bf16, Precision.FP16: verified.fp16}
    return dice[precision] is not None


def _record(stage: Stage, place: Place, course: Course | None, clock: Clock) -> StageRecord:
    return StageRecord(
        stage=stage.name,
        networks=stage.networks,
        device=str(place.device),
        precision=place.precision,
        backend=place.backend,
        window=course.plan.window if course else (0, 0, 0),
        windows=course.plan.count if course else 0,
        steps=course.steps if course else (),
        predicted_bytes=course.predicted_bytes if course else 0,
        seconds_by_phase=clock.seconds,
        cpu_seconds_by_phase=clock.cpu_seconds,
    )


def _labels_wanted(package: ModelPackage) -> frozenset[int]:
    """The labels that some segment is made of; others are background."""
    return frozenset(label for segment in package.segments for label in segment.labels)


def _written(stage: Stage, labels: Labels, wanted: frozenset[int], result: Labels | None) -> Labels | None:
    """The result after a stage wrote its labels over it; of its labels those that count."""
    if stage.writes == "nothing":
        return result
    top = int(labels.max(initial=0))
    table = np.zeros(top + 1, label_dtype(max(wanted)))
    for label in range(1, top + 1):
        written = label if stage.writes == "all" else stage.writes.get(label, 0)
        table[label] = written if written in wanted else 0
    own = labels if np.array_equal(table, np.arange(top + 1)) else table[labels]
    if result is None:
        return cast(Labels, own)
    merged = result.astype(np.promote_types(result.dtype, own.dtype))
    np.copyto(merged, own, where=own != 0)
    return cast(Labels, merged)
