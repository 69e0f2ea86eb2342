"""One file per step, or family of steps, that `[[stages.before]]` may name: what it does to a picture."""

from collections.abc import Callable, Mapping
from typing import Any

from dicomnode.inference.before.crops import crop_foreground, crop_to_stage
from dicomnode.inference.before.intensity import (
    channels,
    clip,
    scale,
    scale_of_volume,
    scale_percentiles,
    standardise,
    truncate,
)
from dicomnode.inference.before.labels import add_labels
from dicomnode.inference.before.nonzero import crop_nonzero
from dicomnode.inference.before.orient import orient
from dicomnode.inference.before.padding import pad
from dicomnode.inference.before.resampling import resample
from dicomnode.inference.before.zscore import z_score
from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import Scene
from dicomnode.models import before
from dicomnode.models.fields import Table

Apply = Callable[[Any, Picture, Scene], Picture]

BEFORE: Mapping[type[Table], Apply] = {
    before.AddLabels: add_labels,
    before.Channels: channels,
    before.Clip: clip,
    before.CropForeground: crop_foreground,
    before.CropNonzero: crop_nonzero,
    before.CropToStage: crop_to_stage,
    before.Orient: orient,
    before.Pad: pad,
    before.Resample: resample,
    before.Scale: scale,
    before.ScaleOfVolume: scale_of_volume,
    before.ScalePercentiles: scale_percentiles,
    before.Standardise: standardise,
    before.Truncate: truncate,
    before.ZScore: z_score,
}


def apply(step: before.BeforeStep, picture: Picture, scene: Scene) -> Picture:
    """The picture after a step.

    Raises:
        ModelError: the step cannot be done to this picture.
        NothingToSee: the step looks at what an earlier stage found, and that was nothing.
    """
    return BEFORE[type(step)](step, picture, scene)
