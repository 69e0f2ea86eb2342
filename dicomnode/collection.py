"""What people do with models: bring one in, check it, try it on a series, accept its licence, take it out."""

import getpass
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.resample import resample
from dicomnode.audit import AuditEvent, AuditLog, AuditOutcome, AuditRecord
from dicomnode.config import Config, read_config
from dicomnode.errors import ModelError, NodeError
from dicomnode.imaging import Segmentation, Volume
from dicomnode.imaging.segmentation import Labels
from dicomnode.importers import Request, import_from
from dicomnode.inference import Engine, Precision
from dicomnode.inference.device import choose_precision
from dicomnode.models.golden import GoldenCase, agreement, anonymous, golden_bytes, read_golden
from dicomnode.models.licences import accept_licence, require_licence
from dicomnode.models.manifest import Manifest
from dicomnode.models.store import SHIPPED_PACKAGES, ModelPackage
from dicomnode.models.writing import add_golden, remove_package, write_package
from dicomnode.node import checked_config, model_store, open_ledger, site_models
from dicomnode.segmenting import assemble_series
from dicomnode.steps.recorder import Recorder, now

Row = dict[str, Any]
LEAST_AGREEMENT = 0.999  # Dice of labels beside FP32's


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a model said of one volume in one precision."""

    precision: Precision
    labels: Labels
    seconds: float
    stages: Sequence[str]


def import_model(request: Request, config_path: Path, *, replaces: bool = False) -> Row:
    """Make a package of what is at the path and put it into the site's folder of models.

    Raises:
        ModelError: it is not recognised, cannot be expressed, or a model of that name is there already.
    """
    # Not `checked_config`: a route may name the model that is imported just now.
    config = read_config(config_path) if config_path.exists() else Config()
    kind, imported = import_from(request)
    name = imported.manifest.name
    if (SHIPPED_PACKAGES / name).is_dir():
        raise ModelError(f"a model {name!r} is shipped with the node; import this one under another --name")
    package = write_package(site_models(config), imported.manifest, imported.files, replace=replaces)
    _record(config, config_path, package.manifest, f"imported from a {kind}")
    m = package.manifest
    return {
        "name": m.name,
        "version": m.version,
        "kind": kind,
        "segments": [segment.name for segment in m.segments],
        "licence": m.licence.name,
        "licence_must_be_accepted": m.licence.must_be_accepted,
        "sha256": m.digest,
        "folder": str(package.folder),
    }


def verify_model(name: str, config_path: Path) -> list[Row]:
    """Check every digest of a model and run its golden cases in the precisions that it may run in; a row per check.

    Raises:
        ModelError: no such model, a file was altered, a golden case cannot be read, or the licence was not accepted.
    """
    config = _config(config_path)
    package = model_store(config).package(name)
    package.check_files()
    if package.manifest.golden:
        require_licence(package)
    rows: list[Row] = [
        {"check": "SHA-256", "of": file, "ok": True, "found": digest}
        for file, digest in {**package.manifest.digests, **package.manifest.golden}.items()
    ]
    for file in package.manifest.golden:
        case = read_golden(package.read_file(file), file)
        for trial in _trials(package, case.volume, config):
            if trial.precision is not Precision.FP32 and getattr(package.manifest.verified, trial.precision) is None:
                continue
            dice = agreement(case.labels, trial.labels)
            said = f"Dice {dice:.5f} of the labels in FP32, {trial.seconds:.1f} s"
            rows.append({"check": str(trial.precision), "of": file, "ok": dice >= LEAST_AGREEMENT, "found": said})
    return rows


def try_model(name: str, paths: Sequence[Path], config_path: Path, *, keep: bool = False) -> Row:
    """Run a model over a series in FP32 and in the half precision of this device: times, volumes, agreement.

    Args:
        name: of the model.
        paths: of one series.
        config_path: of the node.
        keep: whether the case becomes the model's golden one (its voxels and labels, no header of it), and the
            precision counts as verified where the labels agree.

    Raises:
        NodeError: not exactly one series in the paths, or it cannot be used.
        ModelError: the model cannot be used, or its licence was not accepted.
    """
    config = _config(config_path)
    package = model_store(config).package(name)
    require_licence(package)
    if keep and package.folder.parent == SHIPPED_PACKAGES:
        raise ModelError(f"model {name!r} is shipped with the node and stays as it is; try it without --keep")
    volume = _one_volume(paths, package, config)
    exact, *others = _trials(package, volume, config)
    found = {str(trial.precision): agreement(exact.labels, trial.labels) for trial in others}
    row: Row = {
        "model": name,
        "shape": list(volume.geometry.shape),
        "seconds": {str(trial.precision): round(trial.seconds, 2) for trial in (exact, *others)},
        "agreement_with_fp32": {precision: round(dice, 5) for precision, dice in found.items()},
        "volumes_ml": _volumes(package, volume, exact.labels),
        "stages": list(exact.stages),
    }
    if keep:
        row["kept"] = _keep(package, GoldenCase(anonymous(volume), exact.labels), found)
        _record(config, config_path, package.manifest, f"golden case added, agreement with FP32 {found}")
    return row


def remove_model(name: str, config_path: Path) -> Row:
    """Take a model out of the site's folder.

    Raises:
        ModelError: there is none of that name, it is shipped with the node, or a route of the configuration names it.
    """
    config = _config(config_path)
    home = site_models(config) / name
    if name not in (names := model_store(config).names()):
        raise ModelError(f"expected one of the models {list(names)}, found {name!r}")
    if not (home / "manifest.toml").is_file():
        raise ModelError(f"model {name!r} is shipped with the node and cannot be removed; take it out of the routes")
    if routes := [route.name for route in config.routes if route.model == name]:
        raise ModelError(f"model {name!r} is named by the routes {routes}; change them first")
    remove_package(home)
    _record(config, config_path, None, f"model {name} removed")
    return {"name": name, "removed": str(home)}


def accept(name: str, by: str, config_path: Path) -> Row:
    """Accept the licence of a model for these weights, in somebody's name.

    Raises:
        ModelError: no such model, or nothing has to be accepted.
    """
    config = _config(config_path)
    package = model_store(config).package(name)
    acceptance = accept_licence(package, by or _user(), now())
    _record(config, config_path, package.manifest, f"licence {acceptance.licence!r} accepted by {acceptance.by}")
    return {"model": name, "licence": acceptance.licence, "by": acceptance.by, "at": acceptance.at}


def _user() -> str:
    """Who is logged in; "" in a container without users."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _trials(package: ModelPackage, volume: Volume, config: Config) -> list[Trial]:
    """FP32, then the half precision of this device where it has one."""
    limits = config.limits
    precisions = [Precision.FP32]
    engine = Engine(resample, limits.device, limits.threads, Precision.FP32)
    if (fast := choose_precision(engine.device)) is not Precision.FP32:
        precisions.append(fast)
    trials: list[Trial] = []
    for precision in precisions:
        engine = Engine(resample, limits.device, limits.threads, precision)
        began = time.perf_counter()
        inference = engine.segment(package, volume)
        seconds = time.perf_counter() - began
        trials.append(Trial(precision, inference.labels, seconds, [stage.stage for stage in inference.stages]))
    return trials


def _keep(package: ModelPackage, case: GoldenCase, agreements: dict[str, float]) -> Row:
    """Give the package this golden case, and as verified the precisions that agree on it."""
    if not case.labels.any():
        raise ModelError("the model found nothing in this series, which proves nothing: try one with its structures")
    content = golden_bytes(case)
    digest = hashlib.sha256(content).hexdigest()
    file = f"golden-{digest[:12]}.safetensors"
    agreed = {precision: dice for precision, dice in agreements.items() if dice >= LEAST_AGREEMENT}
    # What was verified on another case and does not agree on this one is verified no more.
    verified = package.manifest.verified.model_copy(update={**dict.fromkeys(agreements), **agreed})
    manifest = package.manifest.model_copy(update={"golden": {file: digest}, "verified": verified})
    add_golden(package, manifest, file, content)
    return {"golden": file, "verified": agreed}


def _one_volume(paths: Sequence[Path], package: ModelPackage, config: Config) -> Volume:
    found = series_from_paths(paths).series
    if len(found) != 1:
        raise NodeError(f"expected one series in {', '.join(map(str, paths))}, found {len(found)}")
    volume, modality, _ = assemble_series(found[0], config)
    if modality not in (taken := package.manifest.input.modalities):
        raise ModelError(f"model {package.manifest.name} expects modality {' or '.join(taken)}, found {modality}")
    return volume


def _volumes(package: ModelPackage, volume: Volume, labels: Labels) -> dict[str, float]:
    said = Segmentation(labels, volume.geometry, volume.sources, package.segments, package.identity)
    return {name: round(ml, 1) for name, ml in said.volumes_ml().items()}


def _config(config_path: Path) -> Config:
    return checked_config(config_path) if config_path.exists() else Config()


def _record(config: Config, config_path: Path, manifest: Manifest | None, detail: str) -> None:
    """A change of the models is on record where there is a node."""
    if not config_path.exists():
        return
    recorder = Recorder("cli", open_ledger(config), AuditLog(config.node.audit_dir))
    record = AuditRecord(
        at=recorder.clock(),
        event=AuditEvent.CONFIGURATION,
        role=recorder.role,
        outcome=AuditOutcome.SUCCESS,
        detail=detail,
    )
    if manifest is not None:
        record = replace(record, model=manifest.name, model_version=manifest.version, model_sha256=manifest.digest)
    recorder.audited(record)
