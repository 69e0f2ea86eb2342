"""The steps of the benchmark that are the network: as the worker runs it, with many classes, and beside FP32."""

from dicomnode.assembly.resample import resample
from dicomnode.demo.bench_place import MODEL, Detail, Place, Stopwatch
from dicomnode.imaging import Segmentation
from dicomnode.inference import Engine, Inference, Precision
from dicomnode.models import ModelStore
from dicomnode.models.golden import agreement
from dicomnode.models.store import SHIPPED_PACKAGES

SHIPPED = "torso"


def measure_network(place: Place, watch: Stopwatch, model: str) -> Detail:
    """A volume to labels on its own grid; the labels of the model of the other steps are left for these."""
    volume = place.read_volume()
    package = ModelStore([place.models]).package(model)
    engine = Engine(resample)
    with watch:
        inference = engine.segment(package, volume)
    if model == MODEL:
        place.workspace.write_segmentation(
            Segmentation(inference.labels, volume.geometry, volume.sources, package.segments, package.identity)
        )
    return {**_phases(inference), "threads": engine.threads}


def measure_fp32(place: Place, watch: Stopwatch) -> Detail:
    """The same in FP32, and how far the labels agree: those of the random network, and those of the shipped one."""
    volume, labels = place.read_volume(), place.workspace.read_segmentation().labels
    package = ModelStore([place.models]).package(MODEL)
    engine = Engine(resample, precision=Precision.FP32)
    with watch:
        exact = engine.segment(package, volume)
    shipped = ModelStore([SHIPPED_PACKAGES]).package(SHIPPED)
    found, expected = (each.segment(shipped, volume).labels for each in (Engine(resample), engine))
    return {
        **_phases(exact),
        "threads": engine.threads,
        "dice": round(agreement(exact.labels, labels), 5),
        "shipped_dice": round(agreement(expected, found), 5),
    }


def _phases(inference: Inference) -> Detail:
    (stage,) = inference.stages
    return {
        "phases": {name: round(seconds, 3) for name, seconds in inference.seconds_by_phase.items()},
        "cpu_phases": {name: round(seconds, 3) for name, seconds in inference.cpu_seconds_by_phase.items()},
        "windows": stage.windows,
        "precision": str(stage.precision),
        "device": stage.device,
    }
