"""Every frame of a result against the source slice it lies on and the voxels the network found there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dicomnode.encoding.decoded import DecodedFrame, DecodedSeg
from dicomnode.encoding.differences import (
    Difference,
    Expectation,
    Reason,
    orientation_differences,
    spacing_differences,
)
from dicomnode.encoding.sources import SourcePlane

TOLERANCE_MM = 0.01


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
    planes_mm = np.array([plane.position_mm for plane in expected.sources.planes])
    frame_of: dict[tuple[int, int], int] = {}  # (segment number, slice) -> frame
    for index, frame in enumerate(frames):
        distances_mm = np.linalg.norm(planes_mm - np.array(frame.position_mm), axis=1)
        slice_index = int(distances_mm.argmin())
        yield from _placement_differences(index, frame, expected.sources.planes[slice_index])
        if distances_mm[slice_index] > TOLERANCE_MM:
            away = f"found it {distances_mm[slice_index]:.3f} mm from the nearest"
            yield Difference(Reason.POSITION, f"expected frame {index + 1} on a source slice, {away}")
        if (frame.segment_number, slice_index) in frame_of:
            twice = f"found slice {slice_index + 1} of segment {frame.segment_number} again in frame {index + 1}"
            yield Difference(Reason.EXTRA_PLANE, f"expected each plane once, {twice}")
        frame_of[frame.segment_number, slice_index] = index
    if len({frame.dimension_indices for frame in frames}) != len(frames):
        yield Difference(Reason.SEGMENTS, "expected dimension indices that tell the frames apart, found some twice")
    yield from _voxel_differences(seg, frame_of, expected)


def _placement_differences(index: int, frame: DecodedFrame, plane: SourcePlane) -> Iterator[Difference]:
    if frame.source != (plane.sop_class_uid, plane.sop_instance_uid, plane.frame_number):
        sentence = f"expected frame {index + 1} to refer to the source slice it lies on, found another"
        yield Difference(Reason.FRAME_REFERENCE, sentence)
    if not frame.pixels_match_source:
        yield Difference(Reason.FRAME_REFERENCE, f"expected Spatial Locations Preserved YES in frame {index + 1}")
    if "PlaneOrientationSequence" in frame.groups:
        yield from orientation_differences(frame.groups.PlaneOrientationSequence[0], plane)
    if "PixelMeasuresSequence" in frame.groups:
        yield from spacing_differences(frame.groups.PixelMeasuresSequence[0], plane)


def _voxel_differences(
    seg: DecodedSeg, frame_of: Mapping[tuple[int, int], int], expected: Expectation
) -> Iterator[Difference]:
    """Every plane of every segment against the frame in its place, one at a time."""
    segmentation = expected.segmentation
    wanted: set[tuple[int, int]] = set()
    for number, segment in enumerate(expected.segments, 1):
        belongs = segmentation.membership(segment)
        for slice_index in np.flatnonzero(expected.voxels(segment)).tolist():
            wanted.add((number, slice_index))
            where = f"slice {slice_index + 1} of {segment.name}"
            frame_index = frame_of.get((number, slice_index))
            if frame_index is None:
                yield Difference(Reason.MISSING_PLANE, f"expected a frame for {where}, found none")
                continue
            wrong = np.count_nonzero(seg.mask(frame_index) != np.take(belongs, segmentation.labels[slice_index]))
            if wrong:
                yield Difference(Reason.VOXELS, f"expected the network's voxels in {where}, found {wrong} others")
    for number, slice_index in sorted(set(frame_of) - wanted):
        where = f"slice {slice_index + 1} of segment {number}"
        yield Difference(Reason.EXTRA_PLANE, f"expected no frame for {where}, found one")
