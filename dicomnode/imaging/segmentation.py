"""What a model says: coded structures and a label map on the grid of the series it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.geometry import Geometry
from dicomnode.imaging.volume import SliceSource

Labels = NDArray[np.uint8] | NDArray[np.uint16]  # [slice, row, column]
Mask = NDArray[np.bool_]  # [slice, row, column]
FEW_LABELS = 24  # up to here counting label by label (10 us for 512 x 512) is faster than counting all (330 us)


@dataclass(frozen=True, slots=True)
class CodedConcept:
    """A code of a published scheme, e.g. ("10200004", "SCT", "Liver") (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One structure of a result: numbered from 1, the union of one or more of the network's labels."""

    number: int
    name: str
    labels: tuple[int, ...]
    category: CodedConcept
    type: CodedConcept
    modifier: CodedConcept | None
    colour_rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made a result; stands in every object and record that leaves the node."""

    name: str
    version: str
    title: str
    weights_sha256: str
    diagnostic: bool  # False: the result must say "not for diagnostic use"
    package_sha256: str = ""  # of the weights and of all that is done before and behind them


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A label map `[slice, row, column]` on the source grid, its segments, and the model that made it.

    The labels are read-only: they are counted once, and everybody is told the same.
    """

    labels: Labels
    geometry: Geometry
    sources: tuple[SliceSource, ...]  # one per slice
    segments: tuple[Segment, ...]
    model: ModelIdentity
    _counts: Mapping[int, NDArray[np.int64]] = field(init=False, repr=False)  # by label: voxels in each slice

    def __post_init__(self) -> None:
        if self.labels.shape != self.geometry.shape:
            raise ValueError(f"expected labels of shape {self.geometry.shape}, found {self.labels.shape}")
        if [s.number for s in self.segments] != list(range(1, len(self.segments) + 1)):
            raise ValueError(f"expected segments numbered 1..n, found {[s.number for s in self.segments]}")
        declared = sorted({0}.union(*(s.labels for s in self.segments)))
        counts = np.array([_voxels_of(declared, plane) for plane in self.labels])  # [slice, declared label]
        if counts.sum() != self.labels.size:
            undeclared = sorted(set(np.unique(self.labels).tolist()) - set(declared))
            raise ValueError(f"expected labels {declared}, found also {undeclared}")
        read_only = self.labels.view()
        read_only.setflags(write=False)
        object.__setattr__(self, "labels", read_only)
        object.__setattr__(self, "_counts", dict(zip(declared, counts.T, strict=True)))

    def mask(self, segment: Segment) -> Mask:
        """The voxels of one segment, `[slice, row, column]`."""
        return self.membership(segment)[self.labels]

    def membership(self, segment: Segment) -> NDArray[np.bool_]:
        """A table over label values: is a voxel with this label part of the segment?"""
        table = np.zeros(np.iinfo(self.labels.dtype).max + 1, dtype=np.bool_)
        table[list(segment.labels)] = True
        return table

    def label_counts(self) -> Mapping[int, int]:
        """How many voxels carry each label that occurs."""
        return {label: int(by_slice.sum()) for label, by_slice in self._counts.items() if by_slice.any()}

    def voxels_by_slice(self, segment: Segment) -> NDArray[np.int64]:
        """How many voxels of a segment there are in each slice."""
        return np.sum([self._counts[label] for label in set(segment.labels)], axis=0)

    def volumes_ml(self) -> Mapping[str, float]:
        """Volume of each segment in millilitres, by the segment's name."""
        voxel_ml = self.geometry.voxel_volume_ml
        return {s.name: voxel_ml * int(self.voxels_by_slice(s).sum()) for s in self.segments}


def _voxels_of(labels: list[int], plane: NDArray[np.generic]) -> list[int] | NDArray[np.int64]:
    """How many pixels of a plane carry each of the labels."""
    if len(labels) <= FEW_LABELS:
        return [int(np.count_nonzero(plane == label)) for label in labels]
    # By plane: bincount widens what it is given to int64.
    return np.bincount(plane.ravel(), minlength=labels[-1] + 1)[labels]
