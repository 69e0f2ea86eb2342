"""What people do with models: bring one in, check it, try it on a series, accept its licence, take it out."""

import getpass
import hashlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
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
from dicomnode.models.golden import Agreement, GoldenCase, anonymous, compare_labels, golden_bytes, read_golden
from dicomnode.models.licences import accept_licence, require_licence
from dicomnode.models.manifest import Manifest
from dicomnode.models.store import SHIPPED_PACKAGES, ModelPackage
from dicomnode.models.writing import add_golden, remove_package, settle, write_package
from dicomnode.node import checked_config, model_store, open_ledger, site_models
from dicomnode.segmenting import assemble_series
from dicomnode.steps.recorder import Recorder, now

Row = dict[str, Any]
Record = Callable[[Manifest | None, str], None]  # of a change: which model it made, and what was done


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
    if (images := imported.manifest.input.images) != 1:
        raise ModelError(f"{request.path}: the engine runs models of one image so far, found one of {images} images")
    if (SHIPPED_PACKAGES / name).is_dir():
        raise ModelError(f"a model {name!r} is shipped with the node; import this one under another --name")
    with _on_record(config, config_path) as record:
        package = write_package(site_models(config), imported.manifest, imported.files, replace=replaces)
        record(package.manifest, f"imported from a {kind}")
    m = package.manifest
    return {
        "name": m.name,
        "version": m.version,
        "kind": kind,
        "segments": [segment.name for segment in m.segments],
        "notes": list(imported.notes),
        "licence": m.licence.name,
        "licence_must_be_accepted": m.licence.must_be_accepted,
        "can_be_halved": _can_be_halved(m),
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
    verified = frozenset(package.manifest.verified.model_dump(exclude_none=True))
    for file in package.manifest.golden:
        case = read_golden(package.read_file(file), file)
        for trial in _trials(package, case.volume, config, verified):
            found = compare_labels(case.labels, trial.labels)
            said = f"Dice {found.dice:.5f} of the labels in FP32{_at_worst(package, found)}, {trial.seconds:.1f} s"
            rows.append({"check": str(trial.precision), "of": file, "ok": found.is_enough, "found": said})
    return rows


def _at_worst(package: ModelPackage, found: Agreement) -> str:
    return f", at worst {worst['dice']:.5f} ({worst['structure']})" if (worst := _worst(package, found)) else ""


def _worst(package: ModelPackage, found: Agreement) -> Row | None:
    """The label that agrees least, and what it is in the result; None where no label was looked at by itself."""
    if found.worst_label is None:
        return None
    names = [segment.name for segment in package.segments if found.worst_label in segment.labels]
    structure = " and ".join(names) or f"label {found.worst_label}"
    return {"label": found.worst_label, "structure": structure, "dice": round(found.worst_dice, 5)}


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
    exact, *others = _trials(package, volume, config, frozenset(Precision))
    found = {str(trial.precision): compare_labels(exact.labels, trial.labels) for trial in others}
    row: Row = {
        "model": name,
        "shape": list(volume.geometry.shape),
        "seconds": {str(trial.precision): round(trial.seconds, 2) for trial in (exact, *others)},
        "agreement_with_fp32": {precision: round(one.dice, 5) for precision, one in found.items()},
        "worst_label": {precision: _worst(package, one) for precision, one in found.items()},
        "volumes_ml": _volumes(package, volume, exact.labels),
        "stages": list(exact.stages),
    }
    if keep:
        with _on_record(config, config_path) as record:
            row["kept"] = _keep(package, GoldenCase(anonymous(volume), exact.labels), found)
            record(package.manifest, f"golden case added, agreement with FP32 {row['agreement_with_fp32']}")
    return row


def remove_model(name: str, config_path: Path) -> Row:
    """Take a model out of the site's folder.

    Raises:
        ModelError: there is none of that name, it is shipped with the node, or a route of the configuration names it.
    """
    config = _config(config_path)
    home = site_models(config) / name
    settle(home.parent)
    if name not in (names := model_store(config).names()):
        raise ModelError(f"expected one of the models {list(names)}, found {name!r}")
    if not (home / "manifest.toml").is_file():
        raise ModelError(f"model {name!r} is shipped with the node and cannot be removed; take it out of the routes")
    if routes := [route.name for route in config.routes if route.model == name]:
        raise ModelError(f"model {name!r} is named by the routes {routes}; change them first")
    with _on_record(config, config_path) as record:
        remove_package(home)
        record(None, f"model {name} removed")
    return {"name": name, "removed": str(home)}


def accept(name: str, by: str, config_path: Path) -> Row:
    """Accept the licence of a model for these weights, in somebody's name.

    Raises:
        ModelError: no such model, or nothing has to be accepted.
    """
    config = _config(config_path)
    package = model_store(config).package(name)
    with _on_record(config, config_path) as record:
        acceptance = accept_licence(package, by or _user(), now())
        record(package.manifest, f"licence {acceptance.licence!r} accepted by {acceptance.by}")
    licence = package.manifest.licence.model_dump(mode="json")
    return {"model": name, "licence": licence, "by": acceptance.by, "at": acceptance.at}


def _user() -> str:
    """Who is logged in; "" in a container without users."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _trials(package: ModelPackage, volume: Volume, config: Config, halves: frozenset[str]) -> list[Trial]:
    """FP32, then the half precision of this device where it has one that is among `halves` and some stage takes it."""
    limits = config.limits
    engine = Engine(resample, limits.device, limits.threads, Precision.FP32)
    trials = [_trial(engine, Precision.FP32, package, volume)]
    fast = choose_precision(engine.device)
    if fast is not Precision.FP32 and fast in halves and _can_be_halved(package.manifest):
        trials.append(_trial(Engine(resample, limits.device, limits.threads, fast), fast, package, volume))
    return trials


def _can_be_halved(manifest: Manifest) -> bool:
    """Whether some stage has only networks whose precision the engine can choose: an ONNX program brings its own."""
    return any(all(manifest.networks[name].runner != "onnx" for name in stage.networks) for stage in manifest.stages)


def _trial(engine: Engine, precision: Precision, package: ModelPackage, volume: Volume) -> Trial:
    began = time.perf_counter()
    inference = engine.segment(package, volume)
    seconds = time.perf_counter() - began
    return Trial(precision, inference.labels, seconds, [stage.stage for stage in inference.stages])


def _keep(package: ModelPackage, case: GoldenCase, agreements: Mapping[str, Agreement]) -> Row:
    """Give the package this golden case, and as verified the precisions that agree on it."""
    if not case.labels.any():
        raise ModelError("the model found nothing in this series, which proves nothing: try one with its structures")
    content = golden_bytes(case)
    digest = hashlib.sha256(content).hexdigest()
    file = f"golden-{digest[:12]}.safetensors"
    agreed = {precision: found.dice for precision, found in agreements.items() if found.is_enough}
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


@contextmanager
def _on_record(config: Config, config_path: Path) -> Generator[Record]:
    """What changes the models meanwhile, and then says what it did, is on record where there is a node.

    Raises:
        Unavailable: ledger or audit log are away; nothing was changed.
    """
    if not config_path.exists():
        yield lambda _manifest, _detail: None
        return
    ledger = open_ledger(config)
    try:
        recorder = Recorder("cli", ledger, AuditLog(config.node.audit_dir))
        recorder.audit.head()  # can be written
        yield lambda manifest, detail: _record(recorder, manifest, detail)
    finally:
        ledger.close()


def _record(recorder: Recorder, manifest: Manifest | None, detail: str) -> None:
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
