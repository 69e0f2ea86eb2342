"""A step that hangs is ended with its process; the supervisor starts another, and the job comes back."""

import os
import threading
from dataclasses import dataclass, field

from dicomnode.log import Log

HUNG_EXIT_CODE = 70
LOST_EXIT_CODE = 71
log = Log("deadline")


@dataclass(slots=True)
class Deadline:
    """Ends this process when what it guards takes longer than `seconds`.

    A thread stuck in a driver cannot be stopped in any other way; everything that matters is on disk.
    """

    seconds: float
    _timer: threading.Timer | None = field(default=None, init=False)

    def __enter__(self) -> None:
        self._timer = threading.Timer(self.seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        log.error("deadline passed, ending this process", deadline_s=self.seconds)
        os._exit(HUNG_EXIT_CODE)


def end_soon(why: str, delay_s: float = 2.0) -> None:
    """End this process shortly; what is running by then comes back in the next one."""
    log.error("ending this process", why=why)
    timer = threading.Timer(delay_s, os._exit, [LOST_EXIT_CODE])
    timer.daemon = True
    timer.start()
