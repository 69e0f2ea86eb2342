"""Step "decide": scores become labels, on the network's grid or, behind `back`, slice by slice on the scanner's."""

from dicomnode.inference.after.answer import Answer, Found, scores_for
from dicomnode.inference.after.choosing import Choice
from dicomnode.inference.after.returning import chosen_here, returned
from dicomnode.inference.after.undoing import undone
from dicomnode.inference.scene import Scene
from dicomnode.models.after import Decide


def decide(step: Decide, answer: Answer, scene: Scene) -> Found:
    """The labels by the step's rule.

    Raises:
        ModelError: the rule does not fit the number of scores.
    """
    scores = scores_for("decide", answer)
    choice = Choice(step, len(scores.values), scores.finish)
    if scores.back is None:
        return Found(chosen_here(choice, scores), scores.moves, scores.spacing_mm)
    labels, moves = returned(choice, scores, scene)
    return Found(undone(labels, moves), (), scene.source.geometry.spacing_mm)
