"""One structured line per event on standard error; the audit trail is a separate thing (see `audit/`)."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime


class _JsonLine(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Log:
    """Named events with identifiers: `log.info("series complete", series=uid, instances=78)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"dicomnode.{name}")

    def info(self, event: str, **fields: object) -> None:
        """Record something that went as it should."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Record something an administrator may want to look at."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, traceback: bool = False, **fields: object) -> None:
        """Record something that failed; `traceback` adds the exception being handled."""
        self._logger.error(event, extra={"fields": fields}, exc_info=traceback)


def log_to_stderr(level: str, role: str) -> None:
    """Send the node's events to standard error as JSON lines and keep libraries to their errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dicomnode").setLevel(level)
    silence_patient_values()


def silence_patient_values() -> None:
    """Keep pydicom from quoting header values, a patient's name perhaps, in its warnings about them."""
    # A filter, not a level: pydicom sets its logger's level when it is imported.
    logging.getLogger("pydicom").addFilter(lambda _record: False)
    warnings.simplefilter("ignore", UserWarning)  # the category it uses, whatever module it blames
