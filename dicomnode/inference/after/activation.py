"""Step "activate": logits become probabilities."""

from dataclasses import replace

import torch

from dicomnode.errors import ModelError
from dicomnode.inference.after.answer import Answer, Scores, scores_for
from dicomnode.inference.probabilities import softmax_in_place
from dicomnode.inference.scene import Scene
from dicomnode.models.after import Activate


def activate(step: Activate, answer: Answer, scene: Scene) -> Scores:
    """The same scores as probabilities, in place; behind `back` that is done where they are decided."""
    del scene
    scores = scores_for("activate", answer)
    if scores.function or scores.finish:
        raise ModelError("after: expected one step 'activate', found two")
    if scores.back:
        return replace(scores, finish=step.function)
    if step.function == "softmax":
        return _softmax(scores)
    return replace(scores, values=scores.values.sigmoid_(), function="sigmoid")


def _softmax(scores: Scores) -> Scores:
    _, first, second, third = scores.values.shape
    values, winners = softmax_in_place(scores.values, (first, second, third))
    return replace(scores, values=torch.from_numpy(values), winners=winners, function="softmax")
