"""What a model says: coded structures and a label map on the grid of the series it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.geometry import Geometry
from dicomnode.imaging.volume import SliceSource

Labels = NDArray[np.uint8] | NDArray[np.uint16]  # [slice, row, column]
Mask = NDArray[np.bool_]  # [slice, row, column]


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


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A label map `[slice, row, column]` on the source grid, its segments, and the model that made it."""

    labels: Labels
    geometry: Geometry
    sources: tuple[SliceSource, ...]  # one per slice
    segments: tuple[Segment, ...]
    model: ModelIdentity

    def __post_init__(self) -> None:
        if self.labels.shape != self.geometry.shape:
            raise ValueError(f"expected labels of shape {self.geometry.shape}, found {self.labels.shape}")
        if [s.number for s in self.segments] != list(range(1, len(self.segments) + 1)):
            raise ValueError(f"expected segments numbered 1..n, found {[s.number for s in self.segments]}")
        declared = {0}.union(*(s.labels for s in self.segments))
        undeclared = set(self.label_counts()) - declared
        if undeclared:
            raise ValueError(f"expected labels {sorted(declared)}, found also {sorted(undeclared)}")

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
        counts = np.zeros(np.iinfo(self.labels.dtype).max + 1, dtype=np.int64)
        for plane in self.labels:  # by slice: bincount would widen the whole volume to int64 at once
            counts += np.bincount(plane.ravel(), minlength=counts.size)
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}

    def volumes_ml(self) -> Mapping[str, float]:
        """Volume of each segment in millilitres, by the segment's name."""
        counts = self.label_counts()
        voxel_ml = self.geometry.voxel_volume_ml
        return {s.name: voxel_ml * sum(counts.get(label, 0) for label in s.labels) for s in self.segments}
