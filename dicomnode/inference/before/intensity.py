"""Steps that change values and move nothing; each computes in the order of operations of the software it is from."""

import torch

from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import Scene
from dicomnode.models.before import Channels, Clip, Scale, ScaleOfVolume, ScalePercentiles, Standardise, Truncate
from dicomnode.models.fields import Range


def channels(step: Channels, picture: Picture, scene: Scene) -> Picture:
    """The picture's one channel as several views."""
    del scene
    (voxels,) = picture.voxels
    views = torch.empty((len(step.views), *voxels.shape), dtype=torch.float32, device=voxels.device)
    for view, wanted in zip(views, step.views, strict=True):
        (low, high), (start, end) = wanted.clip, wanted.to
        view.copy_(voxels)
        view.clamp_(low, high).sub_(low).mul_((end - start) / (high - low)).add_(start)
    return picture.with_voxels(views)


def clip(step: Clip, picture: Picture, scene: Scene) -> Picture:
    """Values cut to a range."""
    del scene
    voxels = _floats(picture)
    _chosen(voxels, step.channel).clamp_(*step.to)
    return picture.with_voxels(voxels)


def scale(step: Scale, picture: Picture, scene: Scene) -> Picture:
    """One range mapped onto another."""
    del scene
    return picture.with_voxels(_mapped(_floats(picture), step.source, step.to, cut=step.clip))


def scale_percentiles(step: ScalePercentiles, picture: Picture, scene: Scene) -> Picture:
    """The range between two percentiles mapped onto another; of one value only, it is subtracted."""
    del scene
    voxels = _floats(picture)
    low, high = (_percentile(voxels, percentile) for percentile in step.percentiles)
    return picture.with_voxels(_mapped(voxels, (low, high), step.to, cut=step.clip))


def standardise(step: Standardise, picture: Picture, scene: Scene) -> Picture:
    """A known mean subtracted, divided by a known deviation."""
    del scene
    voxels = _floats(picture)
    _chosen(voxels, step.channel).sub_(step.mean).div_(step.deviation)
    return picture.with_voxels(voxels)


def scale_of_volume(step: ScaleOfVolume, picture: Picture, scene: Scene) -> Picture:
    """The lowest and highest value mapped onto a range; of one value only, that range's start times the value."""
    del scene
    voxels, (start, end) = _floats(picture), step.to
    chosen = _chosen(voxels, step.channel)
    low, high = chosen.min(), chosen.max()
    if bool(low == high):
        chosen.mul_(start)
    else:
        chosen.sub_(low).div_(high - low).mul_(end - start).add_(start)
    return picture.with_voxels(voxels)


def truncate(step: Truncate, picture: Picture, scene: Scene) -> Picture:
    """Whole numbers, cut towards zero."""
    del step, scene
    if not picture.voxels.dtype.is_floating_point:
        return picture
    return picture.with_voxels(picture.voxels.trunc().float())


def _floats(picture: Picture) -> torch.Tensor:
    """A copy of the voxels in FP32 that may be changed."""
    return picture.voxels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _chosen(voxels: torch.Tensor, channel: int | None) -> torch.Tensor:
    return voxels if channel is None else voxels[channel]


def _mapped(voxels: torch.Tensor, source: Range, to: Range, *, cut: bool) -> torch.Tensor:
    (low, high), (start, end) = source, to
    if high - low == 0.0:
        return voxels.sub_(low).add_(start)
    voxels.sub_(low).div_(high - low).mul_(end - start).add_(start)
    return voxels.clamp_(min(to), max(to)) if cut else voxels


def _percentile(voxels: torch.Tensor, percentile: float) -> float:
    """Interpolated linearly between the two values nearest in rank, as numpy and torch do."""
    rank = percentile / 100 * (voxels.numel() - 1)
    low = int(rank)
    flat = voxels.reshape(-1)
    first = flat.kthvalue(low + 1).values
    second = flat.kthvalue(min(low + 2, flat.numel())).values
    return float(torch.lerp(first, second, rank - low))
