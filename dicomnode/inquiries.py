"""What people ask a node at the command line: what came, what became of it, does the peer answer, try again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicomnode.audit import AuditEvent, AuditHead, AuditLog, AuditOutcome, AuditRecord, verify
from dicomnode.config import Config, Destination
from dicomnode.destinations import Archive, find_dicom_files
from dicomnode.errors import ConfigError, ModelError, NodeError
from dicomnode.ledger import Delivery, Ledger, Order, OrderState, SeriesState
from dicomnode.models.licences import accepted_by, require_licence
from dicomnode.node import checked_config, model_store, open_ledger
from dicomnode.routing import patient_key_of
from dicomnode.steps.delivering import file_sha256
from dicomnode.steps.recorder import Recorder, now
from dicomnode.work import WorkClient, delivery_job, prepare, route_job, segment_job

Row = dict[str, Any]


def list_series(
    config_path: Path, study: str | None = None, patient_id: str | None = None, issuer: str = "", limit: int = 50
) -> list[Row]:
    """The series versions, the latest first."""
    where: dict[str, str] = {}
    if study:
        where["study_instance_uid"] = study
    if patient_id:
        where["patient_key"] = patient_key_of(patient_id, issuer)
    return open_ledger(checked_config(config_path)).received.versions(where, limit)


def list_jobs(config_path: Path, state: str | None = None, limit: int = 50) -> list[Row]:
    """The orders, the latest first, with their steps and deliveries.

    Raises:
        ConfigError: no such state.
    """
    if state is not None and state not in list(OrderState):
        raise ConfigError(f"expected a state among {', '.join(OrderState)}, found {state!r}")
    ledger = open_ledger(checked_config(config_path))
    return [_job(ledger, order) for order in ledger.ordered.orders(OrderState(state) if state else None, limit)]


def retry(name: str, config_path: Path) -> str:
    """Start again what is parked or refused under this id; a sentence about what was started.

    Raises:
        NodeError: nothing of that id, or nothing of it needs to be started again.
    """
    config = checked_config(config_path)
    prepare(config.node.work_database_url, config.node.data_dir)
    ledger = open_ledger(config)
    recorder = Recorder("cli", ledger, AuditLog(config.node.audit_dir))
    work = WorkClient(config.node.work_database_url)
    try:
        sentence = _retry_order(name, ledger, work, config.node.spool_dir) or _retry_version(name, ledger, work)
    finally:
        work.close()
    if sentence is None:
        raise NodeError(f"expected the id of an order or a series version, found {name!r}; see 'dicomnode jobs'")
    recorder.audited(AuditRecord(at=now(), event=AuditEvent.RETRIED, role="cli", order_id=name, detail=sentence))
    return sentence


def echo_peer(name: str, config_path: Path) -> None:
    """C-ECHO to a peer.

    Raises:
        Unavailable: it is not there.
        DestinationRefused: it does not want us.
    """
    _archive(checked_config(config_path), name).echo()


def send_files(paths: Sequence[Path], to: str, config_path: Path) -> list[Row]:
    """C-STORE files to a peer; each instance's status.

    Raises:
        NodeError: no DICOM file in the paths, or the peer is not there.
    """
    archive = _archive(checked_config(config_path), to)
    files = find_dicom_files(paths)
    if not files:
        raise NodeError(f"expected DICOM files, found none in {', '.join(map(str, paths))}")
    return [
        {"sop_instance_uid": s.sop_instance_uid, "status": s.status, "ok": s.kept, "sentence": s.sentence}
        for s in archive.send(files)
    ]


def list_models(config_path: Path) -> list[Row]:
    """Every model, and whether it may run: its weights are what its manifest says and its licence is settled."""
    config = checked_config(config_path) if config_path.exists() else Config()
    store = model_store(config)
    rows: list[Row] = []
    for name in store.names():
        row: Row = {"name": name, "version": "", "title": "", "segments": []}
        try:
            package = store.package(name)
            identity = package.identity
            row |= {
                "version": identity.version,
                "title": identity.title,
                "segments": [s.name for s in package.segments],
            }
            package.check_files()
            require_licence(package)
            row["state"] = "intact"
        except ModelError as error:
            row["state"] = str(error)
        rows.append(row)
    return rows


def show_model(name: str, config_path: Path) -> Row:
    """A model's manifest, its card, and who accepted its licence, where somebody has to.

    Raises:
        ModelError: no such model, or its manifest cannot be used.
    """
    config = checked_config(config_path) if config_path.exists() else Config()
    package = model_store(config).package(name)
    card = package.folder / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    manifest = package.manifest.model_dump(mode="json")
    return {"manifest": manifest, "card": text, "accepted": accepted_by(package)}


def verify_audit(config_path: Path) -> Row:
    """Check the audit log against itself and against the heads kept in the ledger; the check is on record too."""
    config = checked_config(config_path)
    ledger = open_ledger(config)
    anchored = ledger.last_audit_head()
    found = verify(config.node.audit_dir, [AuditHead(*anchored)] if anchored else [])
    outcome = AuditOutcome.SUCCESS if found.is_intact else AuditOutcome.MAJOR_FAILURE
    detail = f"{found.records} records, {len(found.problems)} problems"
    recorder = Recorder("cli", ledger, AuditLog(config.node.audit_dir))
    if found.is_intact:  # a broken log is evidence: nothing is added to it
        recorder.audited(
            AuditRecord(at=now(), event=AuditEvent.AUDIT_VERIFIED, role="cli", outcome=outcome, detail=detail)
        )
    return {"records": found.records, "head": found.head.sha256, "problems": list(found.problems)}


def _archive(config: Config, peer_name: str) -> Archive:
    peer = config.peer(peer_name)
    return Archive(Destination(name=peer.name, peer=peer.name), peer, config.node.ae_title)


def _job(ledger: Ledger, order: Order) -> Row:
    version = ledger.received.version(order.version_id)
    deliveries = ledger.delivered.deliveries_of(order.order_id)
    return {
        "order_id": order.order_id,
        "version_id": order.version_id,
        "series_instance_uid": version.series.series_instance_uid,
        "study_instance_uid": version.study_instance_uid,
        "route": order.route,
        "model": order.model,
        "state": str(order.state),
        "detail": order.detail,
        "attempt": order.attempt,
        "replaces": ledger.ordered.replaced_by(order.order_id),
        "results": [r.sop_instance_uid for r in ledger.ordered.results_of(order.order_id)],
        "deliveries": [_standing(d) for d in deliveries],
        "history": [
            {"destination": name, "rung": rung.name.lower(), "at": at, "detail": detail}
            for uid in {d.sop_instance_uid for d in deliveries}
            for name, rung, at, detail in ledger.delivered.history(uid)
        ],
        "steps": [{"name": s.name, "at": s.at, "seconds": s.seconds} for s in ledger.ordered.steps_of(order.order_id)],
    }


def _standing(delivery: Delivery) -> str:
    parked = f" PARKED: {delivery.detail}" if delivery.parked else ""
    failures = f" after {delivery.failures} failures: {delivery.detail}" if delivery.failures and not parked else ""
    return f"{delivery.destination} {delivery.rung.name.lower()}{failures}{parked}"


def _retry_order(name: str, ledger: Ledger, work: WorkClient, spool_dir: Path) -> str | None:
    try:
        order = ledger.ordered.order(name)
    except LookupError:
        return None
    parked = [d for d in ledger.delivered.deliveries_of(name) if d.parked]
    opened = [ledger.delivered.start_again(d.sop_instance_uid, d.destination, now()) for d in parked]
    results = [ledger.ordered.result(d.sop_instance_uid) for d in parked]
    if parked and all(file_sha256(spool_dir / r.path) == r.sha256 for r in results):
        for again in opened:
            work.enqueue(delivery_job(again.sop_instance_uid, again.destination, (again.round, 1)))
        ledger.ordered.settle(name, now())
        return f"{len(parked)} deliveries of order {name} started again"
    if order.state is not OrderState.PARKED and not parked:
        raise NodeError(f"expected a parked order, found {name} {order.state}: nothing to start again")
    order = ledger.ordered.start_again(name, now())
    work.enqueue(segment_job(name, order.attempt, order.priority))
    return f"order {name} started again, attempt {order.attempt}"


def _retry_version(name: str, ledger: Ledger, work: WorkClient) -> str | None:
    try:
        version = ledger.received.version(name)
    except LookupError:
        return None
    if version.state not in {SeriesState.REFUSED, SeriesState.UNMATCHED}:
        raise NodeError(f"expected a refused or unmatched series, found {name} {version.state}: nothing to start again")
    ledger.received.set_routed(name, SeriesState.COMPLETE, "", "")
    work.enqueue(route_job(name, again=now().isoformat()))
    return f"series version {name} is routed again"
