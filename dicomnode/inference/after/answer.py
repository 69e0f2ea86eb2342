"""What a network said, on its way to labels on the scanner's grid.

Scores lie on the network's grid until they are decided. The step "back" on scores only notes how they are to be
brought back, so that the decision can be made slice by slice and no score is ever stored on the scanner's grid.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.errors import ModelError
from dicomnode.inference.picture import Move, Padded, Spacing
from dicomnode.models.after import Back

LabelArray = NDArray[np.uint8 | np.uint16]  # [axis 0, axis 1, axis 2]
Function = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores `[class, axis 0, axis 1, axis 2]` on a grid that `moves` lead to from the scanner's."""

    values: torch.Tensor
    moves: tuple[Move, ...]
    spacing_mm: Spacing
    function: Function | None = None  # what was applied to them; None: they are logits
    winners: LabelArray | None = None  # the class with the highest score, where that is known
    back: Back | None = None  # they are to be decided on the scanner's grid
    finish: Function | None = None  # what is applied there, before the decision


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Labels on a grid that `moves` lead to from the scanner's; no moves: on the scanner's own."""

    labels: LabelArray
    moves: tuple[Move, ...]
    spacing_mm: Spacing

    def with_labels(self, labels: LabelArray) -> "Found":
        """Other labels at the same place."""
        return replace(self, labels=labels)


Answer = Scores | Found


def begin(logits: torch.Tensor, moves: tuple[Move, ...], spacing_mm: Spacing) -> Scores:
    """The logits `[class, ...]` of a network without the voxels that padding had added last."""
    while moves and isinstance(moves[-1], Padded):
        padded = moves[-1]
        for axis, (first, count) in enumerate(zip(padded.before, padded.shape, strict=True), 1):
            logits = logits.narrow(axis, first, count)
        moves = moves[:-1]
    return Scores(logits, moves, spacing_mm)


def scores_for(step: str, answer: Answer) -> Scores:
    """The answer, which has to be scores that are not yet to be decided elsewhere.

    Raises:
        ModelError: it is labels, or scores on their way back.
    """
    if isinstance(answer, Found):
        raise ModelError(f"after: step {step!r} expected scores, found labels; it stands before 'decide'")
    return answer


def labels_for(step: str, answer: Answer) -> Found:
    """The answer, which has to be labels.

    Raises:
        ModelError: it is scores.
    """
    if isinstance(answer, Scores):
        raise ModelError(f"after: step {step!r} expected labels, found scores; it stands behind 'decide'")
    return answer


def label_dtype(highest: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds labels up to `highest`."""
    return np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
