"""Every frame of a result against the source slice it lies on and the voxels the network found there."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from dicomnode.encoding import strict
from dicomnode.encoding.decoded import DecodedSeg
from dicomnode.encoding.differences import (
    Difference,
    Expectation,
    Reason,
    orientation_differences,
    spacing_differences,
)
from dicomnode.encoding.frame_groups import PER_FRAME_GROUPS, DecodedFrame, frame_by_pydicom, read_frames
from dicomnode.encoding.sources import SourcePlane

TOLERANCE_MM = 0.01
DERIVATION = ("113076", "DCM")  # Segmentation, PS3.16 CID 7203
PURPOSE = ("121322", "DCM")  # Source image for image processing operation, PS3.16 CID 7202
FrameOf = Mapping[tuple[int, int], int]  # (segment number, slice) -> frame


def decoded_frames(seg: DecodedSeg) -> list[DecodedFrame]:
    """Every frame in the order of the file, read strictly; pydicom must read the first and the last alike.

    Raises:
        Malformed: something stands there that a result does not hold, or the two readers differ.
    """
    if PER_FRAME_GROUPS not in seg.header:
        return []
    value = seg.sequence_bytes(PER_FRAME_GROUPS)
    frames, items = read_frames(value), list(strict.items(value))
    for index in {0, len(frames) - 1} if frames else ():
        if frame_by_pydicom(items[index]) != frames[index]:
            raise strict.Malformed(f"expected pydicom to read frame {index + 1} alike, found it to differ")
    return frames


def matrix_differences(seg: DecodedSeg, expected: Expectation, frame_count: int) -> Iterator[Difference]:
    """Whether there are as many rows, columns, frames and bytes as each other part of the file says."""
    _, rows, columns = expected.segmentation.geometry.shape
    found = (int(seg.header.Rows), int(seg.header.Columns))
    if found != (rows, columns):
        yield Difference(Reason.MATRIX, f"expected {rows} rows and {columns} columns, found {found[0]} and {found[1]}")
    if int(seg.header.NumberOfFrames) != frame_count:
        said = int(seg.header.NumberOfFrames)
        yield Difference(Reason.MATRIX, f"expected functional groups of {said} frames, found {frame_count}")
    pixel_bytes = (frame_count * rows * columns + 7) // 8
    if seg.pixel_bytes != pixel_bytes + pixel_bytes % 2:
        yield Difference(Reason.MATRIX, f"expected {pixel_bytes} bytes of pixels, found {seg.pixel_bytes}")


def frame_differences(seg: DecodedSeg, frames: Sequence[DecodedFrame], expected: Expectation) -> Iterator[Difference]:
    """Each frame's place, and then each plane of each segment, voxel by voxel."""
    planes = expected.sources.planes

    @cache
    def nearest(position_mm: tuple[float, ...]) -> tuple[int, float]:
        distances_mm = np.linalg.norm(expected.sources.positions_mm - np.array(position_mm), axis=1)
        return int(distances_mm.argmin()), float(distances_mm.min())

    frame_of: dict[tuple[int, int], int] = {}
    for index, frame in enumerate(frames):
        slice_index, away_mm = nearest(frame.position_mm)
        yield from _placement_differences(index, frame, planes[slice_index])
        if not away_mm <= TOLERANCE_MM:
            away = f"found it {away_mm:.3f} mm from the nearest"
            yield Difference(Reason.POSITION, f"expected frame {index + 1} on a source slice, {away}")
        if (frame.segment_number, slice_index) in frame_of:
            twice = f"found slice {slice_index + 1} of segment {frame.segment_number} again in frame {index + 1}"
            yield Difference(Reason.EXTRA_PLANE, f"expected each plane once, {twice}")
        frame_of[frame.segment_number, slice_index] = index
    if len({frame.dimension_indices for frame in frames}) != len(frames):
        yield Difference(Reason.SEGMENTS, "expected dimension indices that tell the frames apart, found some twice")
    yield from _voxel_differences(seg, frame_of, expected)


def _placement_differences(index: int, frame: DecodedFrame, plane: SourcePlane) -> Iterator[Difference]:
    if frame.origin.slice != plane.slice:
        sentence = f"expected frame {index + 1} to refer to the source slice it lies on, found another"
        yield Difference(Reason.FRAME_REFERENCE, sentence)
    if not frame.origin.pixels_match:
        yield Difference(Reason.FRAME_REFERENCE, f"expected Spatial Locations Preserved YES in frame {index + 1}")
    if (frame.origin.derivation, frame.origin.purpose) != (DERIVATION, PURPOSE):
        yield Difference(Reason.FRAME_REFERENCE, f"expected the codes of a segmentation in frame {index + 1}")
    if frame.orientation is not None:
        yield from orientation_differences(frame.orientation, plane)
    if frame.pixel_spacing_mm is not None:
        yield from spacing_differences(frame.pixel_spacing_mm, plane)


def _voxel_differences(seg: DecodedSeg, frame_of: FrameOf, expected: Expectation) -> Iterator[Difference]:
    """Every plane of every segment against the frame in its place, one at a time."""
    wanted: set[tuple[int, int]] = set()
    for number, segment in enumerate(expected.segments, 1):
        belongs = expected.segmentation.membership(segment)
        for slice_index in np.flatnonzero(expected.slices(segment)).tolist():
            wanted.add((number, slice_index))
            where = f"slice {slice_index + 1} of {segment.name}"
            frame_index = frame_of.get((number, slice_index))
            if frame_index is None:
                yield Difference(Reason.MISSING_PLANE, f"expected a frame for {where}, found none")
                continue
            plane = expected.segmentation.labels[slice_index]
            network = plane == segment.labels[0] if len(segment.labels) == 1 else np.take(belongs, plane)
            found = seg.mask(frame_index)
            if not np.array_equal(found, network):
                wrong = np.count_nonzero(found != network)
                yield Difference(Reason.VOXELS, f"expected the network's voxels in {where}, found {wrong} others")
    for number, slice_index in sorted(set(frame_of) - wanted):
        where = f"slice {slice_index + 1} of segment {number}"
        yield Difference(Reason.EXTRA_PLANE, f"expected no frame for {where}, found one")
