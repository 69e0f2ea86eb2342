"""Step `route`: a complete series -> the orders that the site's rules place for it."""

from dataclasses import dataclass

from dicomnode.audit import AuditEvent, AuditOutcome, AuditRecord
from dicomnode.config import Route
from dicomnode.ledger import Ledger, Order, OrderState, SeriesState, SeriesVersion
from dicomnode.ledger.ordered import order_id_of
from dicomnode.pipeline import Placed
from dicomnode.routing import Answer, Rule, keywords_of, read_series_headers, route
from dicomnode.steps.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Ordering:
    """Places orders."""

    rules: tuple[Rule, ...]
    ledger: Ledger
    recorder: Recorder

    def route(self, version_id: str) -> list[Placed]:
        """Match a series version against the rules and place an order for each route that wants it."""
        version = self.ledger.received.version(version_id)
        headers = read_series_headers(version.series, keywords_of(self.rules))
        answer = route(self.rules, headers)
        orders = [self._place(version, wanted) for wanted in answer.routes]
        state = SeriesState.ROUTED if orders else SeriesState.UNMATCHED
        detail = ", ".join(map(self._named, orders)) or "; ".join(answer.reasons) or "no routes are configured"
        self.ledger.received.set_routed(version_id, state, detail, headers.patient_key)
        self._audit(version, answer, headers.patient_key, detail)
        return [Placed(o.order_id, o.attempt, o.priority) for o in orders]

    def _named(self, order: Order) -> str:
        """The order's route, and the order it replaces when slices came late: its result is another object."""
        replaced = self.ledger.ordered.replaced_by(order.order_id)
        return f"{order.route} (order {order.order_id}" + (f", replaces order {replaced[0]})" if replaced else ")")

    def refuse(self, version_id: str, sentence: str) -> None:
        """Record that a series' headers cannot be routed, and why."""
        self.ledger.received.set_routed(version_id, SeriesState.REFUSED, sentence, "")
        version = self.ledger.received.version(version_id)
        self._audit(version, Answer((), ()), "", sentence, AuditOutcome.SERIOUS_FAILURE)

    def _place(self, version: SeriesVersion, wanted: Route) -> Order:
        order = Order(
            order_id=order_id_of(version.version_id, wanted.name),
            version_id=version.version_id,
            route=wanted.name,
            model=wanted.model,
            results=wanted.results,
            destinations=wanted.destinations,
            priority=wanted.priority,
            state=OrderState.WAITING,
            detail="",
            attempt=1,
        )
        self.ledger.ordered.place(order, self.recorder.clock())
        return self.ledger.ordered.order(order.order_id)

    def _audit(
        self,
        version: SeriesVersion,
        answer: Answer,
        patient_key: str,
        detail: str,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
    ) -> None:
        self.recorder.audited(
            AuditRecord(
                at=self.recorder.clock(),
                event=AuditEvent.ROUTED,
                role=self.recorder.role,
                outcome=outcome,
                study_instance_uid=version.study_instance_uid,
                series_instance_uid=version.series.series_instance_uid,
                instances=len(version.series.instances),
                instances_sha256=version.series.content,
                patient_key=patient_key,
                detail=f"{len(answer.routes)} routes: {detail}",
            )
        )
