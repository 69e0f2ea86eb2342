"""Steps that remove what is not connected with the rest; voxels that touch at a corner belong together."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import ModelError
from dicomnode.inference.after.answer import Answer, Found, LabelArray, Scores, labels_for, scores_for
from dicomnode.inference.components import keep_largest_components
from dicomnode.inference.scene import Scene
from dicomnode.models.after import LargestComponents, LargestOfAll, MinimumVolume

Mask = NDArray[np.bool_]
Chosen = Callable[[NDArray[np.intp]], Mask]  # sizes in voxels -> which of them stay
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


def largest_components(step: LargestComponents, answer: Answer, scene: Scene) -> Answer:
    """So many of the largest components of each label named stay; the rest becomes background or the runner-up."""
    del scene
    if step.rest == "runner-up":
        return _with_runners_up(step.keep, scores_for("largest-components", answer))
    found = labels_for("largest-components", answer)
    labels = found.labels.copy()
    for label, kept in step.keep.items():
        _keep(labels, labels == label, lambda sizes, kept=kept: _largest(sizes, kept))
    return found.with_labels(labels)


def largest_of_all(step: LargestOfAll, answer: Answer, scene: Scene) -> Found:
    """The largest components of all labels taken together stay."""
    del scene
    found = labels_for("largest-of-all", answer)
    labels = found.labels.copy()
    _keep(labels, labels != 0, lambda sizes: _largest(sizes, step.keep))
    return found.with_labels(labels)


def minimum_volume(step: MinimumVolume, answer: Answer, scene: Scene) -> Found:
    """Components smaller than so many millilitres become background."""
    found = labels_for("minimum-volume", answer)
    voxel_ml = float(np.prod(found.spacing_mm)) / 1000 if found.moves else scene.source.geometry.voxel_volume_ml
    labels = found.labels.copy()
    for label, least_ml in step.volume_ml.items():
        least = least_ml / voxel_ml
        _keep(labels, labels == label, lambda sizes, least=least: sizes >= least)
    return found.with_labels(labels)


def _with_runners_up(keep: Mapping[int, int], scores: Scores) -> Scores:
    if scores.function != "softmax" or scores.winners is None or scores.back:
        raise ModelError(
            "after: largest-components with the runner-up expected to stand between 'activate' (softmax) and 'back'"
        )
    probabilities, winners = scores.values.cpu().numpy(), scores.winners
    keep_largest_components(probabilities, winners, keep)
    return replace(scores, values=torch.from_numpy(probabilities), winners=winners)


def _keep(labels: LabelArray, mask: Mask, chosen: Chosen) -> None:
    """Set to 0, in place, what is in components of the mask that were not chosen by their sizes."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return
    box = boxes[0]
    components = np.empty(mask[box].shape, dtype=np.int32)
    ndimage.label(mask[box], structure=_NEIGHBOURS, output=components)
    sizes = np.bincount(components.ravel())
    goes = np.zeros(sizes.size, dtype=bool)
    goes[1:] = ~chosen(sizes[1:])
    labels[box][goes[components]] = 0


def _largest(sizes: NDArray[np.intp], kept: int) -> Mask:
    """Which are the largest; of equals the one that comes first."""
    stays = np.zeros(sizes.size, dtype=bool)
    stays[np.argsort(-sizes, kind="stable")[:kept]] = True
    return stays
