"""Step "z-score": the volume's own mean subtracted, divided by its own deviation."""

import torch

from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import Scene
from dicomnode.models.before import ZScore


def z_score(step: ZScore, picture: Picture, scene: Scene) -> Picture:
    """Mean 0 and deviation 1 over the voxels that the step counts; the others stay as they are."""
    del scene
    voxels = picture.voxels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    chosen = voxels if step.channel is None else voxels[step.channel : step.channel + 1]
    for part in chosen if step.per_channel else [chosen]:
        _standardise(part, _counted(step, part, picture))
    return picture.with_voxels(voxels)


def _counted(step: ZScore, part: torch.Tensor, picture: Picture) -> torch.Tensor | None:
    """Which voxels count; None: all."""
    if step.over == "nonzero":
        return part != 0
    if step.over == "body" and picture.body is not None:
        return picture.body.expand_as(part)
    return None


def _standardise(part: torch.Tensor, counted: torch.Tensor | None) -> None:
    values = part if counted is None else part[counted]
    if not values.numel():
        return
    mean, deviation = values.mean(), values.std(unbiased=False)
    if bool(deviation == 0):
        deviation = torch.ones_like(deviation)
    if counted is None:
        part.sub_(mean).div_(deviation)
    else:
        part[counted] = (values - mean) / deviation
