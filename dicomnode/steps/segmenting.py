"""Steps `assemble`, `infer`, `encode`, `check`, `ship`: an order -> checked results with deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

from dicomnode.assembly.prepared import PreparedSlices
from dicomnode.audit import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.config import Config
from dicomnode.destinations import open_destination
from dicomnode.encoding import KINDS, EncodedObject, EncodingRequest, has_findings
from dicomnode.errors import DeviceLost, NodeError, ResultMismatch, Unavailable, UnusableSeries
from dicomnode.imaging import Segmentation
from dicomnode.ledger import Ledger, Order, OrderState, Result, SeriesVersion
from dicomnode.log import Log
from dicomnode.pipeline import Shipment
from dicomnode.segmenting import (
    OPTIONS,
    Segmenter,
    assemble_series,
    encoding_request,
    nothing_found_because,
    sources_of,
    stages_without_sight,
)
from dicomnode.steps.deadline import Deadline, end_soon
from dicomnode.steps.handover import Handover
from dicomnode.steps.recorder import Recorder
from dicomnode.workspace import Workspace

log = Log("segmenting")

MAX_STARTS = 5  # a step that brought its worker down this often in a row needs a person
PAUSES_S = (5.0, 10.0, 30.0, 60.0, 300.0)  # while memory or disk is short
MAX_POSTPONEMENTS = 200

Described = Mapping[str, Any]  # an encoded object in the workspace, as JSON


@dataclass(frozen=True, slots=True)
class Segmenting:
    """Carries out orders."""

    config: Config
    ledger: Ledger
    recorder: Recorder
    segmenter: Segmenter
    handover: Handover = field(default_factory=Handover)
    prepared: PreparedSlices | None = None  # slices that were decoded ahead

    def assemble(self, order_id: str) -> None:
        """Pass the series through the geometry gate and leave its voxels for `infer`, in memory."""
        order, version = self._begin(order_id)
        with self.recorder.timed(order_id, "assemble") as detail, self._deadline():
            try:
                volume, modality, verdicts = assemble_series(version.series, self.config, self.prepared)
            except UnusableSeries as error:
                self._audit(
                    AuditEvent.GATE_VERDICTS, order, version, outcome=AuditOutcome.SERIOUS_FAILURE, detail=str(error)
                )
                raise
            self.handover.leave(order_id, (volume, modality))
            detail |= {"shape": volume.geometry.shape, "verdicts": [str(v) for v in verdicts]}
        said = "; ".join(detail["verdicts"]) or "nothing odd"
        self._audit(AuditEvent.GATE_VERDICTS, order, version, detail=said)

    def infer(self, order_id: str) -> None:
        """Run the model over the volume and leave the labels, on the source grid, in the workspace."""
        order, version = self._begin(order_id)
        workspace = self._workspace(order_id)
        with self.recorder.timed(order_id, "infer") as detail, self._deadline():
            left = self.handover.take(order_id)
            volume, modality = left or assemble_series(version.series, self.config, self.prepared)[:2]
            segmentation, provenance = self.segmenter.segment(volume, modality, order.model)
            unseen = stages_without_sight(provenance)
            workspace.write_document("unseen", unseen)
            workspace.write_segmentation(segmentation)
            detail |= provenance
        if unseen:
            log.warning("stages had nothing to look at", order=order_id, model=order.model, stages=unseen)
        model = segmentation.model
        self._audit(
            AuditEvent.INFERENCE,
            order,
            version,
            detail=str(provenance),
            model=model.name,
            model_version=model.version,
            model_sha256=model.weights_sha256,
        )

    def encode(self, order_id: str) -> None:
        """Write the result objects the route asks for into the workspace; none when nothing was found."""
        order, version = self._begin(order_id)
        workspace = self._workspace(order_id)
        objects: list[Described] = []
        with self.recorder.timed(order_id, "encode") as detail, self._deadline():
            segmentation = workspace.read_segmentation()
            for kind in order.results if has_findings(segmentation) else ():
                request = _request(order, version, segmentation, kind)
                path = workspace.folder / f"{kind}.dcm"
                encoded = KINDS[kind].encode(segmentation, sources_of(version.series), request, path)
                objects.append(_described(kind, encoded))
            workspace.write_document("objects", objects)
            detail |= {"objects": len(objects), "volumes_ml": _rounded(segmentation.volumes_ml())}
        for described in objects:
            self._audit(AuditEvent.ENCODED, order, version, result_sha256=described["sha256"])

    def check(self, order_id: str) -> None:
        """Decode the objects again and compare them with what the network said and with the source."""
        order, version = self._begin(order_id)
        workspace = self._workspace(order_id)
        with self.recorder.timed(order_id, "check") as detail, self._deadline():
            segmentation = workspace.read_segmentation()
            objects: list[Described] = workspace.read_document("objects")
            for kind in (d["kind"] for d in objects):
                request = _request(order, version, segmentation, kind)
                path = workspace.folder / f"{kind}.dcm"
                try:
                    KINDS[kind].check(path, segmentation, sources_of(version.series), request)
                except ResultMismatch as error:
                    self._audit(
                        AuditEvent.BLOCKED, order, version, outcome=AuditOutcome.MAJOR_FAILURE, detail=str(error)
                    )
                    raise
            detail |= {"objects": len(objects)}
        for described in objects:
            self._audit(AuditEvent.CHECKED, order, version, result_sha256=described["sha256"])

    def ship(self, order_id: str) -> list[Shipment]:
        """Move the checked objects to the outbox and open a delivery to each destination."""
        order = self.ledger.ordered.order(order_id)
        version = self.ledger.received.version(order.version_id)
        at = self.recorder.clock()
        objects: list[Described] = self._workspace(order_id).read_document("objects")
        made = [self._moved(order, version, described) for described in objects]
        goals = {name: open_destination(self.config, name).goal for name in order.destinations}
        self.ledger.ordered.record_results(made, goals, at)
        if made:
            self.ledger.ordered.settle(order_id, at)
        else:
            sentence = nothing_found_because(self._workspace(order_id).read_document("unseen"))
            self.ledger.ordered.set_state(order_id, OrderState.DONE, sentence, at)
        deliveries = self.ledger.delivered.deliveries_of(order_id)
        return [Shipment(d.sop_instance_uid, d.destination, d.round) for d in deliveries]

    def tidy(self, order_id: str) -> None:
        """Remove what the steps left for each other."""
        self._workspace(order_id).clear()

    def postpone(self, order_id: str, error: Exception, turn: int) -> float | None:
        """How long to wait before an order is tried again; None when patience is at its end."""
        if isinstance(error, DeviceLost):
            end_soon(str(error))  # after this outcome is on record
        if turn >= MAX_POSTPONEMENTS:
            return None
        sentence = f"waiting (try {turn + 1}): {error or type(error).__name__}"
        self.ledger.ordered.set_state(order_id, OrderState.WAITING, sentence, self.recorder.clock())
        self.ledger.ordered.forget_starts(order_id)
        self.handover.clear()
        return PAUSES_S[min(turn, len(PAUSES_S) - 1)]

    def park(self, order_id: str, sentence: str) -> None:
        """Put an order aside for a person."""
        order = self.ledger.ordered.order(order_id)
        version = self.ledger.received.version(order.version_id)
        self.ledger.ordered.set_state(order_id, OrderState.PARKED, sentence, self.recorder.clock())
        self.handover.clear()
        self._workspace(order_id).clear()
        self._audit(AuditEvent.PARKED, order, version, outcome=AuditOutcome.SERIOUS_FAILURE, detail=sentence)

    def _begin(self, order_id: str) -> tuple[Order, SeriesVersion]:
        """Count that dangerous work begins: what kills its worker again and again is put aside."""
        starts = self.ledger.ordered.count_start(order_id, self.recorder.clock())
        if starts > MAX_STARTS:
            raise WorkerDied(
                f"expected the step to end within {MAX_STARTS} tries, found its worker dead each time; look at the "
                "worker's log for a crash or the deadline (limits.job_deadline_s), then 'dicomnode retry ID'"
            )
        order = self.ledger.ordered.order(order_id)
        return order, self.ledger.received.version(order.version_id)

    def _deadline(self) -> Deadline:
        return Deadline(self.config.limits.job_deadline_s)

    def _workspace(self, order_id: str) -> Workspace:
        return Workspace(self.config.node.spool_dir / "work" / order_id)

    def _moved(self, order: Order, version: SeriesVersion, described: Described) -> Result:
        path = Path("results") / order.order_id[:2] / f"{order.order_id}-{described['sha256'][:16]}.dcm"
        target = self.config.node.spool_dir / path
        source = self._workspace(order.order_id).folder / f"{described['kind']}.dcm"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists() or not target.exists():  # a step that runs twice finds it moved already
                source.replace(target)
        except OSError as error:
            raise Unavailable(f"the result cannot be moved to the outbox: {error.strerror}") from error
        return Result(
            sop_instance_uid=described["sop_instance_uid"],
            sop_class_uid=described["sop_class_uid"],
            study_instance_uid=version.study_instance_uid,
            order_id=order.order_id,
            kind=described["kind"],
            path=path,
            sha256=described["sha256"],
        )

    def _audit(self, event: AuditEvent, order: Order, version: SeriesVersion, **said: Unpack["_Said"]) -> None:
        self.recorder.audited(
            AuditRecord(
                at=self.recorder.clock(),
                event=event,
                role=self.recorder.role,
                study_instance_uid=version.study_instance_uid,
                series_instance_uid=version.series.series_instance_uid,
                instances=len(version.series.instances),
                instances_sha256=version.series.content,
                order_id=order.order_id,
                **said,
            )
        )


class _Said(TypedDict, total=False):
    outcome: AuditOutcome
    detail: str
    model: str
    model_version: str
    model_sha256: str
    result_sha256: str


class WorkerDied(NodeError):
    """A step brought its worker down as often as is tolerated."""


def _request(order: Order, version: SeriesVersion, segmentation: Segmentation, kind: str) -> EncodingRequest:
    """Two routes may order the same model for one series: each has results of its own."""
    options = f"{OPTIONS} route {order.route}"
    return encoding_request(version.series, segmentation.model, kind, version.completed_at, options)


def _described(kind: str, encoded: EncodedObject) -> Described:
    return {
        "kind": kind,
        "sop_instance_uid": encoded.sop_instance_uid,
        "sop_class_uid": encoded.sop_class_uid,
        "sha256": encoded.sha256,
        "omitted_segments": encoded.omitted_segments,
    }


def _rounded(volumes_ml: Mapping[str, float]) -> dict[str, float]:
    return {name: round(volume, 2) for name, volume in volumes_ml.items()}
