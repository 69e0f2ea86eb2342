"""Step "back": from the network's grid to the scanner's."""

from dataclasses import replace

from dicomnode.errors import ModelError
from dicomnode.inference.after.answer import Answer, Found
from dicomnode.inference.after.undoing import undone
from dicomnode.inference.scene import Scene
from dicomnode.models.after import Back


def back(step: Back, answer: Answer, scene: Scene) -> Answer:
    """Labels from the nearest voxel of the network's grid; scores are only marked, to be decided over there."""
    if isinstance(answer, Found):
        return Found(undone(answer.labels, answer.moves), (), scene.source.geometry.spacing_mm)
    if answer.back:
        raise ModelError("after: expected one step 'back', found two")
    return replace(answer, back=step)
