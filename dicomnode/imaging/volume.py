"""A volume: voxels on a grid in the patient, and where each slice came from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.geometry import Geometry

Voxels = NDArray[np.int16] | NDArray[np.float32]  # [slice, row, column], HU for CT


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The instance (and, for an enhanced multi-frame object, the 1-based frame) a slice was read from."""

    sop_instance_uid: str
    sop_class_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels `[slice, row, column]` (HU for CT; int16 where that is exact, else float32) on a `Geometry`."""

    voxels: Voxels
    geometry: Geometry
    sources: tuple[SliceSource, ...]  # one per slice

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape:
            raise ValueError(f"expected voxels of shape {self.geometry.shape}, found {self.voxels.shape}")
        if len(self.sources) != self.geometry.shape[0]:
            raise ValueError(f"expected {self.geometry.shape[0]} slice sources, found {len(self.sources)}")
        if not self.voxels.flags.c_contiguous:
            raise ValueError("expected C-contiguous voxels")


@dataclass(frozen=True, slots=True, eq=False)
class SampledVolume:
    """A volume resampled to another spacing along the same axes; its slices are no longer the scanner's."""

    voxels: Voxels
    geometry: Geometry  # never sheared

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape:
            raise ValueError(f"expected voxels of shape {self.geometry.shape}, found {self.voxels.shape}")
