"""Read the bytes of a written SEG back, sharing nothing with the code that wrote them.

pydicom parses the header; the pixels are unpacked here, one frame at a time.
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from dicomnode.errors import ResultMismatch

# pydicom answers a missing or malformed attribute with any of these.
UNPARSEABLE = (
    *(InvalidDicomError, BytesLengthException, struct.error, EOFError, NotImplementedError),
    *(AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError),
)
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag (7FE0,0010) in little endian


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """What one frame says of itself."""

    segment_number: int
    source_class_uid: str
    source_uid: str
    source_frame: int | None
    pixels_match_source: bool  # Spatial Locations Preserved
    dimension_indices: tuple[int, ...]
    position_mm: tuple[float, ...]  # LPS
    groups: Dataset  # its own functional groups

    @property
    def source(self) -> tuple[str, str, int | None]:
        """SOP class, SOP instance and frame of the source slice it says it was made from."""
        return self.source_class_uid, self.source_uid, self.source_frame


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSeg:
    """A SEG file that is open: its header, and its frames on request."""

    header: Dataset
    file: BinaryIO
    pixels_at: int  # offset of the pixel data's value in the file
    pixel_bytes: int  # length of that value as the file states it

    def frames(self) -> list[DecodedFrame]:
        """Every frame in the order of the file."""
        return [_frame(item) for item in self.header.get("PerFrameFunctionalGroupsSequence") or []]

    def mask(self, frame_index: int) -> NDArray[np.bool_]:
        """The pixels `[row, column]` of one frame, 0-based; bits run on from frame to frame (PS3.5 8.1.1)."""
        rows, columns = int(self.header.Rows), int(self.header.Columns)
        first_bit = frame_index * rows * columns
        self.file.seek(self.pixels_at + first_bit // 8)
        bits = np.unpackbits(
            np.frombuffer(self.file.read((first_bit % 8 + rows * columns + 7) // 8), np.uint8), bitorder="little"
        )
        return bits[first_bit % 8 :][: rows * columns].reshape(rows, columns).view(np.bool_)


@contextmanager
def opened_seg(path: Path) -> Generator[DecodedSeg]:
    """Open a SEG file and parse all but its pixels.

    Raises:
        ResultMismatch: it cannot be read, is not DICOM, or has no native pixel data at its end.
    """
    try:
        with path.open("rb") as file:
            yield _parse(file, path.stat().st_size)
    except OSError as problem:
        raise ResultMismatch(f"unreadable: the result cannot be read back: {problem.strerror}") from problem


def _parse(file: BinaryIO, file_bytes: int) -> DecodedSeg:
    try:
        header = dcmread(file, stop_before_pixels=True)
    except UNPARSEABLE as problem:
        raise ResultMismatch(f"unreadable: expected a DICOM file, found {type(problem).__name__}") from problem
    tag, _, length = file.read(4), file.read(4), int.from_bytes(file.read(4), "little")
    pixels_at = file.tell()
    if tag != PIXEL_DATA or file_bytes != pixels_at + length:
        raise ResultMismatch("unreadable: expected pixel data of the stated length at the end of the result")
    return DecodedSeg(header, file, pixels_at, length)


def _frame(item: Dataset) -> DecodedFrame:
    """Raises AttributeError, KeyError or IndexError when a functional group is missing."""
    source = item.DerivationImageSequence[0].SourceImageSequence[0]
    frame_number = source.get("ReferencedFrameNumber")
    return DecodedFrame(
        segment_number=int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
        source_class_uid=str(source.ReferencedSOPClassUID),
        source_uid=str(source.ReferencedSOPInstanceUID),
        source_frame=None if frame_number is None else int(frame_number),
        pixels_match_source=source.get("SpatialLocationsPreserved") == "YES",
        dimension_indices=tuple(int(v) for v in item.FrameContentSequence[0].DimensionIndexValues),
        position_mm=tuple(float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient),
        groups=item,
    )
