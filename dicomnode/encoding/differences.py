"""What can be wrong with a result, and what its bytes are held against."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dicomnode.encoding.request import EncodingRequest
from dicomnode.encoding.sources import SourceHeaders, SourcePlane
from dicomnode.imaging import Segment, Segmentation

COSINE_TOLERANCE = 1e-4
SHOWN_PER_REASON = 3
FEW_LABELS = 24  # up to here comparing label by label is faster than counting them all


class Reason(StrEnum):
    """Everything that can be wrong with a result; the first word of each difference."""

    FORMAT = "format"
    UIDS = "uids"
    PATIENT = "patient"
    STUDY = "study"
    FRAME_OF_REFERENCE = "frame_of_reference"
    SOURCE_GRID = "source_grid"
    REFERENCED_INSTANCES = "referenced_instances"
    FRAME_REFERENCE = "frame_reference"
    POSITION = "position"
    ORIENTATION = "orientation"
    SPACING = "spacing"
    MATRIX = "matrix"
    SEGMENTS = "segments"
    MODEL = "model"
    OVERLAP = "overlap"
    MISSING_PLANE = "missing_plane"
    EXTRA_PLANE = "extra_plane"
    VOXELS = "voxels"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it must be, without any value of a patient's attribute."""

    reason: Reason
    sentence: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.sentence}"


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """What the written bytes are held against."""

    segmentation: Segmentation
    sources: SourceHeaders
    request: EncodingRequest
    present: NDArray[np.bool_]  # [slice, label]: is there a voxel?

    @property
    def segments(self) -> list[Segment]:
        """The segments with voxels, in the order in which the file must number them from 1."""
        return [s for s in self.segmentation.segments if self.slices(s).any()]

    def slices(self, segment: Segment) -> NDArray[np.bool_]:
        """Whether a segment has a voxel, for each slice."""
        return np.logical_or.reduce([self.present[:, label] for label in segment.labels])


def label_presence(segmentation: Segmentation) -> NDArray[np.bool_]:
    """Which labels occur in which slice, `[slice, label]`, seen in the voxels and not in anybody's counts."""
    declared = sorted({label for segment in segmentation.segments for label in segment.labels})
    present = np.zeros((len(segmentation.labels), declared[-1] + 1), np.bool_)
    for row, plane in zip(present, segmentation.labels, strict=True):
        if len(declared) <= FEW_LABELS:
            row[declared] = [(plane == label).any() for label in declared]
        else:
            row[:] = np.bincount(plane.ravel(), minlength=len(row))[: len(row)] > 0
    return present


def orientation_differences(cosines: Iterable[float], plane: SourcePlane) -> Iterator[Difference]:
    """Plane Orientation of a result against its source slice's."""
    found = np.array([float(v) for v in cosines])
    if not np.allclose(found, np.array(plane.orientation, dtype=np.float64), rtol=0, atol=COSINE_TOLERANCE):
        yield Difference(Reason.ORIENTATION, f"expected the source's {'/'.join(plane.orientation)}, found {found}")


def spacing_differences(spacing_mm: Iterable[float], plane: SourcePlane) -> Iterator[Difference]:
    """Pixel Spacing of a result against its source slice's."""
    found = np.array([float(v) for v in spacing_mm])
    if not np.allclose(found, np.array(plane.pixel_spacing, dtype=np.float64), rtol=1e-6):
        yield Difference(Reason.SPACING, f"expected the source's {'/'.join(plane.pixel_spacing)} mm, found {found}")


def summary(differences: Sequence[Difference]) -> str:
    """The first few differences of each reason, and how many there are of it."""
    counts = Counter(difference.reason for difference in differences)
    shown: list[str] = []
    for reason, count in counts.items():
        shown += [str(d) for d in differences if d.reason is reason][:SHOWN_PER_REASON]
        if count > SHOWN_PER_REASON:
            shown.append(f"{reason}: and {count - SHOWN_PER_REASON} more")
    return "; ".join(shown)
