"""Step "resample": another spacing, by one of the grid rules."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging.orientation import axes_between, axis_letters
from dicomnode.inference.before.apart import resample_centres
from dicomnode.inference.before.orient import turned
from dicomnode.inference.monai_grid import plan_monai_sampling
from dicomnode.inference.picture import Picture, Sampled, Turned
from dicomnode.inference.sampling import plan_sampling, sample
from dicomnode.inference.scene import Scene
from dicomnode.inference.zooming import zoom_linear
from dicomnode.models.before import GridRule, Resample


def resample(step: Resample, picture: Picture, scene: Scene) -> Picture:
    """The picture at the step's spacing."""
    return _BY_RULE[step.grid](step, picture, scene)


def _of_the_source(step: Resample, picture: Picture, scene: Scene) -> Picture:
    """By `scene.resample`, which knows whole volumes only: what was turned before is turned afterwards."""
    if not all(isinstance(move, Turned) for move in picture.moves):
        raise ModelError('grid = "faces": expected no crop, padding or other resample before it; use another grid')
    source = scene.source.geometry
    axis_map = axes_between(axis_letters(source), picture.letters)
    wanted_mm = step.spacing_beside(picture.spacing_mm)
    first, second, third = (wanted_mm[axis_map.permutation.index(axis)] for axis in range(3))
    volume = scene.resample(scene.source, (first, second, third))
    to_index = np.asarray(np.linalg.solve(volume.geometry.affine, source.affine), np.float64)
    shape, sampled_mm = volume.geometry.shape, volume.geometry.spacing_mm
    moved = Sampled(to_index, source.shape, source.spacing_mm, shape, sampled_mm)
    voxels = torch.from_numpy(np.ascontiguousarray(volume.voxels))[None].to(scene.device)
    moves = (moved, Turned(axis_map, shape)) if picture.moves else (moved,)
    first, second, third = (sampled_mm[axis] for axis in axis_map.permutation)
    return replace(picture, voxels=turned(voxels, axis_map), spacing_mm=(first, second, third), moves=moves)


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
