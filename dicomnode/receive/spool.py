"""The spool: every instance that was acknowledged, as a file; the journal from which the index can be rebuilt.

    incoming/                                  what is being received; nobody else reads it
    series/<series>/<instance>-<content>.dcm   what was acknowledged: whole, synced, never changed

Names are cut SHA-256 digests: of the Series Instance UID, the SOP Instance UID and the file's bytes. No text of a
peer becomes part of a path, two contents under one UID lie side by side, and the same content is one file.
"""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from dicomnode.errors import Refused, Unavailable
from dicomnode.imaging import is_acceptable_uid
from dicomnode.ledger.records import ReceivedInstance
from dicomnode.log import Log
from dicomnode.receive.dimse import Status
from dicomnode.receive.elements import UnreadableDataSet
from dicomnode.receive.identity import PREFIX_BYTES, InstanceIdentity, read_identity
from dicomnode.receive.part10 import MAX_META_BYTES, FileMeta, encode_file_head, parse_file_head

_log = Log("receive.spool")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_BYTES = 1 << 20
_MAX_REMEMBERED_FOLDERS = 4096


class Spool:
    """Keeps received instances under `root`; refuses new ones while fewer than `min_free_bytes` are free."""

    def __init__(self, root: Path, min_free_bytes: int) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._series = root / "series"
        self._min_free_bytes = min_free_bytes
        self._durable_folders: set[Path] = set()
        self._folders = Lock()

    @property
    def root(self) -> Path:
        """The folder that paths of `ReceivedInstance` are relative to."""
        return self._root

    def prepare(self) -> int:
        """Make the folders and remove what a killed listener left half received; returns how many files that was.

        Raises:
            Unavailable: the folders cannot be made or read.
        """
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._series.mkdir(exist_ok=True)
            sync_folder(self._root)
            return sum(_remove_if_abandoned(path) for path in self._incoming.iterdir())
        except OSError as error:
            raise Unavailable(f"expected to write in {self._root}, found: {error.strerror}") from error

    def begin(self, meta: FileMeta) -> "IncomingInstance":
        """Start to receive one instance.

        Raises:
            Refused: its UIDs are not acceptable, or the disk is too full.
        """
        if not (is_acceptable_uid(meta.sop_instance_uid) and is_acceptable_uid(meta.sop_class_uid)):
            raise Refused("UIDs of digits and dots expected", Status.CANNOT_UNDERSTAND)
        try:
            self._require_space()
            return IncomingInstance(self, self._incoming / f"{secrets.token_hex(16)}.part", meta)
        except OSError as error:
            raise refusal_of(error) from error

    def _require_space(self) -> None:
        disk = os.statvfs(self._incoming)
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < self._min_free_bytes:
            _log.warning("disk too full", free_bytes=free_bytes, min_free_bytes=self._min_free_bytes)
            raise Refused("disk too full, try later", Status.OUT_OF_RESOURCES)

    def keep(self, part: Path, series_instance_uid: str, sop_instance_uid: str, sha256: str) -> Path:
        """Give a synced file its place, durably; returns its path relative to the root. Same content: one file."""
        folder = self._series / _digest(series_instance_uid)
        target = folder / f"{_digest(sop_instance_uid)}-{sha256[:16]}.dcm"
        self._make_durable(folder)
        if target.exists():
            part.unlink()
        else:
            self._rename(part, target)
        sync_folder(folder)  # also for what was there: the other receiver may not have come so far yet
        return target.relative_to(self._root)

    def _rename(self, part: Path, target: Path) -> None:
        try:
            part.rename(target)
        except FileNotFoundError:  # the series was purged since its folder was made
            with self._folders:
                self._durable_folders.discard(target.parent)
            self._make_durable(target.parent)
            part.rename(target)

    def _make_durable(self, folder: Path) -> None:
        with self._folders:
            if folder in self._durable_folders:
                return
            folder.mkdir(exist_ok=True)
            sync_folder(self._series)
            if len(self._durable_folders) >= _MAX_REMEMBERED_FOLDERS:
                self._durable_folders.clear()
            self._durable_folders.add(folder)

    def walk(self, known: Collection[Path] = ()) -> Iterator[ReceivedInstance]:
        """Read back every kept instance whose path (relative to the root) is not in `known`; after `prepare`.

        The sender is not on disk: `calling_ae_title` is empty, and `received_at` is the file's time. A file that
        does not hold what its name promises is named in the log and left alone.
        """
        for folder in sorted(self._series.iterdir()):
            for path in sorted(folder.glob("*.dcm")):
                if path.relative_to(self._root) in known:
                    continue
                try:
                    yield self._read_back(path)
                except (UnreadableDataSet, OSError) as error:
                    _log.error("file in the spool cannot be indexed", file=path.name, reason=str(error))

    def _read_back(self, path: Path) -> ReceivedInstance:
        with path.open("rb") as file:
            head = memoryview(file.read(MAX_META_BYTES + PREFIX_BYTES))
            meta, start = parse_file_head(head)
            identity = read_identity(head[start:], meta.transfer_syntax_uid)
            sha256 = hashlib.sha256(head)
            while piece := file.read(_READ_BYTES):
                sha256.update(piece)
            status = os.fstat(file.fileno())
        if path.stem != f"{_digest(identity.sop_instance_uid)}-{sha256.hexdigest()[:16]}":
            raise UnreadableDataSet(f"expected the content its name tells, found digest {sha256.hexdigest()[:16]}")
        return ReceivedInstance(
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            series_instance_uid=identity.series_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            path=path.relative_to(self._root),
            sha256=sha256.hexdigest(),
            size_bytes=status.st_size,
            received_at=datetime.fromtimestamp(status.st_mtime, UTC),
            calling_ae_title="",
        )


class IncomingInstance:
    """One instance on its way to the spool: written as it comes, hashed on the way, its head remembered."""

    def __init__(self, spool: Spool, part: Path, meta: FileMeta) -> None:
        self._spool = spool
        self._part = part
        self._meta = meta
        self._prefix = bytearray()
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # tells a starting listener that this one is alive
            self._append(memoryview(encode_file_head(meta)))
        except OSError:
            self.discard()
            raise

    def write(self, fragment: memoryview) -> None:
        """Append the next bytes of the data set.

        Raises:
            Refused: the disk does not take them; nothing of the instance is left.
        """
        room = PREFIX_BYTES - len(self._prefix)
        if room > 0:
            self._prefix += fragment[:room]
        try:
            self._append(fragment)
        except OSError as error:
            self.discard()
            raise refusal_of(error) from error

    def _append(self, fragment: memoryview) -> None:
        self._sha256.update(fragment)
        self._size_bytes += len(fragment)
        while fragment:
            fragment = fragment[os.write(self._fd, fragment) :]

    def keep(self, received_at: datetime, calling_ae_title: str) -> ReceivedInstance:
        """Check the instance's identity and make it durable: after this it may be acknowledged.

        Raises:
            Refused: the data set is unreadable or contradicts the command set, or the disk does not take it;
                nothing of it is left.
        """
        try:
            identity = self._identity()
            os.fsync(self._fd)
            path = self._spool.keep(
                self._part, identity.series_instance_uid, identity.sop_instance_uid, self._sha256.hexdigest()
            )
        except OSError as error:
            raise refusal_of(error) from error
        finally:
            self.discard()
        return ReceivedInstance(
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            series_instance_uid=identity.series_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            transfer_syntax_uid=self._meta.transfer_syntax_uid,
            path=path,
            sha256=self._sha256.hexdigest(),
            size_bytes=self._size_bytes,
            received_at=received_at,
            calling_ae_title=calling_ae_title,
        )

    def _identity(self) -> InstanceIdentity:
        prefix = memoryview(self._prefix)
        try:
            identity = read_identity(prefix, self._meta.transfer_syntax_uid)
        except UnreadableDataSet as error:
            raise Refused(str(error), Status.CANNOT_UNDERSTAND) from error
        if identity.sop_instance_uid != self._meta.sop_instance_uid:
            raise Refused("SOP Instance UID differs from the command's", Status.DATA_SET_MISMATCH)
        if identity.sop_class_uid != self._meta.sop_class_uid:
            raise Refused("SOP Class UID differs from the command's", Status.DATA_SET_MISMATCH)
        return identity

    def discard(self) -> None:
        """Remove what was written, unless it has been kept; doing it again changes nothing."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        with suppress(OSError):  # kept: renamed away; or the disk is gone, and `prepare` removes it later
            self._part.unlink()


def refusal_of(error: OSError) -> Refused:
    """The answer to a sender when the disk said no: full means try later, everything else is a failure."""
    if error.errno in _FULL:
        _log.warning("disk full", error=error.strerror)
        return Refused("disk full, try later", Status.OUT_OF_RESOURCES)
    _log.error("spool cannot be written", error=error.strerror)
    return Refused("cannot be stored now", Status.PROCESSING_FAILURE)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_abandoned(part: Path) -> bool:
    with suppress(FileNotFoundError), part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another listener on this spool is receiving it
            return False
        part.unlink()
        return True
    return False


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:32]
