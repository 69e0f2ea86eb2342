"""Step "crop-nonzero": the box of what is not 0 in any channel (nnU-Net)."""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from dicomnode.inference.before.crops import box_of, cropped
from dicomnode.inference.picture import Picture
from dicomnode.inference.scene import Scene
from dicomnode.models.before import CropNonzero


def crop_nonzero(step: CropNonzero, picture: Picture, scene: Scene) -> Picture:
    """The picture cut to the box of what is not 0, holes filled; `body` says what was not."""
    del step, scene
    body = (picture.voxels != 0).any(0)
    box, marked = box_of(body), replace(picture, body=body)
    return marked if box is None else _filled(cropped(marked, *box))


def _filled(picture: Picture) -> Picture:
    """Holes of the body filled: within its box they are those of the whole volume."""
    if picture.body is None:
        return picture
    filled = np.asarray(ndimage.binary_fill_holes(picture.body.cpu().numpy()), np.bool_)
    return replace(picture, body=torch.from_numpy(filled).to(picture.voxels.device))
