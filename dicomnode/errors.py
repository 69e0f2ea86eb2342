"""Every error the node raises on purpose; owners translate their library's exceptions into these.

Messages say what was expected, what was found and what to do, and never name a patient: they end up in
log files, job lists and e-mails that more people read than the images.
"""

from collections.abc import Sequence


class NodeError(Exception):
    """Something the node can name; `retryable` says whether the same step may succeed later unchanged."""

    retryable = False


class ConfigError(NodeError):
    """The configuration cannot be used; names file, key, what was expected and what was found."""


class Refused(NodeError):
    """A peer's request is answered with a failure status (PS3.7 annex C, PS3.4 table B.2-1)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, int]]:
        return Refused, (str(self), self.status)


class UnusableSeries(NodeError):
    """The series must not be segmented as it stands; `verdicts` say why, with numbers."""

    def __init__(self, verdicts: Sequence[object]) -> None:
        super().__init__("; ".join(str(verdict) for verdict in verdicts))
        self.verdicts = tuple(verdicts)

    def __reduce__(self) -> tuple[type["UnusableSeries"], tuple[tuple[object, ...]]]:
        return UnusableSeries, (self.verdicts,)


class ModelError(NodeError):
    """A model package is missing, altered, or cannot do what was asked of it."""


class NothingFound(NodeError):
    """The network found none of its structures; a valid outcome without a result object."""


class ResultMismatch(NodeError):
    """An encoded result does not say what the network said, or not of this patient; it must not leave."""


class DestinationRefused(NodeError):
    """A destination answered, and its answer was no."""


class Unavailable(NodeError):
    """Network, disk, memory or a peer is not there now; the same step may succeed later."""

    retryable = True


class DeviceLost(Unavailable):
    """The GPU is in a state that only another process gets it out of; this one must end."""
