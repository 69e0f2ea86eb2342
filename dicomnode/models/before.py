"""What happens to a volume before a network sees it: the steps that `[[stages.before]]` may name, in any order.

Each step takes `[channel, axis 0, axis 1, axis 2]` and leaves the same. Steps that move voxels (orient, resample, the
crops, pad) are undone by the step `back` of `[[stages.after]]`. What carries a step out: `dicomnode/inference/before`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dicomnode.imaging.orientation import is_orientation
from dicomnode.models.fields import (
    Finite,
    Label,
    Millimetres,
    Multiple,
    Name,
    Positive,
    Range,
    Table,
    Voxels,
    ascending,
)

AS_READ = "column-row-slice"


def _orientation(letters: str) -> str:
    if letters != AS_READ and not is_orientation(letters):
        raise ValueError(f"expected {AS_READ!r} or three letters, one of each of L/R, P/A and S/I, found {letters!r}")
    return letters


Ascending = Annotated[Range, AfterValidator(ascending)]
Along = Millimetres | Literal["keep"]  # "keep": what the axis has
Order = Literal[0, 1, 2, 3]  # of the spline: nearest, linear, quadratic, cubic

# Where the voxels of the new grid are, and how many there are; `inference.sampling` has one function per name.
GridRule = Literal[
    "faces",  # ours: the outer faces of both grids match; what is coarser is averaged first
    "centres",  # skimage.transform.resize, as nnU-Net calls it: the outer faces match along every axis
    "corners",  # scipy.ndimage.zoom: the centres of the first and of the last voxels match
    "monai",  # MONAI Spacing: the centre of the first voxel stays where it is, or, in oblique volumes, the middle
]


class Orient(Table):
    """Turn and flip the axes: `axes` names the sides towards which the indices increase, e.g. "SPL".

    "column-row-slice": the axes as they were acquired, in this order, whatever their sides (MONAI without Orientation).
    """

    step: Literal["orient"]
    axes: Annotated[str, AfterValidator(_orientation)]


class Resample(Table):
    """Sample at another spacing, along the axes as they are."""

    step: Literal["resample"]
    spacing_mm: tuple[Along, Along, Along]
    grid: GridRule = "faces"
    order: Order = 1
    # Where one axis is coarser than another by more than this factor, before or after, it is sampled apart (nnU-Net).
    apart_above: Positive | None = None
    apart_order: Order = 0

    def spacing_beside(self, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """The spacing in mm that axes of `spacing_mm` are to have."""
        first, second, third = (
            old if new == "keep" else new for old, new in zip(spacing_mm, self.spacing_mm, strict=True)
        )
        return first, second, third


class CropNonzero(Table):
    """Keep the box of what is not 0 in any channel, holes filled (nnU-Net)."""

    step: Literal["crop-nonzero"]


class CropForeground(Table):
    """Keep the box of what is above a value (MONAI CropForeground)."""

    step: Literal["crop-foreground"]
    above: Finite = 0.0
    margin: Voxels = 0
    margin_within: bool = True  # the margin ends where the volume ends; False: 0 is added there
    multiple: Multiple = 1


class CropToStage(Table):
    """Keep the box of what an earlier stage found; nothing found: the whole volume, or the stage says nothing."""

    step: Literal["crop-to-stage"]
    stage: Name
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]  # of that stage's network
    margin_mm: Annotated[float, Field(ge=0, le=500)] = 0.0
    if_none: Literal["whole", "skip"] = "skip"


class Pad(Table):
    """Add voxels until every axis is a multiple, and at least so long."""

    step: Literal["pad"]
    multiple: Multiple = 1
    at_least: tuple[Voxels, Voxels, Voxels] = (0, 0, 0)
    value: Finite | Literal["edge"] = 0.0  # "edge": the outermost voxel is repeated
    side: Literal["end", "both"] = "end"


class Channels(Table):
    """Several views of one volume: each clipped to a range, which is mapped linearly onto another."""

    class View(Table):
        """One channel."""

        clip: Ascending
        to: Range

    step: Literal["channels"]
    views: Annotated[tuple[View, ...], Field(min_length=1, max_length=16)]


class Clip(Table):
    """Cut values to a range."""

    step: Literal["clip"]
    to: Ascending
    channel: Annotated[int, Field(ge=0)] | None = None  # None: each


class Scale(Table):
    """Map the range `source` linearly onto `to`, cut to `to` or not (MONAI ScaleIntensityRange)."""

    step: Literal["scale"]
    source: Ascending
    to: Range
    clip: bool = True


class ScalePercentiles(Table):
    """The same between two percentiles of the volume (MONAI ScaleIntensityRangePercentiles)."""

    step: Literal["scale-percentiles"]
    percentiles: Ascending
    to: Range
    clip: bool = True


class Standardise(Table):
    """Subtract a mean and divide by a deviation that are known from training."""

    step: Literal["standardise"]
    mean: Finite
    deviation: Positive
    channel: Annotated[int, Field(ge=0)] | None = None


class ZScore(Table):
    """Subtract the volume's own mean and divide by its own deviation, channel by channel or over all of them.

    "nonzero": over the voxels that are not 0 (MONAI), others stay 0; "body": over what `crop-nonzero` called nonzero,
    others stay as they are (nnU-Net's use_mask_for_norm).
    """

    step: Literal["z-score"]
    over: Literal["all", "nonzero", "body"] = "all"
    channel: Annotated[int, Field(ge=0)] | None = None
    per_channel: bool = True


class ScaleOfVolume(Table):
    """Map the volume's lowest and highest value onto `to` (MONAI ScaleIntensity, nnU-Net RescaleTo01)."""

    step: Literal["scale-of-volume"]
    to: Range = (0.0, 1.0)
    channel: Annotated[int, Field(ge=0)] | None = None


class Truncate(Table):
    """Cut to whole numbers towards zero, as a cast to an integer does (TotalSegmentator)."""

    step: Literal["truncate"]


class AddLabels(Table):
    """Add a channel for each label of an earlier stage, 1 where it is (nnU-Net's cascade)."""

    step: Literal["add-labels"]
    stage: Name
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]


BeforeStep = Annotated[
    Orient
    | Resample
    | CropNonzero
    | CropForeground
    | CropToStage
    | Pad
    | Channels
    | Clip
    | Scale
    | ScalePercentiles
    | Standardise
    | ZScore
    | ScaleOfVolume
    | Truncate
    | AddLabels,
    Field(discriminator="step"),
]

__all__ = [
    "AddLabels",
    "BeforeStep",
    "Channels",
    "Clip",
    "CropForeground",
    "CropNonzero",
    "CropToStage",
    "GridRule",
    "Order",
    "Orient",
    "Pad",
    "Resample",
    "Scale",
    "ScaleOfVolume",
    "ScalePercentiles",
    "Standardise",
    "Truncate",
    "ZScore",
]
