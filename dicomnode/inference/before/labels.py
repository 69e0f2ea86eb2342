"""Step "add-labels": what an earlier stage found, as channels of 0 and 1 (nnU-Net's cascade)."""

import numpy as np
import torch

from dicomnode.inference.before.cascade import follows_nnunet, labels_along
from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import Scene
from dicomnode.models.before import AddLabels


def add_labels(step: AddLabels, picture: Picture, scene: Scene) -> Picture:
    """One channel more for each label: 1 where it is, else 0; resampled as nnU-Net does it, else the nearest voxel."""
    labels = scene.labels[step.stage]
    at = labels_along(picture, labels) if follows_nnunet(picture) else nearest_on_source(labels, picture)
    channels = [torch.from_numpy(at == label).to(picture.voxels.device, torch.float32) for label in step.labels]
    return picture.with_voxels(torch.cat([picture.voxels.float(), torch.stack(channels)]))


def nearest_on_source(labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]], picture: Picture):
    """The label of the source voxel nearest to each voxel of the picture; 0 beside the source grid."""
    to_source = np.linalg.inv(picture.from_source)
    first, second, third = (np.arange(count, dtype=np.float64) for count in picture.shape)
    found = np.empty(picture.shape, labels.dtype)
    for index in first.astype(np.intp):  # plane by plane: a picture may be turned or sheared
        inside, places = np.ones((second.size, third.size), np.bool_), []
        for axis, size in enumerate(labels.shape):
            a, b, c, offset = to_source[axis]
            at = np.floor(a * index + b * second[:, None] + c * third + offset + 0.5).astype(np.intp)
            inside &= (at >= 0) & (at < size)
            places.append(np.clip(at, 0, size - 1))
        found[index] = np.where(inside, labels[tuple(places)], 0)
    return found
