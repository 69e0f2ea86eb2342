"""Where results go: an archive or a folder. A new kind is one file here and one line in `KINDS`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dicomnode.config import Config, Destination
from dicomnode.destinations.archive import Archive
from dicomnode.destinations.files import find_dicom_files
from dicomnode.destinations.folder import Folder
from dicomnode.destinations.port import DestinationPort, Outcome, Stored
from dicomnode.destinations.progress import (
    AskCommitment,
    Finished,
    GiveUp,
    Patience,
    Progress,
    Step,
    Store,
    WaitUntil,
    backoff_s,
    next_step,
)

__all__ = [
    "KINDS",
    "Archive",
    "AskCommitment",
    "DestinationPort",
    "Finished",
    "Folder",
    "GiveUp",
    "Outcome",
    "Patience",
    "Progress",
    "Step",
    "Store",
    "Stored",
    "WaitUntil",
    "backoff_s",
    "find_dicom_files",
    "next_step",
    "open_destination",
]


def _archive(config: Config, destination: Destination) -> DestinationPort:
    return Archive(destination, config.peer(destination.peer), config.node.ae_title)


def _folder(_config: Config, destination: Destination) -> DestinationPort:
    return Folder(destination.path or Path())


KINDS: Mapping[str, Callable[[Config, Destination], DestinationPort]] = {"archive": _archive, "folder": _folder}


def open_destination(config: Config, name: str) -> DestinationPort:
    """The destination that the configuration calls `name`; connects to nothing yet.

    Raises:
        ConfigError: no destination has that name.
    """
    destination = config.destination(name)
    return KINDS[destination.kind](config, destination)
