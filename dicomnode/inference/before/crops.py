"""Steps that keep a box of the picture: of what is bright, of what an earlier stage found."""

from dataclasses import replace
from itertools import product

import numpy as np
import torch

from dicomnode.inference.before.padding import padded
from dicomnode.inference.picture import Affine, Cropped, Picture, Shape
from dicomnode.inference.scene import NothingToSee, Scene
from dicomnode.models.before import CropForeground, CropToStage

Box = tuple[Shape, Shape]  # start included, stop not


def crop_foreground(step: CropForeground, picture: Picture, scene: Scene) -> Picture:
    """The box of what is above the step's value in any channel, as MONAI's CropForeground finds it.

    Where the box leaves the volume, so that it has its margin or its multiple, 0 is added. Nothing above the value:
    the picture as it is.
    """
    del scene
    above = picture.voxels > step.above
    box = box_of(above[0] if len(above) == 1 else above.any(0))
    if box is None:
        return picture
    starts, stops = list(box[0]), list(box[1])
    for axis, count in enumerate(picture.shape):
        starts[axis], stops[axis] = starts[axis] - step.margin, stops[axis] + step.margin
        if step.margin_within:
            starts[axis], stops[axis] = max(starts[axis], 0), min(stops[axis], count)
        length = stops[axis] - starts[axis]
        wanted = -(-length // step.multiple) * step.multiple
        starts[axis] -= (wanted - length) // 2
        stops[axis] = starts[axis] + wanted
    return _cut_or_padded(picture, _triple(starts), _triple(stops))


def crop_to_stage(step: CropToStage, picture: Picture, scene: Scene) -> Picture:
    """The box of what an earlier stage found, with its margin in whole voxels, within the picture.

    Raises:
        NothingToSee: the stage found none of it in the picture, and the step says "skip".
    """
    found = scene.labels[step.stage]
    wanted = np.zeros(max(int(np.iinfo(found.dtype).max), *step.labels) + 1, np.bool_)
    wanted[list(step.labels)] = True
    box = box_of(torch.from_numpy(wanted[found]))
    if box is None:
        return _unfound(step, picture)
    start, stop = _moved_box(box, picture.from_source)
    margins = [int(step.margin_mm / mm) for mm in picture.spacing_mm]  # TotalSegmentator's rounding
    starts = [max(0, s - margin) for s, margin in zip(start, margins, strict=True)]
    stops = [min(n, s + margin) for s, margin, n in zip(stop, margins, picture.shape, strict=True)]
    if any(first >= last for first, last in zip(starts, stops, strict=True)):
        return _unfound(step, picture)  # it lies where this stage had already cropped
    return cropped(picture, _triple(starts), _triple(stops))


def _unfound(step: CropToStage, picture: Picture) -> Picture:
    if step.if_none == "skip":
        raise NothingToSee
    return picture


def box_of(mask: torch.Tensor) -> Box | None:
    """The box `[axis 0, axis 1, axis 2]` of what is true, or None."""
    starts, stops = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        places = torch.nonzero(mask.amax(others))
        if not len(places):
            return None
        starts[axis], stops[axis] = int(places[0]), int(places[-1]) + 1
    return _triple(starts), _triple(stops)


def cropped(picture: Picture, start: Shape, stop: Shape) -> Picture:
    """The picture cut to a box within it."""
    if start == (0, 0, 0) and stop == picture.shape:
        return picture
    box = tuple(slice(first, last) for first, last in zip(start, stop, strict=True))
    return replace(
        picture,
        voxels=picture.voxels[(slice(None), *box)],
        moves=(*picture.moves, Cropped(start, stop, picture.shape)),
        body=None if picture.body is None else picture.body[box],
    )


def _cut_or_padded(picture: Picture, start: Shape, stop: Shape) -> Picture:
    before = [max(-first, 0) for first in start]
    behind = [max(last - count, 0) for last, count in zip(stop, picture.shape, strict=True)]
    inner_start = [max(first, 0) for first in start]
    inner_stop = [min(last, count) for last, count in zip(stop, picture.shape, strict=True)]
    inner = cropped(picture, _triple(inner_start), _triple(inner_stop))
    return padded(inner, _triple(before), _triple(behind), 0.0)


def _moved_box(box: Box, affine: Affine) -> Box:
    """The smallest box of whole voxels that holds the centres of the box's voxels."""
    (start, stop) = box
    ends = [(first, last - 1) for first, last in zip(start, stop, strict=True)]
    corners = np.array([[*corner, 1.0] for corner in product(*ends)]) @ affine.T
    low, high = corners[:, :3].min(0), corners[:, :3].max(0)
    return _triple([int(n) for n in np.floor(low + 1e-6)]), _triple([int(n) + 1 for n in np.ceil(high - 1e-6)])


def _triple(numbers: list[int]) -> Shape:
    first, second, third = numbers
    return first, second, third
