"""How `assemble` hands a volume to `infer`: in memory, since to read the series again is cheaper than a disk copy."""

from dataclasses import dataclass, field
from threading import Lock

from dicomnode.imaging import Volume

Assembled = tuple[Volume, str]  # and its modality


@dataclass(slots=True)
class Handover:
    """Room for the volume of one order; a worker carries out one order at a time.

    It is empty after a restart of the process: whoever takes assembles again then, from the same files.
    """

    _left: dict[str, Assembled] = field(default_factory=dict[str, Assembled])
    _lock: Lock = field(default_factory=Lock)

    def leave(self, order_id: str, assembled: Assembled) -> None:
        """Leave the volume of an order, in the place of whatever was there."""
        with self._lock:
            self._left = {order_id: assembled}

    def take(self, order_id: str) -> Assembled | None:
        """The volume of this order, which is no longer kept here; None when another order's or none is."""
        with self._lock:
            return self._left.pop(order_id, None)

    def clear(self) -> None:
        """Give the memory back: the order goes no further for now."""
        with self._lock:
            self._left = {}
