"""Steps "back" and "decide" together, on a grid that was resampled by rule "centres": nnU-Net's way.

With `apart_above` an axis that is much coarser than the others goes by itself; with `halves` what was interpolated is
rounded as nnU-Net's arrays round it.
"""

from collections.abc import Iterator

import numpy as np
import torch

from dicomnode.inference.after.answer import LabelArray
from dicomnode.inference.after.choosing import Choice
from dicomnode.inference.centres import Apart, apart_axis, resized
from dicomnode.inference.centres_back import labels_between, resampled_taps
from dicomnode.inference.deciding import MOST_REGIONS, Decision
from dicomnode.inference.picture import Sampled
from dicomnode.models.after import Back


def is_linear_of_centres(choice: Choice, move: Sampled, back: Back) -> bool:
    """Whether `linear_labels` has the answer."""
    if move.grid != "centres" or back.order != 1 or not (back.halves or back.apart_above):
        return False
    few_regions = choice.step.rule == "regions" and choice.classes <= MOST_REGIONS
    return back.apart_order == 0 and (few_regions or choice.step.rule == "highest")


def linear_labels(choice: Choice, values: torch.Tensor, move: Sampled, back: Back, threads: int) -> LabelArray:
    """Scores on the grid that the move leads to -> labels on the one before it."""
    regions = choice.step.values if choice.step.rule == "regions" else None
    rounding = "half" if back.halves else "single"
    sigmoid = choice.finish == "sigmoid"
    decision = Decision(choice.classes, rounding, regions, choice.step.threshold, sigmoid)
    taps = resampled_taps(move.new_shape, move.shape, _axis(move, back))
    return labels_between(values.cpu(), taps, decision, threads)


def slabs_apart(values: torch.Tensor, move: Sampled, back: Back) -> Iterator[tuple[slice, Iterator[torch.Tensor]]]:
    """The whole volume at once, the scores `[slab, row, column]` of one class after the other."""
    axis = _axis(move, back)
    apart = None if axis is None else Apart(axis, back.apart_order)
    fields = (resized(field[None], move.shape, back.order, apart)[0] for field in values)
    yield slice(0, move.shape[0]), (_halves(field) if back.halves else field for field in fields)


def _axis(move: Sampled, back: Back) -> int | None:
    """The way back looks at the network's spacing first."""
    return None if back.apart_above is None else apart_axis(move.new_spacing_mm, move.spacing_mm, back.apart_above)


def _halves(field: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(field.cpu().numpy().astype(np.float16))
