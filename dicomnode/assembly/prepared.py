"""Slices that were decoded ahead of need: raw words in files, each named after the SHA-256 of its instance's bytes.

A cache and nothing more: whoever does not find a slice here decodes it. A file holds a digest of its name, its matrix
and its words; one that does not fit, because it was torn, altered or renamed, is as good as none. Its bytes and its
age are bounded, so the pixels of a patient do not stay behind.
"""

import hashlib
import mmap
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from dicomnode.assembly.decode_pool import CodedSlice, DecodingLimits, decode_slices
from dicomnode.assembly.headers import HeaderProblem, SliceHeader, read_header
from dicomnode.assembly.syntaxes import COMPRESSED
from dicomnode.errors import Unavailable, UnusableSeries
from dicomnode.imaging import Instance

Words = NDArray[np.uint16]  # [row, column], stored values as 16-bit patterns

MAX_PIXELS = 2048 * 2048  # per slice; what is larger is rare, and the gate should see it first
_DIGEST_BYTES = 32
MAX_BATCH_BYTES = 64 << 20  # of memory while a batch is decoded
_LOCK_S = 2.0  # the longest that a batch of another series may hold up an assembly


@dataclass(frozen=True, slots=True)
class PreparedBounds:
    """What the cache may take."""

    max_bytes: int = 2 << 30  # a dozen series of 300 slices
    max_age_s: float = 600.0  # a series that is not assembled by then waits behind many others
    min_free_bytes: int = 0  # of the disk: what comes in goes first


@dataclass(frozen=True, slots=True)
class PreparedSlices:
    """The cache under `folder`; one process fills it and reads it, in any of its threads."""

    folder: Path
    bounds: PreparedBounds = field(default_factory=PreparedBounds)
    _batch: Lock = field(default_factory=Lock, repr=False, compare=False)

    def read_into(self, header: SliceHeader, words: Words) -> bool:
        """Fill `words` with the slice if it is here and whole; False otherwise."""
        if not _can_be_prepared(header):
            return False
        try:
            with self._path(header).open("rb") as file:
                digest = file.read(_DIGEST_BYTES)
                found = file.readinto(words.data.cast("B"))
        except OSError:  # not here, or gone meanwhile
            return False
        return found == words.nbytes and digest == _digest(header, words.data.cast("B"))

    def has(self, instance: Instance) -> bool:
        """Whether a slice of this instance is here, whole or not."""
        return (self.folder / f"{instance.sha256}.words").exists()

    @contextmanager
    def at_rest(self) -> Generator[None]:
        """Let the batch that is being decoded end and none begin: it would be decoded twice, and for the same cores."""
        is_held = self._batch.acquire(timeout=_LOCK_S)
        try:
            yield
        finally:
            if is_held:
                self._batch.release()

    def prepare(self, instances: Sequence[Instance], limits: DecodingLimits | None = None) -> int | None:
        """Decode what can be of these instances and keep it; how many slices that was, None while `at_rest`.

        A batch with a damaged slice is left alone: the verdict about it belongs to the series.

        Raises:
            Unavailable: memory or disk does not take them.
        """
        headers = _batch_of(instances)
        room = sum(_size(header) for header in headers)
        if not headers or not self._make_room(room):
            return 0
        if not self._batch.acquire(blocking=False):
            return None
        try:
            self._decode_and_keep(headers, room, limits)
        except UnusableSeries:
            return 0
        except OSError as error:
            raise Unavailable(f"{self.folder}: slices cannot be kept there ({error.strerror})") from error
        finally:
            self._batch.release()
        return len(headers)

    def forget_old(self) -> None:
        """Remove what is older than the bound, and what a killed process left half written."""
        self._make_room(0)

    def forget_all(self) -> None:
        """Remove everything.

        Raises:
            Unavailable: the disk does not let it go.
        """
        try:
            for path in self.folder.iterdir() if self.folder.exists() else ():
                path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{self.folder}: cannot be emptied ({error.strerror})") from error

    def _decode_and_keep(self, headers: Sequence[SliceHeader], room: int, limits: DecodingLimits | None) -> None:
        offsets = np.cumsum([0, *(_size(header) for header in headers)]).tolist()
        output = os.memfd_create("slices-decoded-ahead")
        try:
            os.ftruncate(output, room)
            decode_slices([CodedSlice(*pair) for pair in zip(headers, offsets, strict=False)], output, limits)
            with mmap.mmap(output, room) as decoded:
                for header, start in zip(headers, offsets, strict=False):
                    self._keep(header, decoded[start : start + _size(header)])
        finally:
            os.close(output)

    def _keep(self, header: SliceHeader, words: bytes) -> None:
        """No fsync: after a crash the digest tells what is whole."""
        target = self._path(header)
        part = target.with_suffix(".part")
        with part.open("wb") as file:
            file.write(_digest(header, words))
            file.write(words)
        part.replace(target)

    def _make_room(self, room: int) -> bool:
        """Whether so many bytes more fit, after the old ones are gone and then the oldest."""
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            files = sorted((status.st_mtime, status.st_size, path) for path, status in self._files())
            oldest = time.time() - self.bounds.max_age_s
            total = room + sum(size for _, size, _ in files)
            for modified, size, path in files:
                if modified >= oldest and total <= self.bounds.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
            disk = os.statvfs(self.folder)
        except OSError as error:
            raise Unavailable(f"{self.folder}: cannot be used ({error.strerror})") from error
        return total <= self.bounds.max_bytes and disk.f_bavail * disk.f_frsize - room >= self.bounds.min_free_bytes

    def _files(self) -> Generator[tuple[Path, os.stat_result]]:
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                yield path, path.stat()

    def _path(self, header: SliceHeader) -> Path:
        return self.folder / f"{header.instance.sha256}.words"


def _batch_of(instances: Sequence[Instance]) -> list[SliceHeader]:
    """As many slices as may be decoded at once."""
    headers: list[SliceHeader] = []
    room = 0
    for header in (header for instance in instances for header in _slices_of(instance)):
        room += _size(header)
        if room > MAX_BATCH_BYTES:
            break
        headers.append(header)
    return headers


def _slices_of(instance: Instance) -> list[SliceHeader]:
    """The one slice of an instance that is worth preparing; what is odd about others, the gate says later."""
    try:
        found = read_header(instance).slices
    except (HeaderProblem, Unavailable):
        return []
    return [header for header in found if _can_be_prepared(header)]


def _can_be_prepared(header: SliceHeader) -> bool:
    """Single-frame, grey, compressed, whole, and of a usual size."""
    layout = header.layout
    return (
        layout.transfer_syntax_uid in COMPRESSED
        and (header.frame_number, layout.frames, layout.samples) == (None, 1, 1)
        and layout.bits_allocated in (8, 16)
        and 0 < layout.rows * layout.columns <= MAX_PIXELS
        and not layout.shortage()
    )


def _size(header: SliceHeader) -> int:
    return 2 * header.layout.rows * header.layout.columns


def _digest(header: SliceHeader, words: bytes | memoryview) -> bytes:
    layout = header.layout
    digest = hashlib.sha256(f"{header.instance.sha256} {layout.rows} {layout.columns} ".encode())
    digest.update(words)
    return digest.digest()
