"""Labels back to the scanner's grid, one move after the other; what was cropped away is background."""

import numpy as np

from dicomnode.imaging.orientation import to_source
from dicomnode.inference.after.answer import LabelArray
from dicomnode.inference.picture import Affine, Cropped, Move, Padded, Sampled, Shape, Turned
from dicomnode.inference.sampling import nearest_indices, positions_back


def undone(labels: LabelArray, moves: tuple[Move, ...]) -> LabelArray:
    """Labels `[axis 0, axis 1, axis 2]` on the grid that the moves lead to -> on the scanner's, contiguous."""
    for move in reversed(moves):
        labels = _undo(labels, move)
    return np.ascontiguousarray(labels)


def _undo(labels: LabelArray, move: Move) -> LabelArray:
    match move:
        case Turned(axis_map):
            return to_source(labels, axis_map)
        case Padded(before, _, shape):
            return labels[tuple(slice(first, first + count) for first, count in zip(before, shape, strict=True))]
        case Cropped(start, stop, shape):
            whole = np.zeros(shape, labels.dtype)
            whole[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] = labels
            return whole
        case Sampled():
            return _nearest(labels, move) if move.is_separable else _nearest_anywhere(labels, move.to_index, move.shape)


def _nearest(labels: LabelArray, move: Sampled) -> LabelArray:
    """Axis by axis, those that lose voxels first."""
    at = [nearest_indices(p, n, move.grid) for p, n in zip(positions_back(move), move.new_shape, strict=True)]
    for axis in sorted(range(3), key=lambda axis: move.shape[axis] / move.new_shape[axis]):
        labels = labels.take(at[axis], axis)
    return labels


def _nearest_anywhere(labels: LabelArray, to_index: Affine, shape: Shape) -> LabelArray:
    """For grids that are not parallel: an upright grid made of a sheared one; beside it is background."""
    found = np.empty(shape, labels.dtype)
    rows, columns = np.arange(shape[1], dtype=np.float64)[:, None], np.arange(shape[2], dtype=np.float64)
    for index, plane in enumerate(found):
        inside, places = np.ones(plane.shape, np.bool_), []
        for (a, b, c, offset), size in zip(to_index[:3], labels.shape, strict=True):
            at = np.floor(a * index + b * rows + c * columns + offset + 0.5)
            inside &= (at >= 0) & (at < size)
            places.append(np.clip(at, 0, size - 1).astype(np.intp))
        plane[...] = np.where(inside, labels[tuple(places)], 0)
    return found
