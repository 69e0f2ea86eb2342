"""DICOM in: the listener, the spool it fills, and the decision when a series is complete."""

from dicomnode.receive.completion import Asking, Completed, CompletionTracker
from dicomnode.receive.events import AssociationEnd, Events, Outcome, RejectedCall
from dicomnode.receive.listener import Listener
from dicomnode.receive.spool import Spool

__all__ = [
    "Asking",
    "AssociationEnd",
    "Completed",
    "CompletionTracker",
    "Events",
    "Listener",
    "Outcome",
    "RejectedCall",
    "Spool",
]
