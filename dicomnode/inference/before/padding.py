"""Step "pad": voxels added until every axis is long enough and a multiple."""

from dataclasses import replace
from typing import Literal

import torch

from dicomnode.inference.picture import Padded, Picture, Shape
from dicomnode.inference.room import require_room
from dicomnode.inference.scene import Scene
from dicomnode.models.before import Pad

Value = float | Literal["edge"]


def pad(step: Pad, picture: Picture, scene: Scene) -> Picture:
    """The picture with the voxels that it lacks, at the end of each axis or half of them before the start."""
    del scene
    before, behind = [0, 0, 0], [0, 0, 0]
    for axis, (count, least) in enumerate(zip(picture.shape, step.at_least, strict=True)):
        lacking = -(-max(count, least) // step.multiple) * step.multiple - count
        before[axis] = lacking // 2 if step.side == "both" else 0
        behind[axis] = lacking - before[axis]
    return padded(picture, (before[0], before[1], before[2]), (behind[0], behind[1], behind[2]), step.value)


def padded(picture: Picture, before: Shape, behind: Shape, value: Value) -> Picture:
    """The picture with so many voxels more before and behind each axis.

    Raises:
        ModelError: it is larger than this computer's memory.
        Unavailable: there is no room for it now.
    """
    if before == behind == (0, 0, 0):
        return picture
    require_room([sum(counts) for counts in zip(before, picture.shape, behind, strict=True)], len(picture.voxels))
    return replace(
        picture,
        voxels=_with_margin(picture.voxels, before, behind, value),
        moves=(*picture.moves, Padded(before, behind, picture.shape)),
        body=None if picture.body is None else _with_margin(picture.body[None], before, behind, 0.0)[0],
    )


def _with_margin(values: torch.Tensor, before: Shape, behind: Shape, value: Value) -> torch.Tensor:
    if value == "edge":
        for axis, (first, last) in enumerate(zip(before, behind, strict=True), 1):
            places = torch.arange(-first, values.shape[axis] + last, device=values.device)
            values = values.index_select(axis, places.clamp_(0, values.shape[axis] - 1))
        return values
    if not _holds(values.dtype, value):
        values = values.float()
    widths = [width for pair in reversed(list(zip(before, behind, strict=True))) for width in pair]
    return torch.nn.functional.pad(values, widths, value=value)


def _holds(dtype: torch.dtype, value: float) -> bool:
    """Whether a number stays itself in that type."""
    if dtype.is_floating_point or dtype is torch.bool:
        return True
    limits = torch.iinfo(dtype)
    return value.is_integer() and limits.min <= value <= limits.max
