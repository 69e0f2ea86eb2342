"""The life of a series on this node, from top to bottom.

    PACS --C-STORE--> spool --complete--> route --> assemble -> infer -> encode -> check --> deliver --C-STORE--> PACS
                      disk    ledger      rules                  GPU                          network

The methods of `Pipeline` that bear `@DBOS.workflow` are durable: what a finished step returned is remembered, so a
process killed at any instant resumes behind its last finished step. Steps hand on names; voxels and DICOM objects
stay in the spool. A step may run twice, so what it writes is named after what it read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, ParamSpec, TypeVar

from dbos import DBOS, DBOSConfiguredInstance

from dicomnode.errors import NodeError
from dicomnode.log import Log
from dicomnode.work import MAX_RECOVERIES, delivery_job, enqueue, route_job, segment_job

P = ParamSpec("P")
T = TypeVar("T")
log = Log("pipeline")

MAX_ROUTE_TURNS = 1000
LEDGER_AWAY_S = 30.0  # until what failed because ledger or spool are away is looked at again


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that routing placed."""

    order_id: str
    attempt: int
    priority: int


@dataclass(frozen=True, slots=True)
class Shipment:
    """One result that has to reach one destination, in its current round."""

    sop_instance_uid: str
    destination: str
    round: int


def _of_another_role(*_arguments: object) -> NoReturn:
    raise NodeError("this step belongs to another role: its job came on the wrong queue")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the pipeline asks of the rest of the house; `node.py` fills in what a role can do.

    All take and return names; all raise NodeError and nothing else on purpose.
    """

    route: Callable[[str], list[Placed]] = _of_another_role  # version id -> orders
    refuse: Callable[[str, str], None] = _of_another_role  # version id, sentence: routing failed
    assemble: Callable[[str], None] = _of_another_role  # order id; headers -> gate -> voxels in the workspace
    infer: Callable[[str], None] = _of_another_role  # order id; voxels -> labels on the source grid
    encode: Callable[[str], None] = _of_another_role  # order id; labels -> DICOM objects in the workspace
    check: Callable[[str], None] = _of_another_role  # order id; decodes the objects again and compares
    ship: Callable[[str], list[Shipment]] = _of_another_role  # order id; objects -> results and deliveries
    tidy: Callable[[str], None] = _of_another_role  # order id; the workspace has served
    postpone: Callable[[str, Exception, int], float | None] = _of_another_role  # order id; None: no more patience
    park: Callable[[str, str], None] = _of_another_role  # order id, sentence: needs a person
    deliver: Callable[[Shipment], float | None] = _of_another_role  # seconds until the next look, None: no more


@DBOS.dbos_class()
class Pipeline(DBOSConfiguredInstance):
    """The node's three workflows over whatever capabilities this role has."""

    def __init__(self, able: Capabilities) -> None:
        super().__init__("pipeline")
        self.able = able

    @DBOS.workflow(max_recovery_attempts=MAX_RECOVERIES)
    def route_series(self, version_id: str, turn: int) -> None:
        """Decide which models a complete series gets; none is an answer too."""
        try:
            for placed in step(self.able.route, version_id):
                enqueue(segment_job(placed.order_id, placed.attempt, placed.priority))
        except Exception as error:  # noqa: BLE001  one of the places that decide about every failure
            if is_passing(error) and turn < MAX_ROUTE_TURNS:
                enqueue(route_job(version_id, turn=turn + 1, delay_s=LEDGER_AWAY_S))
            else:
                step(self.able.refuse, version_id, sentence(error))

    @DBOS.workflow(max_recovery_attempts=MAX_RECOVERIES)
    def segment_series(self, order_id: str, attempt: int, postponed: int, priority: int) -> None:
        """Segment one version of one series with one model, and send the results on their way."""
        able = self.able
        try:
            step(able.assemble, order_id)
            step(able.infer, order_id)
            step(able.encode, order_id)
            step(able.check, order_id)
            for shipment in step(able.ship, order_id):
                enqueue(delivery_job(shipment.sop_instance_uid, shipment.destination, (shipment.round, 1)))
            step(able.tidy, order_id)
        except Exception as error:  # noqa: BLE001  one of the places that decide about every failure
            if is_passing(error):
                wait_s = step(able.postpone, order_id, error, postponed)
                if wait_s is not None:
                    enqueue(segment_job(order_id, attempt, priority, postponed=postponed + 1, delay_s=wait_s))
                    return
            step(able.park, order_id, sentence(error))

    @DBOS.workflow(max_recovery_attempts=MAX_RECOVERIES)
    def deliver_result(self, sop_instance_uid: str, destination: str, round_: int, turn: int) -> None:
        """Take one result one step up at one destination; come back later without holding a thread."""
        try:
            wait_s = step(self.able.deliver, Shipment(sop_instance_uid, destination, round_))
        except Exception as error:  # noqa: BLE001  one of the places that decide about every failure
            log.warning("delivery could not be looked after", result=sop_instance_uid, why=sentence(error))
            wait_s = LEDGER_AWAY_S
        if wait_s is not None:
            enqueue(delivery_job(sop_instance_uid, destination, (round_, turn + 1), delay_s=wait_s))


def step(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run one step; after a crash its remembered outcome takes its place."""
    return DBOS.run_step({"name": getattr(work, "__name__", "step")}, work, *args, **kwargs)


def is_passing(error: Exception) -> bool:
    """Whether the same step may succeed later, unchanged."""
    return isinstance(error, MemoryError) or (isinstance(error, NodeError) and error.retryable)


def sentence(error: Exception) -> str:
    """What the ledger keeps of a failure: our errors in their own words, a defect by its type only."""
    if isinstance(error, NodeError):
        return str(error)
    log.error("unexpected error", traceback=True, type=type(error).__name__)
    return f"unexpected {type(error).__name__}: a defect of the node; its log has the traceback"
