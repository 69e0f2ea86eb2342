"""What an importer makes of a folder or file: the manifest of a package and the files beside it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.models.manifest import Manifest


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A package before it is written: `models.writing` puts it into the store."""

    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)  # by name, as the manifest's digests name them
    notes: tuple[str, ...] = ()  # sentences for the person who imports: what was taken for granted


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
