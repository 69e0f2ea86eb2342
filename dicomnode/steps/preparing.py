"""While a series still comes in: its compressed slices are decoded already, a batch at a time.

JPEG 2000 takes 20 ms per slice whatever the decoder; a network that brings 50 slices a second leaves one core the time
for it. What is not ready when the series is complete, `assemble` decodes itself; it waits for one batch at most, and
nothing is lost when it fails.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dicomnode.assembly.prepared import PreparedSlices
from dicomnode.assembly.syntaxes import COMPRESSED
from dicomnode.errors import NodeError
from dicomnode.ledger.received import Received
from dicomnode.log import Log

log = Log("prepare")

LOOK_S = 0.25
PAUSE_S = 5.0  # after a failure of disk or ledger
STOP_S = 2.0
TIDY = timedelta(seconds=60)
BATCH = 64  # slices at once; a series that is complete waits for the end of a batch at most
WORTH_IT = 32  # starting the processes costs as much as a dozen slices
AT_REST = timedelta(seconds=0.3)  # fewer are worth it when no more come
ARRIVING = timedelta(seconds=60)  # what came earlier and is still open can wait
MOST = 1000  # instances looked at in one turn


@dataclass(slots=True)
class Preparing:
    """Decodes ahead what is arriving."""

    received: Received
    prepared: PreparedSlices
    clock: Callable[[], datetime]
    _tried: set[str] = field(default_factory=set[str])  # SHA-256 of instances of the latest look

    def turn(self) -> int:
        """Look at what has arrived since, and decode a batch of it if that is worth starting; how many slices."""
        at = self.clock()
        arriving = self.received.arriving(COMPRESSED, at - ARRIVING, MOST)
        self._tried &= {instance.sha256 for instance, _ in arriving}
        fresh = [(i, came) for i, came in arriving if i.sha256 not in self._tried and not self.prepared.has(i)]
        if not fresh or (len(fresh) < WORTH_IT and at - fresh[-1][1] < AT_REST):
            return 0
        batch = [instance for instance, _ in fresh[:BATCH]]
        made = self.prepared.prepare(batch)
        if made is not None:  # else a series is being assembled just now
            self._tried |= {instance.sha256 for instance in batch}
        return made or 0

    @contextmanager
    def going_on(self) -> Generator[None]:
        """Take turns in a thread of its own as long as the context lasts."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="prepare", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(STOP_S)  # a batch that takes longer dies with the process, and is decoded again
            self._forget_all()

    def _forget_all(self) -> None:
        """A node that stands still keeps no pixels that nobody will ask for."""
        try:
            self.prepared.forget_all()
        except NodeError as error:
            log.warning("slices that were decoded ahead could not be removed", why=str(error))

    def _run(self, stop: threading.Event) -> None:
        try:
            self._take_turns(stop)
        finally:
            if not stop.is_set():  # a defect; the node goes on, and decodes when a series is complete
                log.error("slices are decoded ahead no more", traceback=True)

    def _take_turns(self, stop: threading.Event) -> None:
        pause_s, tidied = 0.0, None
        while not stop.wait(pause_s):
            try:
                at = self.clock()
                if tidied is None or at - tidied >= TIDY:
                    self.prepared.forget_old()
                    tidied = at
                pause_s = 0.0 if self.turn() else LOOK_S
            except (NodeError, MemoryError) as error:
                pause_s = PAUSE_S
                log.warning("slices could not be decoded ahead", why=str(error) or type(error).__name__)
