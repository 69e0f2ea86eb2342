"""A folder as destination: `<path>/<study UID>/<series UID>/<SOP instance UID>.dcm`, each file whole or absent."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicomnode.destinations.port import Outcome, Stored
from dicomnode.errors import DestinationRefused, NodeError, Unavailable
from dicomnode.imaging import is_acceptable_uid
from dicomnode.ledger.records import CommitmentReport, Rung

_NO_SUCH_INSTANCE = 0x0112  # PS3.3 C.14.1.1: failure reason
_TAGS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


@dataclass(frozen=True, slots=True)
class Folder:
    """A local or mounted folder."""

    path: Path

    store_reaches = Rung.RETRIEVABLE  # every file is read back and compared
    goal = Rung.RETRIEVABLE

    def store(self, paths: Sequence[Path]) -> tuple[Stored, ...]:
        """Copy every file and read it back; a file that is there already with the same bytes stays.

        Raises:
            Unavailable: a folder cannot be made or written, the disk is full, or reading back differs.
            DestinationRefused: a file's UIDs cannot be names.
            NodeError: a path is not a DICOM file.
        """
        named = [(path, _names(path)) for path in paths]
        return tuple(self._store(path, names) for path, names in named)

    def request_commitment(
        self,
        transaction_uid: str,
        references: Sequence[tuple[str, str]],
        wait_s: float,  # noqa: ARG002  a folder answers at once
    ) -> CommitmentReport | None:
        """Which of the referenced instances lie in the folder."""
        uids = [sop_instance_uid for _, sop_instance_uid in references]
        return CommitmentReport(
            transaction_uid,
            tuple(uid for uid in uids if self._has(uid)),
            tuple((uid, _NO_SUCH_INSTANCE) for uid in uids if not self._has(uid)),
        )

    def _has(self, sop_instance_uid: str) -> bool:
        return is_acceptable_uid(sop_instance_uid) and any(self.path.glob(f"*/*/{sop_instance_uid}.dcm"))

    def _store(self, source: Path, names: tuple[str, str, str]) -> Stored:
        study, series, instance = names
        target = self.path / study / series / f"{instance}.dcm"
        try:
            content = source.read_bytes()
            before = target.read_bytes() if target.exists() else None
            if before != content:
                write_atomically(target, content)
            if target.read_bytes() != content:
                raise Unavailable(f"{target}: what was read back is not what was written")
        except OSError as error:
            raise Unavailable(f"{target}: cannot be written ({error.strerror})") from error
        sentence = "stored" if before is None else "was there already" if before == content else "replaced"
        return Stored(instance, Outcome.STORED, None, sentence)


def write_atomically(target: Path, content: bytes) -> None:
    """Write `content` so that `target` is whole or absent, also after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(target.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(source: Path) -> tuple[str, str, str]:
    """Study, series and instance UID, each fit to be a name."""
    try:
        header = dcmread(source, stop_before_pixels=True, specific_tags=list(_TAGS))
    except OSError as error:
        raise Unavailable(f"{source}: cannot be read ({error.strerror})") from error
    except (InvalidDicomError, ValueError, EOFError, NotImplementedError) as error:
        raise NodeError(f"{source}: expected a DICOM file, found something else") from error
    uids = [str(header.get(tag) or "") for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    for uid in uids:
        if not is_acceptable_uid(uid):
            raise DestinationRefused(f"{source.name}: expected UIDs of digits and dots, found {uid[:80]!r}")
    return uids[0], uids[1], uids[2]
