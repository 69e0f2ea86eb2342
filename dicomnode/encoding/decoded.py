"""Read the bytes of a written SEG back, sharing nothing with the code that wrote them.

pydicom parses the header, `frame_groups` what each frame says; the pixels are unpacked here, one frame at a time.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicomnode.encoding.damage import UNPARSEABLE
from dicomnode.encoding.frame_groups import DecodedFrame, frame_of
from dicomnode.encoding.strict import Malformed
from dicomnode.errors import ResultMismatch

PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag (7FE0,0010) in little endian


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSeg:
    """A SEG file that is open: its header, and its frames on request."""

    header: Dataset
    file: BinaryIO
    pixels_at: int  # offset of the pixel data's value in the file
    pixel_bytes: int  # length of that value as the file states it

    def frames(self) -> list[DecodedFrame]:
        """Every frame in the order of the file, read by pydicom, however it was written."""
        return [frame_of(item) for item in self.header.get("PerFrameFunctionalGroupsSequence") or []]

    def sequence_bytes(self, *path: int) -> bytes:
        """The bytes of a sequence's items: its tag, after the tags of the sequences in whose first item it stands.

        Raises:
            Malformed: it is not a sequence of defined length in Explicit VR.
        """
        *outer, tag = path
        dataset = reduce(lambda within, step: within[step].value[0], outer, self.header)
        element = dataset.get_item(tag) if tag in dataset else None
        if not isinstance(element, RawDataElement) or element.VR != "SQ" or element.is_implicit_VR:
            raise Malformed(f"expected a sequence of defined length in ({tag:08X}), found none")
        return element.value or b""

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
