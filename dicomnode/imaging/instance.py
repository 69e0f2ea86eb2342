"""What was received: one SOP instance on disk, and all instances of one series."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dicomnode.imaging.uids import is_acceptable_uid


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance in a file of the node; `sha256` is the digest of the whole file."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    path: Path
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        for uid in (self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid):
            if not is_acceptable_uid(uid):
                message = f"expected a UID of digits and dots with at most 64 characters, found {uid[:80]!r}"
                raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Series:
    """All instances of one Series Instance UID at one moment, in the order of their SOP Instance UIDs.

    The instances may still contradict each other (two contents under one UID, two studies): saying so is
    the geometry gate's office, which needs them side by side.
    """

    series_instance_uid: str
    instances: tuple[Instance, ...]

    def __post_init__(self) -> None:
        if not self.instances:
            raise ValueError("expected at least one instance in a series, found none")
        others = {i.series_instance_uid for i in self.instances} - {self.series_instance_uid}
        if others:
            message = f"expected instances of series {self.series_instance_uid} only, found also {sorted(others)}"
            raise ValueError(message)
        ordered = tuple(sorted(self.instances, key=lambda i: (i.sop_instance_uid, i.sha256)))
        object.__setattr__(self, "instances", ordered)

    @property
    def content(self) -> str:
        """SHA-256 over every instance's UID and bytes: changes when a slice is added, removed or altered."""
        digest = hashlib.sha256()
        for instance in self.instances:
            digest.update(f"{instance.sop_instance_uid} {instance.sha256}\n".encode())
        return digest.hexdigest()
