"""Stages that are decided while their network still runs: the logits of one window's depth are all that is kept.

That is possible where nothing looks at the scores of the whole volume at once: one network, scores that go back
linearly, the highest class. Other stages keep their logits (`stages.say` and `stages.conclude`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference import after
from dicomnode.inference.admission import Course
from dicomnode.inference.after.answer import Found, label_dtype
from dicomnode.inference.after.undoing import undone
from dicomnode.inference.picture import Affine, Move, Padded, Picture, Sampled, Shape, Turned, index_map
from dicomnode.inference.planning import importance_of
from dicomnode.inference.scene import Scene
from dicomnode.inference.slabs import Slab, Sweep, finished_slabs
from dicomnode.inference.stages import Clock, NamedForward, conclude, fitted, forward_of, say
from dicomnode.inference.streaming import Way, labels_of_slabs
from dicomnode.models.after import Activate, AfterStep, Back, Decide
from dicomnode.models.stages import Network, Stage

_REACH_VOXELS = 0.5 + 1e-3  # beyond the outer centres of a grid that is not parallel to the scanner's


@dataclass(frozen=True, slots=True, eq=False)
class Return:
    """How the scores of a stage come back as they arrive."""

    way: Way  # to the grid behind `earlier`
    earlier: tuple[Move, ...]  # are undone on the labels
    start: Shape  # of what comes back, in the picture
    softmax: bool  # the highest probability is looked for
    rest: tuple[AfterStep, ...]  # on the labels


@dataclass(frozen=True, slots=True, eq=False)
class Showing:
    """What is shown to the networks of a stage, and how."""

    stage: Stage
    network: Network
    forwards: Sequence[NamedForward]
    picture: Picture
    course: Course
    returned: Return | None  # None: the logits are kept


def plan_return(stage: Stage, picture: Picture) -> Return | None:
    """How the scores of a picture come back while the network runs; None: not at all."""
    decision = _decision(stage)
    if decision is None or stage.windows.style != "monai" or len(stage.networks) > 1:
        return None
    moves, start, shape = _without_last_padding(picture)
    where = [index for index, move in enumerate(moves) if isinstance(move, Sampled)]
    if not where or not all(isinstance(move, Turned) for move in moves[where[-1] + 1 :]):
        return None
    found = _way(moves, where[-1], shape)
    return Return(*found, start, *decision) if found[0].is_possible else None


def answer(showing: Showing, scene: Scene, clock: Clock) -> Labels:
    """The labels of a stage on the source grid; notes what the windows took and what the way back did.

    Raises:
        ModelError: a network gives NaN, infinity or another shape; names stage and network.
    """
    if showing.returned is not None:
        return _swept(showing, showing.returned, scene, clock)
    with clock.phase("windows"):
        logits = say(showing.stage, showing.network, showing.forwards, showing.picture, showing.course)
    with clock.phase("back"):
        return conclude(showing.stage, logits, showing.picture, scene)


def _swept(showing: Showing, returned: Return, scene: Scene, clock: Clock) -> Labels:
    slabs = clock.each("windows", _slabs(showing, returned))
    classes = showing.network.out_channels
    values = np.arange(classes, dtype=label_dtype(classes))  # and one mark more
    with clock.phase("back", without="windows"):
        labels = labels_of_slabs(slabs, returned.way, values, softmax=returned.softmax, threads=scene.threads)
        found: after.Answer = Found(undone(labels, returned.earlier), (), scene.source.geometry.spacing_mm)
        for step in returned.rest:
            found = after.apply(step, found, scene)
    return cast(Labels, cast(Found, found).labels)


def _slabs(showing: Showing, returned: Return) -> Iterator[Slab]:
    stage, course = showing.stage, showing.course
    (named,) = showing.forwards
    channels, inner = fitted(stage, showing.network, showing.picture, course)
    first, second, third = (side.start + before for side, before in zip(inner, returned.start, strict=True))
    sweep = Sweep(
        course.plan,
        returned.way.shape,
        showing.network.out_channels,
        returned.way.swept_axis,
        (first, second, third),
        importance=importance_of(stage.windows, course.plan),
    )

    def window_at(place: tuple[slice, ...]) -> torch.Tensor:
        return channels[(slice(None), *place)]

    try:
        yield from finished_slabs(forward_of(stage, showing.network, named, course), window_at, sweep)
    except ModelError as error:
        raise ModelError(f"stage {stage.name!r}, network {named.name!r}: {error}") from error


def _decision(stage: Stage) -> tuple[bool, tuple[AfterStep, ...]] | None:
    """Whether the highest probability is decided, rather than the highest logit, and the steps behind that."""
    match stage.after:
        case [Activate(function="softmax"), Back() as back, Decide(rule="highest"), *rest]:
            softmax = True
        case [Back() as back, Decide(rule="highest"), *rest]:
            softmax = False
        case [Back() as back, Activate(), Decide(rule="highest"), *rest]:  # which changes no order
            softmax = False
        case _:
            return None
    is_plain = back.order == 1 and back.apart_above is None and not back.halves
    return (softmax, tuple(rest)) if is_plain else None


def _without_last_padding(picture: Picture) -> tuple[tuple[Move, ...], Shape, Shape]:
    """The moves before the padding that came last, and the box `start`, `shape` of what was there."""
    moves, starts, shape = picture.moves, [0, 0, 0], picture.shape
    while moves and isinstance(moves[-1], Padded):
        starts = [start + before for start, before in zip(starts, moves[-1].before, strict=True)]
        shape, moves = moves[-1].shape, moves[:-1]
    return moves, (starts[0], starts[1], starts[2]), shape


def _way(moves: tuple[Move, ...], last: int, shape: Shape) -> tuple[Way, tuple[Move, ...]]:
    """To the grid before the last resampling and its turns; at once where a sheared volume was made upright."""
    if not all(move.is_separable for move in moves if isinstance(move, Sampled)):
        return Way(_index_map(moves), moves[0].shape, shape, _REACH_VOXELS), ()
    while last > 0 and isinstance(moves[last - 1], Turned):
        last -= 1
    return Way(_index_map(moves[last:]), moves[last].shape, shape), moves[:last]


def _index_map(moves: tuple[Move, ...]) -> Affine:
    affine = np.eye(4)
    for move in moves:
        affine = index_map(move) @ affine
    return affine
