"""A SEG of the node -> the segmentation it carries: what an archive holds, on the grid of its series again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.encoding.decoded import DecodedSeg, opened_seg
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import Geometry, ModelIdentity, Segment, Segmentation, SliceSource

Signatures = NDArray[np.uint64]  # [row, column], bit n - 1 is set where segment n is


def read_back(
    path: Path,
    geometry: Geometry,
    sources: tuple[SliceSource, ...],
    segments: tuple[Segment, ...],
    model: ModelIdentity,
) -> Segmentation:
    """Put a SEG's frames back on the grid of the series they refer to; segments are recognised by their names.

    Raises:
        ResultMismatch: the file cannot be read, or a frame refers to no slice of the series or to no segment.
    """
    labels: NDArray[np.uint8] | NDArray[np.uint16] = np.zeros(geometry.shape, np.uint8)
    if max(max(s.labels) for s in segments) > np.iinfo(np.uint8).max:
        labels = labels.astype(np.uint16)
    with opened_seg(path) as seg:
        planes = _signatures_by_slice(seg, sources, segments, geometry.shape[1:])
    label_of = _label_of_signature(segments)
    for index, plane in planes.items():
        for signature in np.unique(plane[plane > 0]):
            if int(signature) not in label_of:
                raise ResultMismatch(f"slice {index + 1} has voxels in segments that exclude each other")
            labels[index][plane == signature] = label_of[int(signature)]
    return Segmentation(labels, geometry, sources, segments, model)


def _signatures_by_slice(
    seg: DecodedSeg, sources: Sequence[SliceSource], segments: Sequence[Segment], plane_shape: tuple[int, int]
) -> dict[int, Signatures]:
    slice_of = {(s.sop_instance_uid, s.frame_number): index for index, s in enumerate(sources)}
    number_of_name = {s.name: s.number for s in segments}
    number_in_file = {int(s.SegmentNumber): str(s.SegmentLabel) for s in seg.header.SegmentSequence}
    planes: dict[int, Signatures] = {}
    for position, frame in enumerate(seg.frames()):
        index = slice_of.get((frame.origin.instance_uid, frame.origin.frame_number))
        number = number_of_name.get(number_in_file.get(frame.segment_number, ""))
        if index is None or number is None:
            raise ResultMismatch(f"frame {position + 1} refers to no slice of the series or to an unknown segment")
        plane = planes.setdefault(index, np.zeros(plane_shape, np.uint64))
        plane |= seg.mask(position).astype(np.uint64) << np.uint64(number - 1)
    return planes


def _label_of_signature(segments: Sequence[Segment]) -> Mapping[int, int]:
    labels = sorted({label for s in segments for label in s.labels})
    return {sum(1 << (s.number - 1) for s in segments if label in s.labels): label for label in labels}
