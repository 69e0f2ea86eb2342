"""DICOM files on disk as a sender sees them: what they are and how they are encoded, never what they show."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.errors import NodeError, Unavailable

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_MAGIC_OFFSET = 128
CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)  # one may be sent as the other
UNCOMPRESSED = (*CONVERTIBLE, ExplicitVRBigEndian)


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One file and its meta information (PS3.10 7.1)."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def kind(self) -> tuple[str, str]:
        """SOP class and transfer syntax: what a presentation context is negotiated for."""
        return self.sop_class_uid, self.transfer_syntax_uid

    @property
    def kind_in_words(self) -> str:
        """`kind` with the standard's names."""
        return f"{UID(self.sop_class_uid).name} in {UID(self.transfer_syntax_uid).name}"


def read_dicom_file(path: Path) -> DicomFile:
    """The file's meta information; the data set is not read.

    Raises:
        NodeError: not a DICOM file, or one without meta information.
        Unavailable: it cannot be read now.
    """
    try:
        meta = read_file_meta_info(path)
        return DicomFile(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read ({error.strerror})") from error
    except (InvalidDicomError, AttributeError, ValueError, EOFError, NotImplementedError) as error:
        # What pydicom raises on files that are something else, or that end within the meta information.
        raise NodeError(f"{path}: expected a DICOM file with meta information, found something else") from error


def find_dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The DICOM instances among `paths` and everything below them, sorted; other files are left out.

    Raises:
        Unavailable: a path does not exist or cannot be read.
    """
    return sorted({file for path in paths for file in _files_below(path) if _is_instance(file)})


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _is_instance(path: Path) -> bool:
    if not _has_magic(path):
        return False
    try:
        return read_dicom_file(path).sop_class_uid != _MEDIA_STORAGE_DIRECTORY
    except Unavailable:
        raise
    except NodeError:
        return False


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_OFFSET + 4)[_MAGIC_OFFSET:] == b"DICM"
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read ({error.strerror})") from error
