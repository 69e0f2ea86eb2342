"""Write a segmentation as a DICOM SEG: BINARY, uncompressed, empty frames omitted (PS3.3 A.51).

The header comes from highdicom by way of `template`; frames and their functional groups are laid down here
in bulk. A test compares the outcome with highdicom called plainly, attribute by attribute and bit by bit.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import SegmentationStorage

from dicomnode.encoding import explicit
from dicomnode.encoding.frames import found_segments, packed_bits, plane_mask, share_voxels
from dicomnode.encoding.outline import read_outline
from dicomnode.encoding.request import EncodedObject, EncodingRequest
from dicomnode.encoding.sources import SourcePlane
from dicomnode.encoding.template import build_template
from dicomnode.errors import NothingFound, ResultMismatch, Unavailable
from dicomnode.imaging import Segment, Segmentation

MAX_PIXEL_BYTES = 0xFFFFFFFE  # PS3.5 7.1: the length is an even 32-bit number
FramePlan = Sequence[tuple[Segment, int]]  # (segment, slice index) of each frame, in the order of the file


def encode_seg(
    segmentation: Segmentation, sources: Mapping[str, Path], request: EncodingRequest, path: Path
) -> EncodedObject:
    """Write the segmentation to `path`; `sources` maps SOP Instance UIDs of the source slices to their files.

    Segments may overlap. Segments without a voxel are left out, the others renumbered without a gap. The same
    arguments give the same bytes.

    Raises:
        NothingFound: no segment has a voxel.
        ResultMismatch: the sources are not those of the segmentation, or the object would exceed 4 GiB.
        Unavailable: a source cannot be read or the result cannot be written now.
    """
    segments = found_segments(segmentation)
    if not segments:
        raise NothingFound(f"none of {len(segmentation.segments)} segments has a voxel; there is no SEG to write")
    outline = read_outline(segmentation.sources, sources)
    plan = [(segment, index) for segment in segments for index in _slices_of(segment, segmentation)]
    header = build_template(segments, segmentation.model, segmentation.geometry, outline, request)
    header.SegmentsOverlap = "YES" if share_voxels(segmentation) else "NO"
    _make_room(header, segmentation.geometry.shape, len(plan))
    digest = _write(path, _file_parts(header, segmentation, outline.planes, plan))
    described = {segment.name for segment in segments}
    omitted = tuple(s.name for s in segmentation.segments if s.name not in described)
    return EncodedObject(path, request.instance_uid, str(SegmentationStorage), digest, omitted)


def _slices_of(segment: Segment, segmentation: Segmentation) -> list[int]:
    return np.flatnonzero(segmentation.voxels_by_slice(segment)).tolist()


def _make_room(header: Dataset, shape: tuple[int, int, int], frame_count: int) -> None:
    """Turn the template of one small plane into the header of all frames; these follow as bytes."""
    header.Rows, header.Columns = shape[1:]
    header.NumberOfFrames = frame_count
    # A single segment would stand in the shared groups; in the frames is where every reader looks.
    shared = header.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        del shared.SegmentIdentificationSequence
    del header.PerFrameFunctionalGroupsSequence
    del header.PixelData


def _file_parts(
    header: Dataset, segmentation: Segmentation, planes: Sequence[SourcePlane], plan: FramePlan
) -> Iterator[bytes]:
    """The file from first to last byte; pixels are made while they are written."""
    _, rows, columns = segmentation.geometry.shape
    pixel_bytes = (rows * columns * len(plan) + 7) // 8
    padding = pixel_bytes % 2
    if pixel_bytes + padding > MAX_PIXEL_BYTES:
        raise ResultMismatch(f"expected at most 4 GiB of pixels in a SEG, found {pixel_bytes} bytes; fewer segments")
    buffer = BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    yield buffer.getvalue()
    yield explicit.sequence(0x52009230, *_frame_groups(planes, plan))
    yield explicit.long_header(0x7FE00010, b"OB", pixel_bytes + padding)
    yield from packed_bits(plane_mask(segmentation.labels[index], segment) for segment, index in plan)
    yield b"\0" * padding


def _frame_groups(planes: Sequence[SourcePlane], plan: FramePlan) -> Iterator[bytes]:
    """One item of Per-Frame Functional Groups per frame (PS3.3 A.51.5)."""
    shown = sorted({index for _, index in plan})
    rank = {index: number for number, index in enumerate(shown, 1)}
    before = {index: _derivation(planes[index]) for index in shown}
    after = {index: _plane_position(planes[index]) for index in shown}
    for segment, index in plan:
        yield (
            before[index]
            + explicit.sequence(0x00209111, explicit.numbers(0x00209157, b"UL", (segment.number, rank[index])))
            + after[index]
            + explicit.sequence(0x0062000A, explicit.numbers(0x0062000B, b"US", (segment.number,)))
        )


def _derivation(plane: SourcePlane) -> bytes:
    """Derivation Image (PS3.3 C.7.6.16.2.6): which source slice the frame was made from."""
    frame = b"" if plane.frame_number is None else explicit.element(0x00081160, b"IS", b"%d" % plane.frame_number)
    source = (
        explicit.element(0x00081150, b"UI", plane.sop_class_uid.encode("ascii"))
        + explicit.element(0x00081155, b"UI", plane.sop_instance_uid.encode("ascii"))
        + frame
        + explicit.element(0x0028135A, b"CS", b"YES")
        + explicit.sequence(0x0040A170, explicit.code("121322", "DCM", "Source image for image processing operation"))
    )
    derivation = explicit.code("113076", "DCM", "Segmentation")
    return explicit.sequence(
        0x00089124, explicit.sequence(0x00082112, source) + explicit.sequence(0x00089215, derivation)
    )


def _plane_position(plane: SourcePlane) -> bytes:
    """Plane Position (Patient) (PS3.3 C.7.6.16.2.3): the source slice's own, to the letter."""
    return explicit.sequence(0x00209113, explicit.element(0x00200032, b"DS", "\\".join(plane.position).encode("ascii")))


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Write under a temporary name, make it durable, give it its name; returns the SHA-256 of the file."""
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        raise Unavailable(f"the result cannot be written: {problem.strerror}; free disk space") from problem
    finally:
        with suppress(OSError):
            temporary.unlink()
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
