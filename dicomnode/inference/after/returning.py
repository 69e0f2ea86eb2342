"""Scores on the network's grid -> labels on a grid nearer to the scanner's, without storing scores there.

The last resampling is undone together with the decision; what came behind it (turns, crops, padding) is exact and
done to the scores before, what came ahead of it is left to the labels. Linear scores with a highest class go the fast
way (`source_grid`); splines, and decisions by region, go slab by slab and class by class.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging.orientation import AxisMap, to_source
from dicomnode.inference.after.answer import LabelArray, Scores, label_dtype
from dicomnode.inference.after.apart import is_linear_of_centres, linear_labels, slabs_apart
from dicomnode.inference.after.choosing import Choice
from dicomnode.inference.picture import Affine, Cropped, Move, Padded, Sampled, Shape, Turned, index_map
from dicomnode.inference.sampling import RULES, AxisSampler, axes_of, positions_back
from dicomnode.inference.scene import Scene
from dicomnode.inference.source_grid import ClassScores, labels_from_scores
from dicomnode.models.after import Back

Floats = NDArray[np.float32]
Moves = tuple[Move, ...]
Labelled = tuple[LabelArray, Moves]  # and the moves that are left to be undone

_REACH_VOXELS = 0.5 + 1e-3  # beyond the outer centres of a grid that is not parallel to the scanner's
_SLAB_VALUES = 1 << 22  # of FP64 at a time


def returned(choice: Choice, scores: Scores, scene: Scene) -> Labelled:
    """The labels that the choice makes of scores that are interpolated back, as far as that is one resampling."""
    where = [index for index, move in enumerate(scores.moves) if isinstance(move, Sampled)]
    if not where or scores.back is None:
        return chosen_here(choice, scores), scores.moves
    head, tail = scores.moves[: where[-1] + 1], scores.moves[where[-1] + 1 :]
    is_linear = scores.back.order == 1
    is_nnunets = scores.back.halves or scores.back.apart_above is not None
    if choice.step.rule == "highest" and is_linear and not is_nnunets:
        return _linear(choice, scores, (head, tail), scene)
    return _one_grid_back(choice, scores, (head, tail), scene.threads)


@dataclass(slots=True)
class _Placed:
    """Scores and winners of a part of a grid."""

    scores: Floats  # [class, ...]
    winners: LabelArray
    start: Shape

    @classmethod
    def of(cls, scores: Floats) -> "_Placed":
        """Scores whose winners nobody asks for."""
        return cls(scores, np.broadcast_to(np.uint8(0), scores.shape[1:]), (0, 0, 0))

    def with_edges(self, shape: Shape) -> Floats:
        """The scores on all of the grid, the outermost ones repeated."""
        scores = self.scores
        for axis, (start, count) in enumerate(zip(self.start, shape, strict=True), 1):
            if scores.shape[axis] != count:
                places = np.clip(np.arange(count) - start, 0, scores.shape[axis] - 1)
                scores = scores.take(places, axis)
        return np.ascontiguousarray(scores)

    def undo(self, move: Move) -> None:
        """See them on the grid before a move that resampled nothing."""
        match move:
            case Turned(axis_map, shape):
                self._turn(axis_map, shape)
            case Cropped(start):
                self.start = _sum(self.start, start)
            case Padded(before, _, shape):
                self._cut(_sum(self.start, _negative(before)), shape)
            case Sampled():
                raise AssertionError("a resampling is not undone here")

    def _turn(self, axis_map: AxisMap, shape: Shape) -> None:
        starts = [0, 0, 0]
        for axis, (old, flipped) in enumerate(zip(axis_map.permutation, axis_map.flips, strict=True)):
            length = self.winners.shape[axis]
            starts[old] = shape[old] - self.start[axis] - length if flipped else self.start[axis]
        self.scores, self.winners = to_source(self.scores, axis_map), to_source(self.winners, axis_map)
        self.start = (starts[0], starts[1], starts[2])

    def _cut(self, start: Shape, shape: Shape) -> None:
        lengths = self.winners.shape
        low = [max(0, -first) for first in start]
        high = [min(length, count - first) for length, count, first in zip(lengths, shape, start, strict=True)]
        part = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        self.scores, self.winners = self.scores[(slice(None), *part)], self.winners[part]
        self.start = _sum(start, (low[0], low[1], low[2]))


def _linear(choice: Choice, scores: Scores, moves: tuple[Moves, Moves], scene: Scene) -> Labelled:
    placed = _Placed(scores.values.float().cpu().numpy(), chosen_here(choice, scores), (0, 0, 0))
    head, tail = moves
    for move in reversed(tail):
        placed.undo(move)
    last = head[-1]
    if isinstance(last, Sampled) and all(move.is_separable for move in head if isinstance(move, Sampled)):
        return _parallel(placed, (last, head[:-1]), scores, scene)
    return _at_any_angle(placed, head, scores, scene), ()


def _parallel(placed: _Placed, last: tuple[Sampled, Moves], scores: Scores, scene: Scene) -> Labelled:
    """On the grid before the resampling. What was cropped behind it pulls the scores towards 0 within one voxel."""
    move, earlier = last
    start, stop = _reached(move, placed.start, _sum(placed.start, _shape(placed.winners)))
    to_part = _shift(_negative(placed.start)) @ move.to_index @ _shift(start)
    shape = _sum(stop, _negative(start))
    answer = _class_scores(placed, scores)
    labels = labels_from_scores(answer, to_part, shape, scene.threads) if min(shape) else np.zeros(shape, np.uint8)
    return labels, earlier if shape == move.shape else (*earlier, Cropped(start, stop, move.shape))


def _reached(move: Sampled, first: Shape, last: Shape) -> tuple[Shape, Shape]:
    """The box, on the grid before a resampling, of what lies less than a voxel from a box on the grid after it."""
    starts, stops = [0, 0, 0], [0, 0, 0]
    for axis, at in enumerate(positions_back(move)):
        inside = np.ones(at.size, np.bool_)
        inside &= (at > first[axis] - 1) if first[axis] > 0 else True
        inside &= (at < last[axis]) if last[axis] < move.new_shape[axis] else True
        reached = np.flatnonzero(inside)
        starts[axis], stops[axis] = (int(reached[0]), int(reached[-1]) + 1) if reached.size else (0, 0)
    return (starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2])


def _at_any_angle(placed: _Placed, head: Moves, scores: Scores, scene: Scene) -> LabelArray:
    """On the scanner's grid at once: where a sheared volume was made upright no grid between is worth a stop."""
    to_part = _shift(_negative(placed.start))
    for move in reversed(head):
        to_part = to_part @ index_map(move)
    axis_map = _nearest_axes(to_part)
    inverse = axis_map.permutation
    lengths = placed.winners.shape
    shape = (lengths[inverse.index(0)], lengths[inverse.index(1)], lengths[inverse.index(2)])
    turned = _Placed(to_source(placed.scores, axis_map), to_source(placed.winners, axis_map), (0, 0, 0))
    to_part = np.linalg.inv(index_map(Turned(axis_map, shape))) @ to_part
    answer = _class_scores(turned, scores, _REACH_VOXELS)
    return labels_from_scores(answer, to_part, scene.source.geometry.shape, scene.threads)


def _class_scores(placed: _Placed, scores: Scores, reach_voxels: float = np.inf) -> ClassScores:
    classes = len(placed.scores)
    dtype = label_dtype(classes)  # one mark more than there are classes
    return ClassScores(
        placed.scores,
        placed.winners.astype(dtype, copy=False),
        np.arange(classes, dtype=dtype),
        sum_to_one=scores.function == "softmax",
        reach_voxels=reach_voxels,
    )


def _nearest_axes(affine: Affine) -> AxisMap:
    """The turn that comes nearest to a map between grids that are parallel but for a shear."""
    linear = affine[:3, :3]
    first, second, third = (int(axis) for axis in np.abs(linear / np.linalg.norm(linear, axis=0)).argmax(1))
    flips = [bool(linear[axis, source] < 0) for axis, source in enumerate((first, second, third))]
    return AxisMap((first, second, third), (flips[0], flips[1], flips[2]))


def _one_grid_back(choice: Choice, scores: Scores, moves: tuple[Moves, Moves], threads: int) -> Labelled:
    """On the grid before the resampling, by splines, by regions, or as nnU-Net does it."""
    head, tail = moves
    last, back = head[-1], scores.back
    assert isinstance(last, Sampled)
    assert back is not None
    placed = _Placed.of(scores.values.cpu().numpy())
    for move in reversed(tail):
        placed.undo(move)
    values = torch.from_numpy(placed.with_edges(last.new_shape)).to(scores.values.device)
    if is_linear_of_centres(choice, last, back):
        labels = linear_labels(choice, values, last, back, threads)
    else:
        labels = _by_slabs(choice, values, last, back)
    start, stop = _reached(last, placed.start, _sum(placed.start, _shape(placed.winners)))
    if stop == last.shape and start == (0, 0, 0):
        return labels, head[:-1]
    part = labels[tuple(slice(first, end) for first, end in zip(start, stop, strict=True))]
    return part, (*head[:-1], Cropped(start, stop, last.shape))


def _by_slabs(choice: Choice, values: torch.Tensor, last: Sampled, back: Back) -> LabelArray:
    if back.apart_above or back.halves:
        slabs = slabs_apart(values, last, back)
    else:
        slabs = _slabs(values, last, back) if last.is_separable else _slanted_slabs(values, last, back)
    labels = np.zeros(last.shape, label_dtype(choice.highest_label))
    for where, fields in slabs:
        chooser = choice.start()
        for field in fields:
            chooser.take(field)
        labels[where] = chooser.labels()
    return labels


def _slabs(values: torch.Tensor, move: Sampled, back: Back) -> Iterator[tuple[slice, Iterator[torch.Tensor]]]:
    """Slabs of the first axis before the move, and the scores `[slab, row, column]` of one class after the other."""
    rule = RULES.get(move.grid, RULES["centres"])
    old, new = axes_of(move)
    along = [
        AxisSampler(at, axis.voxels, back.order, rule, values.device)
        for at, axis in zip(positions_back(move), new, strict=True)
    ]
    step = max(1, _SLAB_VALUES // (old[1].voxels * old[2].voxels))
    for first in range(0, old[0].voxels, step):
        where = slice(first, min(first + step, old[0].voxels))
        part = along[0].part(where)
        yield where, (along[2](along[1](part(field.double(), 0), 1), 2).float() for field in values)


def _slanted_slabs(values: torch.Tensor, move: Sampled, back: Back) -> Iterator[tuple[slice, Iterator[torch.Tensor]]]:
    """The same slice by slice where the slices of a tilted gantry were made upright."""
    fields = [field.cpu().numpy().astype(np.float64) for field in values]
    if back.order > 1:
        fields = [np.asarray(ndimage.spline_filter(field, back.order, mode="nearest")) for field in fields]
    _, rows, columns = move.shape
    for index in range(move.shape[0]):
        plane = np.stack(np.broadcast_arrays(index, *np.ogrid[:rows, :columns], 1.0))
        at = np.tensordot(move.to_index[:3], plane, axes=1)
        sampled = (
            ndimage.map_coordinates(field, at, order=back.order, mode="nearest", prefilter=False) for field in fields
        )
        yield slice(index, index + 1), (torch.from_numpy(field.astype(np.float32))[None] for field in sampled)


def chosen_here(choice: Choice, scores: Scores) -> LabelArray:
    """The labels on the grid of the scores."""
    if choice.step.rule == "highest" and scores.winners is not None:
        return scores.winners
    planes: list[LabelArray] = []
    for index in range(scores.values.shape[1]):  # plane by plane: a part of the cache instead of all the memory
        chooser = choice.start()
        for field in scores.values[:, index]:
            chooser.take(field)
        planes.append(chooser.labels())
    return np.stack(planes)


def _shape(labels: LabelArray) -> Shape:
    first, second, third = labels.shape
    return first, second, third


def _shift(by: Shape) -> Affine:
    affine = np.eye(4)
    affine[:3, 3] = by
    return affine


def _sum(first: Shape, second: Shape) -> Shape:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def _negative(shape: Shape) -> Shape:
    return -shape[0], -shape[1], -shape[2]
