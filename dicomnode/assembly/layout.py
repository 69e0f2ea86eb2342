"""Where an instance's pixels lie in its file and how they are stored; found without reading them.

Owns the walk over encapsulated fragments (PS3.5 A.4): every fragment is seen to end inside the file, and to
belong to one frame, before anything is decoded.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from dicomnode.assembly.elements import Elements
from dicomnode.assembly.syntaxes import EXPLICIT_BIG_ENDIAN, NATIVE
from dicomnode.errors import Unavailable

Extent = tuple[int, int]  # where bytes begin in the file, how many

_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA, _ITEM = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0"
_PIXEL_DATA_BIG_ENDIAN = b"\x7f\xe0\x00\x10"
_MAX_FRAGMENTS = 1 << 16  # as many as frames would be plenty; a file of empty ones must not keep us busy
_STARTS_OF_IMAGE = (b"\xff\xd8", b"\xff\x4f")  # JPEG and JPEG-LS; JPEG 2000


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the pixels of one instance are stored (PS3.3 C.7.6.3) and where; sizes are as declared, 0 if absent."""

    transfer_syntax_uid: str
    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding_words: Extent | None  # first and last stored 16-bit word that means "no pixel" (C.7.5.1.1.2)
    native: Extent | None  # uncompressed pixels, cut at the end of the file
    frame_fragments: tuple[tuple[Extent, ...], ...]  # compressed: the fragments of each frame

    @property
    def voxels(self) -> int:
        """How many voxels the instance declares."""
        return self.frames * self.rows * self.columns

    @property
    def frame_bytes(self) -> int:
        """Size of one uncompressed frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def little_endian(self) -> bool:
        """Byte order of uncompressed pixels."""
        return self.transfer_syntax_uid != EXPLICIT_BIG_ENDIAN

    def extents(self, frame: int) -> tuple[Extent, ...]:
        """Where the bytes of one frame, counted from 0, lie in the file; none if they are not all there."""
        if self.native is None:
            return self.frame_fragments[frame] if frame < len(self.frame_fragments) else ()
        start = frame * self.frame_bytes
        return ((self.native[0] + start, self.frame_bytes),) if start + self.frame_bytes <= self.native[1] else ()

    def shortage(self) -> str:
        """What is missing of the pixels, as the end of a sentence; `""` if nothing is."""
        if self.native is not None:
            expected, found = self.frame_bytes * self.frames, self.native[1]
            return f"expected {expected} bytes of pixels, found {found}" if found < expected else ""
        if self.transfer_syntax_uid in NATIVE:
            return "expected pixel data, found none"
        found = len(self.frame_fragments)
        return f"expected {self.frames} complete compressed frames, found {found}" if found < self.frames else ""


@contextmanager
def named_if_unavailable(path: Path) -> Generator[None]:
    """Translate what the file system refuses; pydicom's own OSError about damage passes, asking again is no use.

    Raises:
        Unavailable: the file cannot be opened or read now.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise Unavailable(f"{path}: cannot be read ({error.strerror})") from error


def locate_pixels(file: BufferedReader, elements: Elements, syntax: str, *, implicit: bool) -> PixelLayout:
    """Describe the pixels; `file` stands at the Pixel Data element, or at its end if there is none.

    Raises:
        ValueError: an attribute is not a number, or there are too many fragments.
    """
    frames = max(1, int(elements.number("NumberOfFrames", 1)))
    bits_allocated = elements.unsigned("BitsAllocated") or 0
    bits_stored = elements.unsigned("BitsStored") or bits_allocated
    high_bit = elements.unsigned("HighBit")
    native, fragments = _locate(file, syntax, frames, implicit=implicit)
    return PixelLayout(
        transfer_syntax_uid=syntax,
        frames=frames,
        rows=elements.unsigned("Rows") or 0,
        columns=elements.unsigned("Columns") or 0,
        samples=elements.unsigned("SamplesPerPixel") or 1,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=bits_stored - 1 if high_bit is None else high_bit,
        signed=elements.unsigned("PixelRepresentation") == 1,
        padding_words=_padding(elements),
        native=native,
        frame_fragments=fragments,
    )


def _padding(elements: Elements) -> Extent | None:
    first = elements.unsigned("PixelPaddingValue")
    if first is None:
        return None
    limit = elements.unsigned("PixelPaddingRangeLimit")
    return first, first if limit is None else limit


def _locate(
    file: BufferedReader, syntax: str, frames: int, *, implicit: bool
) -> tuple[Extent | None, tuple[tuple[Extent, ...], ...]]:
    head = file.read(8 if implicit else 12)
    if len(head) < (8 if implicit else 12) or head[:4] not in (_PIXEL_DATA, _PIXEL_DATA_BIG_ENDIAN):
        return None, ()
    start = file.tell()
    length = int.from_bytes(head[-4:], "big" if syntax == EXPLICIT_BIG_ENDIAN else "little")
    if syntax not in NATIVE:
        return None, _frames_of(list(_fragments(file, start)), frames)
    if length == _UNDEFINED_LENGTH:
        return None, ()
    return (start, min(length, _size(file) - start)), ()


@dataclass(frozen=True, slots=True)
class _Fragment:
    start: int
    length: int
    first_bytes: bytes


def _fragments(file: BufferedReader, start: int) -> Iterator[_Fragment]:
    """The items of encapsulated pixel data that end inside the file; the first one is the offset table."""
    size, position = _size(file), start
    for _ in range(_MAX_FRAGMENTS):
        file.seek(position)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != _ITEM or position + 8 + length > size:
            return
        yield _Fragment(position + 8, length, head[8:])
        position += 8 + length
    raise ValueError(f"expected fewer than {_MAX_FRAGMENTS} fragments")


def _frames_of(items: Sequence[_Fragment], frames: int) -> tuple[tuple[Extent, ...], ...]:
    """Group fragments by frame: all, one each, or one frame from each start of image (PS3.5 A.4)."""
    fragments = items[1:]
    if frames == 1:
        return (tuple((f.start, f.length) for f in fragments),) if fragments else ()
    if len(fragments) == frames:
        return tuple(((f.start, f.length),) for f in fragments)
    grouped: list[list[Extent]] = []
    for fragment in fragments:
        if fragment.first_bytes.startswith(_STARTS_OF_IMAGE) or not grouped:
            grouped.append([])
        grouped[-1].append((fragment.start, fragment.length))
    return tuple(tuple(extents) for extents in grouped)


def _size(file: BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size
