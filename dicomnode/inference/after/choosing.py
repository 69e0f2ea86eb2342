"""Scores become labels class by class, so that no more than one class has to be there at a time."""

from dataclasses import dataclass

import torch

from dicomnode.errors import ModelError
from dicomnode.inference.after.answer import Function, LabelArray, label_dtype
from dicomnode.models.after import Decide

_MOST_REGIONS = 15  # bits of a label


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule by which the labels of so many scores are chosen."""

    step: Decide
    classes: int
    finish: Function | None = None  # applied to scores before they are looked at

    def __post_init__(self) -> None:
        if self.step.rule == "regions" and len(self.step.values) != self.classes:
            problem = f"expected one for each of {self.classes} regions, found {len(self.step.values)}"
            raise ModelError(f"key 'decide.values': {problem}")
        if self.step.rule == "overlapping" and self.classes > _MOST_REGIONS:
            raise ModelError(f"decide: expected up to {_MOST_REGIONS} overlapping regions, found {self.classes}")
        if self.finish == "softmax" and self.step.rule != "highest":
            raise ModelError(f"decide: rule {self.step.rule!r} expected softmax before 'back', found it behind")

    @property
    def highest_label(self) -> int:
        """No label is higher."""
        if self.step.rule == "overlapping":
            return (1 << self.classes) - 1
        return max(self.step.values) if self.step.rule == "regions" else self.classes - 1

    def start(self) -> "Chooser":
        """For the scores of one place, of class 0, 1, 2 and so on."""
        return Chooser(self)


class Chooser:
    """Takes the scores of one class after the other."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._best: torch.Tensor | None = None
        self._labels = torch.empty(0, dtype=torch.int32)
        self._next = 0

    def take(self, scores: torch.Tensor) -> None:
        """Look at the scores of the next class."""
        index, self._next = self._next, self._next + 1
        if index == 0:
            self._labels = torch.zeros(scores.shape, dtype=torch.int32, device=scores.device)
        if self._choice.step.rule == "highest":
            self._take_highest(index, scores)
        else:
            self._take_region(index, scores.float().sigmoid() if self._choice.finish == "sigmoid" else scores)

    def labels(self) -> LabelArray:
        """What was chosen."""
        return self._labels.cpu().numpy().astype(label_dtype(self._choice.highest_label))

    def _take_highest(self, index: int, scores: torch.Tensor) -> None:
        """Of equals the first stays. A running maximum beats argmax; activations do not change it."""
        if self._best is None:
            self._best = scores.clone()
            return
        self._labels.masked_fill_(scores > self._best, index)
        torch.maximum(self._best, scores, out=self._best)

    def _take_region(self, index: int, scores: torch.Tensor) -> None:
        above = scores > self._choice.step.threshold
        if self._choice.step.rule == "regions":
            self._labels.masked_fill_(above, self._choice.step.values[index])
        else:
            self._labels |= above.int() << index
