"""Durable work: the only file, with the decorators in `pipeline.py`, that knows DBOS.

A job is put on a queue once per id, survives any crash of any process, and is taken up again where it stood.
"""

import fcntl
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import Unavailable

APPLICATION = "dicomnode"
# Jobs are tied to this version, not to a hash of the code (DBOS's default), so that an upgrade does not strand
# them. Raise it only when a stored job can no longer be understood.
APPLICATION_VERSION = "1"
MAX_RECOVERIES = 20  # the ledger parks an order after three starts; this bound is the second net
POLLING_S = 0.1


class Queue(StrEnum):
    """The queues, each served by the role of its kind of work."""

    ROUTE = "route"
    SEGMENT = "segment"
    DELIVER = "deliver"


CONCURRENCY = {Queue.ROUTE: 1, Queue.SEGMENT: 1, Queue.DELIVER: 4}  # jobs at once, per process


@dataclass(frozen=True, slots=True)
class Job:
    """One call of one workflow of the pipeline; enqueuing the same `job_id` again changes nothing."""

    queue: Queue
    workflow: str
    job_id: str
    arguments: tuple[str | int, ...]
    priority: int = 100  # lower runs first
    delay_s: float = field(default=0.0)

    def options(self) -> EnqueueOptions:
        """The job in DBOS's words."""
        options: EnqueueOptions = {
            "queue_name": self.queue,
            "workflow_name": f"Pipeline.{self.workflow}",
            "class_name": "Pipeline",
            "instance_name": "pipeline",
            "workflow_id": self.job_id,
            "app_version": APPLICATION_VERSION,
            "priority": self.priority,
        }
        if self.delay_s > 0:
            options["delay_seconds"] = self.delay_s
        return options


def route_job(version_id: str, again: str = "", turn: int = 0, delay_s: float = 0.0) -> Job:
    """Find out which models want a version of a series; `again` makes it another job for the same version."""
    job_id = _job_id("route", version_id, again or (f"turn {turn}" if turn else ""))
    return Job(Queue.ROUTE, "route_series", job_id, (version_id, turn), delay_s=delay_s)


def segment_job(
    order_id: str, attempt: int, priority: int, *, postponed: int = 0, delay_s: float = 0.0, again: str = ""
) -> Job:
    """Carry out an order; `attempt` counts a person's retries, `postponed` the node's own."""
    job_id = _job_id("segment", f"{order_id}/{attempt}/{postponed}", again)
    return Job(Queue.SEGMENT, "segment_series", job_id, (order_id, attempt, postponed, priority), priority, delay_s)


def delivery_job(sop_instance_uid: str, destination: str, turn: tuple[int, int], delay_s: float = 0.0) -> Job:
    """Take a delivery one step further; `turn` is (round, turn in the round)."""
    job_id = f"deliver/{sop_instance_uid}/{destination}/{turn[0]}/{turn[1]}"
    return Job(Queue.DELIVER, "deliver_result", job_id, (sop_instance_uid, destination, *turn), delay_s=delay_s)


def _job_id(kind: str, name: str, again: str) -> str:
    return f"{kind}/{name}" + (f"/{again}" if again else "")


def prepare(url: str, lock_dir: Path) -> None:
    """Create or upgrade the engine's tables; roles starting at once take turns."""
    lock_dir.mkdir(parents=True, exist_ok=True)
    with (lock_dir / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        DBOS.migrate(url)


def launch(url: str, executor_id: str, queues: Sequence[Queue]) -> None:
    """Serve the queues in this process, after taking up what an earlier one of the same id left unfinished."""
    logging.getLogger("dbos").setLevel(logging.WARNING)
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": url,
        "executor_id": executor_id,
        "application_version": APPLICATION_VERSION,
        "log_level": "WARNING",
        "run_migrations": False,
        "scheduler_polling_interval_sec": 3600.0,
    }
    DBOS(config=config)
    _through_our_log()
    DBOS.listen_queues(list(queues))
    DBOS.launch()
    for queue in queues:
        DBOS.register_queue(queue, worker_concurrency=CONCURRENCY[queue], polling_interval_sec=POLLING_S)


def _through_our_log() -> None:
    """DBOS brings a handler of its own, whose lines are no JSON."""
    logger = logging.getLogger("dbos")
    logger.handlers.clear()
    logger.propagate = True


def stop(wait_s: int) -> None:
    """Take no more jobs and give running ones `wait_s` to finish; the rest is taken up at the next launch."""
    DBOS.destroy(workflow_completion_timeout_sec=wait_s)


def enqueue(job: Job) -> None:
    """Put a job on its queue from inside a workflow."""
    DBOS.enqueue_workflow_with_options(job.options(), *job.arguments)


class WorkClient:
    """Puts jobs on queues from a process that serves none."""

    def __init__(self, url: str) -> None:
        self._client = DBOSClient(system_database_url=url, application_name=APPLICATION, retry_connection_errors=False)

    def enqueue(self, job: Job) -> None:
        """Put a job on its queue."""
        with _answering():
            self._client.enqueue(job.options(), *job.arguments)

    def lost(self, queue: Queue) -> list[tuple[str, str]]:
        """Jobs of a queue that the engine gave up on: (job id, why); the node parks their orders."""
        states = ["MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ERROR"]
        with _answering():
            found = self._client.list_workflows(
                status=states, queue_name=queue, load_input=False, load_output=False, limit=1000, sort_desc=True
            )
        return [(w.workflow_id, w.status) for w in found]

    def live(self, queue: Queue) -> list[str]:
        """The ids of all jobs of a queue that wait or run."""
        states = ["ENQUEUED", "DELAYED", "PENDING"]
        with _answering():
            found = self._client.list_workflows(status=states, queue_name=queue, load_input=False, load_output=False)
        return [w.workflow_id for w in found]

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()


@contextmanager
def _answering() -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, dbos_error.DBOSException) as error:
        raise Unavailable(f"the durable engine's database does not answer ({type(error).__name__})") from error
