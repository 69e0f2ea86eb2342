"""One file per step, or family of steps, that `[[stages.after]]` may name: what it does to a network's answer."""

from collections.abc import Callable, Mapping
from typing import Any

from dicomnode.inference.after.activation import activate
from dicomnode.inference.after.answer import Answer, Found, Scores, begin
from dicomnode.inference.after.back import back
from dicomnode.inference.after.decision import decide
from dicomnode.inference.after.islands import largest_components, largest_of_all, minimum_volume
from dicomnode.inference.after.labels import fill_holes, relabel
from dicomnode.inference.scene import Scene
from dicomnode.models import after
from dicomnode.models.fields import Table

__all__ = ["AFTER", "Answer", "Found", "Scores", "apply", "begin"]

Apply = Callable[[Any, Answer, Scene], Answer]

AFTER: Mapping[type[Table], Apply] = {
    after.Activate: activate,
    after.Back: back,
    after.Decide: decide,
    after.FillHoles: fill_holes,
    after.LargestComponents: largest_components,
    after.LargestOfAll: largest_of_all,
    after.MinimumVolume: minimum_volume,
    after.Relabel: relabel,
}


def apply(step: after.AfterStep, answer: Answer, scene: Scene) -> Answer:
    """The answer after a step.

    Raises:
        ModelError: the step wants another answer than the steps before it leave.
    """
    return AFTER[type(step)](step, answer, scene)
