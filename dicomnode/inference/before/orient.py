"""Step "orient": axes exchanged and flipped."""

from dataclasses import replace

import torch

from dicomnode.imaging.orientation import AxisMap, axes_between
from dicomnode.inference.picture import Picture, Turned
from dicomnode.inference.scene import Scene
from dicomnode.models.before import AS_READ, Orient


def orient(step: Orient, picture: Picture, scene: Scene) -> Picture:
    """The picture with its axes towards the sides that the step names."""
    del scene
    # What no step has turned yet is [slice, row, column].
    letters = picture.letters[::-1] if step.axes == AS_READ else step.axes
    if letters == picture.letters:
        return picture
    axis_map = axes_between(picture.letters, letters)
    first, second, third = (picture.spacing_mm[axis] for axis in axis_map.permutation)
    return replace(
        picture,
        voxels=turned(picture.voxels, axis_map),
        letters=letters,
        spacing_mm=(first, second, third),
        moves=(*picture.moves, Turned(axis_map, picture.shape)),
        body=None if picture.body is None else turned(picture.body, axis_map),
    )


def turned(values: torch.Tensor, axis_map: AxisMap) -> torch.Tensor:
    """`[..., old axes]` -> `[..., new axes]`; a view where nothing is flipped."""
    leading = values.ndim - 3
    values = values.permute(*range(leading), *(leading + axis for axis in axis_map.permutation))
    flipped = [leading + axis for axis, flip in enumerate(axis_map.flips) if flip]
    return values.flip(flipped) if flipped else values
