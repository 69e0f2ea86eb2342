"""Step "resample" by grid rule "centres": `skimage.transform.resize` as nnU-Net calls it.

With `apart_above` an axis that is much coarser than the others is sampled by itself.
"""

from dataclasses import replace

from dicomnode.inference.centres import Apart, apart_axis, resized
from dicomnode.inference.picture import Picture
from dicomnode.inference.sampling import plan_sampling
from dicomnode.inference.scene import Scene
from dicomnode.models.before import Resample


def resample_centres(step: Resample, picture: Picture, scene: Scene) -> Picture:
    """The picture at the step's spacing; the move remembers what was body, for labels that go the same way."""
    del scene
    spacing_mm = step.spacing_beside(picture.spacing_mm)
    move = plan_sampling(picture.shape, picture.spacing_mm, spacing_mm, step.grid)
    if move.new_shape == move.shape and move.new_spacing_mm == move.spacing_mm:
        return picture
    axis = None if step.apart_above is None else apart_axis(picture.spacing_mm, spacing_mm, step.apart_above)
    apart = None if axis is None else Apart(axis, step.apart_order)
    return replace(
        picture,
        voxels=resized(picture.voxels, move.new_shape, step.order, apart),
        spacing_mm=spacing_mm,
        moves=(*picture.moves, replace(move, apart_axis=axis, body=picture.body)),
        body=None,
    )
