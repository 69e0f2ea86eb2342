"""What a step may look at beside the picture it works on: the scanner's volume, and what earlier stages found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from dicomnode.imaging import SampledVolume, Volume
from dicomnode.imaging.segmentation import Labels

SpacingAlongSource = tuple[float, float, float]  # mm along (slice, row, column)
Resample = Callable[[Volume, SpacingAlongSource], SampledVolume]


class NothingToSee(Exception):
    """A stage was to look at what an earlier one found, and that was nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One volume on its way through the stages of one model."""

    source: Volume
    resample: Resample  # grid rule "faces": SimpleITK belongs to assembly, so it is handed in
    device: torch.device
    threads: int  # on the CPU
    labels: Mapping[str, Labels] = field(default_factory=dict[str, Labels])  # of earlier stages, on the source grid
