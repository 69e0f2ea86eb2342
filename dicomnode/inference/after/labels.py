"""Steps on labels: holes filled, numbers exchanged."""

import numpy as np
from scipy import ndimage

from dicomnode.inference.after.answer import Answer, Found, label_dtype, labels_for
from dicomnode.inference.scene import Scene
from dicomnode.models.after import FillHoles, Relabel

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # as MONAI's FillHoles: the outside leaks through corners


def fill_holes(step: FillHoles, answer: Answer, scene: Scene) -> Found:
    """What a label encloses becomes that label, whatever it was; later labels over earlier ones."""
    del scene
    found = labels_for("fill-holes", answer)
    labels = found.labels.copy()
    for label in step.labels:
        mask = labels == label
        boxes = ndimage.find_objects(mask.view(np.uint8))
        if boxes:
            filled = np.asarray(ndimage.binary_fill_holes(mask[boxes[0]], structure=_NEIGHBOURS), np.bool_)
            labels[boxes[0]][filled] = label
    return found.with_labels(labels)


def relabel(step: Relabel, answer: Answer, scene: Scene) -> Found:
    """Labels become others."""
    del scene
    found = labels_for("relabel", answer)
    highest = int(np.iinfo(found.labels.dtype).max)
    dtype = label_dtype(max(highest, *step.labels.values()))
    table = np.arange(highest + 1).astype(dtype)
    for old, new in step.labels.items():
        if old <= highest:
            table[old] = new
    return found.with_labels(table[found.labels])
