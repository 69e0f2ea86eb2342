"""What a .zip says of its members, asked before one is unpacked: a small file can hold more than a disk takes."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

_MOST_TIMES = 100  # that a member grows: weights do not even halve, and configs are a tenth
_NEVER_MIND_BYTES = 64 << 20


def require_sound(members: Iterable[zipfile.ZipInfo], most_bytes: int, home: Path | None = None) -> None:
    """Return if these members of an archive may be unpacked, together, into the folder `home`, or into memory.

    Raises:
        ValueError: they are too large, or grow as nothing but a trap does.
    """
    total = 0
    for member in members:
        total += member.file_size
        if member.file_size > max(_NEVER_MIND_BYTES, _MOST_TIMES * member.compress_size):
            said = f"{member.file_size} bytes packed into {member.compress_size}"
            raise ValueError(f"expected at most {_MOST_TIMES} times the bytes of the archive, found {said}")
    if total > most_bytes:
        raise ValueError(f"expected at most {most_bytes} bytes, found {total}")
    if home is not None and total > (free := shutil.disk_usage(home).free):
        raise ValueError(f"expected at most the {free} bytes that are free at {home}, found {total}")
