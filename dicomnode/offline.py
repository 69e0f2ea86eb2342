"""`dicomnode segment`: series from files, through the node's own steps, into a folder."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.resample import resample, write_nifti
from dicomnode.config import Config
from dicomnode.encoding import KINDS, has_findings
from dicomnode.encoding.overlay import write_overlay
from dicomnode.errors import ModelError, NodeError, UnusableSeries
from dicomnode.imaging import Geometry, Segmentation, Series, Volume
from dicomnode.inference import Engine
from dicomnode.node import checked_config, model_store
from dicomnode.segmenting import (
    OPTIONS,
    Segmenter,
    assemble_series,
    encoding_request,
    sources_of,
    stages_without_sight,
)

Report = dict[str, Any]
Say = Callable[[str], None]


def segment_paths(paths: Sequence[Path], model: str, folder: Path, config_path: Path | None, say: Say) -> list[Report]:
    """Segment every series in the paths; one report each, also written as report.json beside the results.

    Raises:
        NodeError: no DICOM file in the paths, or no such model.
    """
    config = checked_config(config_path) if config_path else Config()
    store = model_store(config)
    store.package(model)  # a wrong name is said before the work begins
    found = series_from_paths(paths)
    for rejected in found.rejected:
        say(f"{rejected.path}: {rejected.reason}")
    if not found.series:
        raise NodeError(f"expected DICOM images, found none in {', '.join(map(str, paths))}")
    segmenter = Segmenter(Engine(resample, config.limits.device, config.limits.threads), store)
    return [_segment_series(series, model, segmenter, config, folder, say) for series in found.series]


def _segment_series(series: Series, model: str, segmenter: Segmenter, config: Config, folder: Path, say: Say) -> Report:
    say(f"series {series.series_instance_uid}: {len(series.instances)} instances")
    target = folder / hashlib.sha256(series.series_instance_uid.encode()).hexdigest()[:12]
    target.mkdir(parents=True, exist_ok=True)
    report: Report = {"series_instance_uid": series.series_instance_uid, "instances": len(series.instances)}
    began = time.perf_counter()
    try:
        report |= _results(series, model, segmenter, config, target)
    except UnusableSeries as error:
        report |= {"outcome": "refused", "verdicts": [str(v) for v in error.verdicts]}
    except NodeError as error:  # of this series only: the others go on
        report |= {"outcome": "refused" if isinstance(error, ModelError) else "failed", "verdicts": [str(error)]}
    report["seconds"] = round(time.perf_counter() - began, 2)
    (target / "report.json").write_text(json.dumps(report, indent=2, default=str), encoding="utf-8")
    return report


def _results(series: Series, model: str, segmenter: Segmenter, config: Config, folder: Path) -> Report:
    volume, modality, verdicts = assemble_series(series, config)
    segmentation, provenance = segmenter.segment(volume, modality, model)
    unseen = [f"stage {name} had nothing to look at" for name in stages_without_sight(provenance)]
    report: Report = {
        "outcome": "segmented" if has_findings(segmentation) else "nothing found",
        "verdicts": [*(str(v) for v in verdicts), *unseen],
        "model": f"{segmentation.model.name} {segmentation.model.version}",
        "model_sha256": segmentation.model.weights_sha256,
        "volumes_ml": {name: round(ml, 2) for name, ml in segmentation.volumes_ml().items()},
        "inference": provenance,
        "files": [],
    }
    if has_findings(segmentation):
        report["files"] += [str(_write_seg(series, segmentation, folder))]
    report["files"] += [str(p) for p in _write_pictures(volume, segmentation, folder)]
    return report


def _write_seg(series: Series, segmentation: Segmentation, folder: Path) -> Path:
    now = datetime.now(UTC)
    # Each run is an object of its own: a UID must not come back with other bytes, and the time is in them.
    request = encoding_request(series, segmentation.model, "seg", now, options=f"{OPTIONS} offline {now.isoformat()}")
    path = folder / "seg.dcm"
    KINDS["seg"].encode(segmentation, sources_of(series), request, path)
    KINDS["seg"].check(path, segmentation, sources_of(series), request)
    return path


def _write_pictures(volume: Volume, segmentation: Segmentation, folder: Path) -> list[Path]:
    paths = [folder / "overlay.png"]
    write_overlay(paths[0], volume, segmentation)
    geometry: Geometry = segmentation.geometry
    if not geometry.is_sheared:  # NIfTI readers take a sheared affine apart, each in its own way
        paths.append(folder / "labels.nii.gz")
        write_nifti(paths[1], segmentation.labels, geometry)
    return paths
