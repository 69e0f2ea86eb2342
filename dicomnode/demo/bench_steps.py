"""One step of `dicomnode bench` in a process of its own: `python -m dicomnode.demo.bench_steps STEP FOLDER SIZE`.

Prints one line of JSON. Each step imports what it needs itself, so that its memory is not another's.
"""

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from dicomnode.demo.bench_place import CLASSES, MANY_CLASSES, MODEL, SIZES, Detail, Place, Stopwatch, model_of
from dicomnode.imaging import Segmentation, Series
from dicomnode.imaging.segmentation import Labels

Step = Callable[[Place, Stopwatch], Detail]
SHIPPED = "torso"


def main() -> None:
    """Run the step that the command line names."""
    step, folder, size = sys.argv[1:]
    watch = Stopwatch()
    detail = STEPS[step](Place(Path(folder), SIZES[size]), watch)
    sys.stdout.write(json.dumps({**watch.figures(), **detail}) + "\n")


def material(place: Place, watch: Stopwatch) -> Detail:
    """Write the series, its compressed copies and the model packages."""
    from dicomnode.demo.bench_material import write_compressed, write_model, write_series_of

    with watch:
        write_series_of(place.size, place)
        write_compressed(place)
        for classes in (CLASSES, *MANY_CLASSES):
            write_model(place, classes)
    return {"bytes": sum(path.stat().st_size for path in place.series_folder.iterdir())}


def find(place: Place, watch: Stopwatch) -> Detail:
    """Identify every file, its SHA-256 included (in a node the listener does that)."""
    with watch:
        series = place.read_series()
    return {"instances": len(series.instances)}


def gate(place: Place, watch: Stopwatch) -> Detail:
    """Read all headers and pass the geometry gate."""
    from dicomnode.assembly.gate import inspect

    series = place.read_series()
    with watch:
        inspection = inspect(series)
    return {"verdicts": [str(verdict) for verdict in inspection.verdicts]}


def assembled(place: Place, watch: Stopwatch) -> Detail:
    """Read the pixels into one volume in HU."""
    import numpy as np

    from dicomnode.assembly.gate import inspect
    from dicomnode.assembly.volume import assemble

    inspection = inspect(place.read_series())
    with watch:
        volume = assemble(inspection)
    np.save(place.voxels_path, volume.voxels)
    return {"shape": volume.geometry.shape, "dtype": str(volume.voxels.dtype)}


def simpleitk(place: Place, watch: Stopwatch) -> Detail:
    """The peer of find, gate and assemble."""
    return _read_by_simpleitk(place.series_folder, watch)


def _read_by_simpleitk(folder: Path, watch: Stopwatch) -> Detail:
    from dicomnode.demo.bench_peers import read_with_simpleitk

    with watch:
        shape = read_with_simpleitk(folder)
    return {"shape": shape}


def assembled_jls(place: Place, watch: Stopwatch) -> Detail:
    """Decode the JPEG-LS copy."""
    return _decoded(place, watch, "jls")


def assembled_j2k(place: Place, watch: Stopwatch) -> Detail:
    """Decode the JPEG 2000 copy."""
    return _decoded(place, watch, "j2k")


def _decoded(place: Place, watch: Stopwatch, encoding: str) -> Detail:
    """The volume of a compressed copy, from nothing that was decoded ahead; its voxels are the original's."""
    import numpy as np

    from dicomnode.assembly.gate import inspect
    from dicomnode.assembly.volume import assemble

    folder = place.compressed_folder(encoding)
    inspection = inspect(place.read_series(folder))
    with watch:
        volume = assemble(inspection)
    original = np.load(place.voxels_path, mmap_mode="r", allow_pickle=False)
    bytes_of_files = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "file_mb": round(bytes_of_files / 1e6, 1),
        "identical": bool(np.array_equal(volume.voxels, original)),
    }


def simpleitk_jls(place: Place, watch: Stopwatch) -> Detail:
    """The peer on the JPEG-LS copy."""
    return _read_by_simpleitk(place.compressed_folder("jls"), watch)


def simpleitk_j2k(place: Place, watch: Stopwatch) -> Detail:
    """The peer on the JPEG 2000 copy."""
    return _read_by_simpleitk(place.compressed_folder("j2k"), watch)


def resampled(place: Place, watch: Stopwatch) -> Detail:
    """To the spacing of the model."""
    from dicomnode.assembly.resample import resample

    volume = place.read_volume()
    with watch:
        sampled = resample(volume, SPACING_MM)
    return {"shape": sampled.geometry.shape}


def infer(place: Place, watch: Stopwatch) -> Detail:
    """The network, from the volume to labels on its own grid, as the worker does it."""
    from dicomnode.demo.bench_inference import measure_network

    return measure_network(place, watch, MODEL)


def infer_25(place: Place, watch: Stopwatch) -> Detail:
    """The same with 25 classes."""
    from dicomnode.demo.bench_inference import measure_network

    return measure_network(place, watch, model_of(25))


def infer_118(place: Place, watch: Stopwatch) -> Detail:
    """The same with 118 classes."""
    from dicomnode.demo.bench_inference import measure_network

    return measure_network(place, watch, model_of(118))


def infer_fp32(place: Place, watch: Stopwatch) -> Detail:
    """The same in FP32."""
    from dicomnode.demo.bench_inference import measure_fp32

    return measure_fp32(place, watch)


def monai(place: Place, watch: Stopwatch) -> Detail:
    """The peer: files to labels by MONAI."""
    from dicomnode.demo.bench_monai import measure_monai

    return measure_monai(place, watch)


def encode(place: Place, watch: Stopwatch) -> Detail:
    """The SEG by the node."""
    from dicomnode.encoding import encode_seg
    from dicomnode.segmenting import encoding_request, sources_of

    series, segmentation = place.read_series(), place.workspace.read_segmentation()
    request = encoding_request(series, segmentation.model, "seg", WHEN)
    path = place.folder / "seg.dcm"
    with watch:
        encode_seg(segmentation, sources_of(series), request, path)
    return {"segments": len(segmentation.segments), "file_mb": _megabytes(path)}


def highdicom(place: Place, watch: Stopwatch) -> Detail:
    """The SEG by highdicom called plainly."""
    from dicomnode.demo.bench_peers import encode_with_highdicom
    from dicomnode.segmenting import sources_of

    series, segmentation = place.read_series(), place.workspace.read_segmentation()
    paths = sources_of(series)
    in_order = [paths[source.sop_instance_uid] for source in segmentation.sources]
    path = place.folder / "highdicom.dcm"
    with watch:
        encode_with_highdicom(segmentation, in_order, path)
    return {"segments": len(segmentation.segments), "file_mb": _megabytes(path)}


def check(place: Place, watch: Stopwatch) -> Detail:
    """Decode the SEG again and compare."""
    from dicomnode.encoding import check_seg
    from dicomnode.segmenting import encoding_request, sources_of

    series, segmentation = place.read_series(), place.workspace.read_segmentation()
    request = encoding_request(series, segmentation.model, "seg", WHEN)
    with watch:
        check_seg(place.folder / "seg.dcm", segmentation, sources_of(series), request)
    return {}


def whole(place: Place, watch: Stopwatch) -> Detail:
    """Files to checked SEG with the random-weight model."""
    return _whole(place, watch, MODEL)


def shipped(place: Place, watch: Stopwatch) -> Detail:
    """Files to checked SEG with the model that is shipped."""
    return _whole(place, watch, SHIPPED)


def _whole(place: Place, watch: Stopwatch, model: str) -> Detail:
    from dicomnode.assembly.resample import resample
    from dicomnode.config import Config
    from dicomnode.inference import Engine
    from dicomnode.models import ModelStore
    from dicomnode.models.store import SHIPPED_PACKAGES
    from dicomnode.segmenting import Segmenter, assemble_series

    config = Config()
    segmenter = Segmenter(Engine(resample), ModelStore([place.models, SHIPPED_PACKAGES]))
    path = place.folder / f"{model}.dcm"
    with watch:
        series = place.read_series()
        volume, modality, _verdicts = assemble_series(series, config)
        segmentation, provenance = segmenter.segment(volume, modality, model)
        _write_and_check(series, segmentation, path)
    return {
        "inference": provenance,
        "file_mb": _megabytes(path),
        "neighbours_differ": round(_neighbours_differ(segmentation.labels), 4),
    }


def _neighbours_differ(labels: Labels) -> float:
    """The share of neighbours in a row of pixels that have different labels: random weights draw no organs."""
    changes = sum(int((plane[:, 1:] != plane[:, :-1]).sum()) for plane in labels)
    return changes / (labels.size - labels.size // labels.shape[2])


def _write_and_check(series: Series, segmentation: Segmentation, path: Path) -> None:
    from dicomnode.encoding import check_seg, encode_seg
    from dicomnode.segmenting import encoding_request, sources_of

    request = encoding_request(series, segmentation.model, "seg", WHEN)
    encode_seg(segmentation, sources_of(series), request, path)
    check_seg(path, segmentation, sources_of(series), request)


def disk(place: Place, watch: Stopwatch) -> Detail:
    """What the disk takes with one fsync per file."""
    from dicomnode.demo.bench_network import write_synced

    return write_synced(place, watch)


def listener(place: Place, watch: Stopwatch) -> Detail:
    """The listener's speed and memory."""
    from dicomnode.demo.bench_network import measure_listener

    return measure_listener(place, watch)


def turnaround(place: Place, watch: Stopwatch) -> Detail:
    """From the last answer of the listener to the SEG in the archive."""
    from dicomnode.demo.bench_network import measure_turnaround

    return measure_turnaround(place, watch, MODEL)


def turnaround_shipped(place: Place, watch: Stopwatch) -> Detail:
    """The same with the model that is shipped."""
    from dicomnode.demo.bench_network import measure_turnaround

    return measure_turnaround(place, watch, SHIPPED)


def turnaround_j2k(place: Place, watch: Stopwatch) -> Detail:
    """The same with the model that is shipped, the series in JPEG 2000."""
    from dicomnode.demo.bench_network import measure_turnaround

    return measure_turnaround(place, watch, SHIPPED, "j2k")


def waiting(place: Place, watch: Stopwatch) -> Detail:
    """The worker's memory while many series wait."""
    from dicomnode.demo.bench_waiting import measure_waiting

    return measure_waiting(place, watch)


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


SPACING_MM = (1.5, 1.5, 1.5)  # of the random-weight model
WHEN = datetime(2026, 1, 1, tzinfo=UTC)

STEPS: Mapping[str, Step] = {
    "material": material,
    "find": find,
    "gate": gate,
    "assemble": assembled,
    "simpleitk": simpleitk,
    "assemble-jls": assembled_jls,
    "simpleitk-jls": simpleitk_jls,
    "assemble-j2k": assembled_j2k,
    "simpleitk-j2k": simpleitk_j2k,
    "resample": resampled,
    "infer": infer,
    "infer-25": infer_25,
    "infer-118": infer_118,
    "infer-fp32": infer_fp32,
    "monai": monai,
    "encode": encode,
    "highdicom": highdicom,
    "check": check,
    "whole": whole,
    "shipped": shipped,
    "disk": disk,
    "listener": listener,
    "turnaround": turnaround,
    "turnaround-shipped": turnaround_shipped,
    "turnaround-j2k": turnaround_j2k,
    "waiting": waiting,
}

if __name__ == "__main__":
    main()
