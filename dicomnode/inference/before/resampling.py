"""Step "resample": another spacing, by one of the grid rules."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging import Volume
from dicomnode.imaging.orientation import axes_between, axis_letters
from dicomnode.imaging.volume import Voxels
from dicomnode.inference.before.apart import resample_centres
from dicomnode.inference.before.orient import turned
from dicomnode.inference.monai_grid import plan_monai_sampling
from dicomnode.inference.picture import Cropped, Picture, Sampled, Shape, Turned
from dicomnode.inference.room import require_room
from dicomnode.inference.sampling import plan_sampling, sample
from dicomnode.inference.scene import Scene
from dicomnode.inference.zooming import zoom_linear
from dicomnode.models.before import GridRule, Resample


def resample(step: Resample, picture: Picture, scene: Scene) -> Picture:
    """The picture at the step's spacing.

    Raises:
        ModelError: it cannot be had at it, or is larger than this computer's memory.
        Unavailable: there is no room for it now.
    """
    axes = zip(picture.shape, picture.spacing_mm, step.spacing_beside(picture.spacing_mm), strict=True)
    require_room([max(1.0, count * mm / new_mm) for count, mm, new_mm in axes], len(picture.voxels))
    return _BY_RULE[step.grid](step, picture, scene)


def _of_the_source(step: Resample, picture: Picture, scene: Scene) -> Picture:
    """By `scene.resample`, which knows whole volumes only: what was turned before is turned afterwards."""
    if not all(isinstance(move, Turned | Cropped) for move in picture.moves):
        raise ModelError('grid = "faces": expected no padding or other resample before it; use another grid')
    kept = _kept_of_the_source(picture, scene.source.geometry.shape)
    source = _cut(scene.source, kept)
    axis_map = axes_between(axis_letters(source.geometry), picture.letters)
    wanted_mm = step.spacing_beside(picture.spacing_mm)
    first, second, third = (wanted_mm[axis_map.permutation.index(axis)] for axis in range(3))
    volume = scene.resample(source, (first, second, third))
    to_index = np.asarray(np.linalg.solve(volume.geometry.affine, source.geometry.affine), np.float64)
    shape, sampled_mm = volume.geometry.shape, volume.geometry.spacing_mm
    moved = Sampled(to_index, source.geometry.shape, source.geometry.spacing_mm, shape, sampled_mm)
    voxels = torch.from_numpy(np.ascontiguousarray(volume.voxels))[None].to(scene.device)
    moves = (moved, Turned(axis_map, shape)) if picture.moves else (moved,)
    moves = moves if source is scene.source else (kept, *moves)
    first, second, third = (sampled_mm[axis] for axis in axis_map.permutation)
    return replace(picture, voxels=turned(voxels, axis_map), spacing_mm=(first, second, third), moves=moves, body=None)


def _kept_of_the_source(picture: Picture, shape: Shape) -> Cropped:
    """The box of the scanner's grid that is left after turns and crops."""
    corners = np.array([(0, 0, 0, 1), (*(count - 1 for count in picture.shape), 1)], np.float64)
    ends = np.rint(corners @ np.linalg.inv(picture.from_source).T)[:, :3].astype(int)
    (first, second, third), (last, behind, right) = ends.min(0).tolist(), (ends.max(0) + 1).tolist()
    return Cropped((first, second, third), (last, behind, right), shape)


def _cut(volume: Volume, kept: Cropped) -> Volume:
    """A box of a volume."""
    if kept.stop == kept.shape and kept.start == (0, 0, 0):
        return volume
    box = tuple(slice(first, last) for first, last in zip(kept.start, kept.stop, strict=True))
    voxels, affine = cast(Voxels, np.ascontiguousarray(volume.voxels[box])), volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ kept.start
    slices, rows, columns = voxels.shape
    geometry = replace(volume.geometry, affine=affine, shape=(slices, rows, columns))
    return Volume(voxels, geometry, volume.sources[box[0]])


def _by_rule(step: Resample, picture: Picture, scene: Scene) -> Picture:
    del scene
    move = plan_sampling(picture.shape, picture.spacing_mm, step.spacing_beside(picture.spacing_mm), step.grid)
    if move.new_shape == move.shape and move.new_spacing_mm == move.spacing_mm:
        return picture
    if step.grid == "corners" and step.order == 1:  # in FP64: it may be cut to whole numbers next
        return moved_to(picture, move, zoom_linear(picture.voxels, move.new_shape))
    return moved_to(picture, move, sample(picture.voxels, move, step.order))


def _as_monai(step: Resample, picture: Picture, scene: Scene) -> Picture:
    affine = scene.source.geometry.affine @ np.linalg.inv(picture.from_source)
    wanted_mm = step.spacing_beside(picture.spacing_mm)
    move = plan_monai_sampling(affine, picture.shape, picture.spacing_mm, wanted_mm)
    return moved_to(picture, move, sample(picture.voxels, move, step.order)) if move else picture


def moved_to(picture: Picture, move: Sampled, voxels: torch.Tensor) -> Picture:
    """The picture after a resampling move."""
    moves = (*picture.moves, move)
    return replace(picture, voxels=voxels, spacing_mm=move.new_spacing_mm, moves=moves, body=None)


_BY_RULE: Mapping[GridRule, Callable[[Resample, Picture, Scene], Picture]] = {
    "faces": _of_the_source,
    "centres": resample_centres,
    "corners": _by_rule,
    "monai": _as_monai,
}
