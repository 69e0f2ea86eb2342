"""Stray islands of a structure that the manifest says is in few pieces lose to the runner-up class."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8 | np.uint16]
Mask = NDArray[np.bool_]

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # voxels that touch at a corner belong together


def keep_largest_components(probabilities: Floats, winners: Labels, kept: Mapping[int, int]) -> None:
    """Keep the `kept[class]` largest components of each class named, in place.

    Elsewhere the class gets probability 0, the others are scaled to sum to 1, and the most probable of them wins;
    where nothing else was probable at all, background does. That may give another named class a new island, so it
    is looked at again; no voxel returns to a class that it lost, so this ends.

    Args:
        probabilities: [class, a0, a1, a2], summing to 1 over classes.
        winners: [a0, a1, a2], the most probable class.
        kept: how many components stay, by class.
    """
    waiting = set(kept)
    while waiting:
        index = min(waiting)
        waiting.discard(index)
        islands = _islands(winners, index, kept[index])
        if islands[0].size:
            waiting |= _give_away(probabilities, winners, index, islands) & set(kept)


def _islands(winners: Labels, index: int, kept: int) -> tuple[NDArray[np.intp], ...]:
    """Voxel indices of all but the `kept` largest components; of equals the one that comes first stays."""
    mask: Mask = winners == index
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return (np.empty(0, np.intp),) * 3
    box = boxes[0]
    components = np.empty(mask[box].shape, dtype=np.int32)
    ndimage.label(mask[box], structure=_NEIGHBOURS, output=components)
    sizes = np.bincount(components.ravel())
    largest = np.argsort(-sizes[1:], kind="stable")[:kept] + 1
    is_island = np.ones(sizes.size, dtype=bool)
    is_island[[0, *largest]] = False
    places = np.nonzero(is_island[components])
    return tuple(place + side.start for place, side in zip(places, box, strict=True))


def _give_away(probabilities: Floats, winners: Labels, index: int, voxels: tuple[NDArray[np.intp], ...]) -> set[int]:
    """Let the runner-up win the voxels; which classes won some."""
    rest = probabilities[(slice(None), *voxels)]  # [class, voxel]
    rest[index] = 0.0
    total = rest.sum(axis=0)
    rest[0, total == 0] = 1.0
    rest /= np.where(total == 0, np.float32(1), total)
    probabilities[(slice(None), *voxels)] = rest
    winners[voxels] = rest.argmax(axis=0)
    return set(np.unique(winners[voxels]).tolist())
