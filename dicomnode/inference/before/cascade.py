"""Labels of an earlier stage along the way that a picture went, resampled as nnU-Net resamples segmentations.

Each label's mask is interpolated linearly, in the order in which `zoom` adds, and the largest share wins; where shares
are equal the nearest voxel's label if it is one of them, else the lowest. What `crop-nonzero` did not call body is a
label of its own, below background.
"""

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging.orientation import to_model
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference.centres_back import AxisTaps, nearest_taps, resampled_taps
from dicomnode.inference.picture import Cropped, Move, Padded, Picture, Sampled, Turned

Signed = NDArray[np.int32]
Indices = NDArray[np.intp]

_OUTSIDE = -1
_PORTION = 1 << 14


def follows_nnunet(picture: Picture) -> bool:
    """Whether the picture was resampled by rule "centres" alone."""
    return all(move.grid == "centres" for move in picture.moves if isinstance(move, Sampled))


def labels_along(picture: Picture, labels: Labels) -> Signed:
    """Labels on the scanner's grid -> on the picture's; -1 where there was no body."""
    found: Signed = labels.astype(np.int32)
    for move in picture.moves:
        found = _moved(found, move)
    return found


def _moved(labels: Signed, move: Move) -> Signed:
    match move:
        case Turned(axis_map):
            return to_model(labels, axis_map)
        case Cropped(start, stop):
            return labels[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))]
        case Padded(before, behind):
            return np.pad(labels, list(zip(before, behind, strict=True)))
        case Sampled():
            return _resampled(labels, move)


def _resampled(labels: Signed, move: Sampled) -> Signed:
    if move.body is not None:
        labels = np.where((labels == 0) & ~move.body.cpu().numpy(), _OUTSIDE, labels)
    if move.new_shape == move.shape:
        return labels
    taps = resampled_taps(move.shape, move.new_shape, move.apart_axis)
    nearest = [nearest_taps(old, new).low for old, new in zip(move.shape, move.new_shape, strict=True)]
    resampled = labels[np.ix_(*nearest)]
    mixed = np.flatnonzero(_is_mixed(labels, taps))
    flat, nearest_labels = np.ascontiguousarray(labels).reshape(-1), resampled.reshape(-1)
    for first in range(0, mixed.size, _PORTION):
        where = mixed[first : first + _PORTION]
        at = np.unravel_index(where, move.new_shape)
        nearest_labels[where] = _largest_share(flat, _corners(taps, at, move.shape), nearest_labels[where])
    return resampled


def _is_mixed(labels: Signed, taps: AxisTaps) -> NDArray[np.bool_]:
    """Whether the voxels that a new one lies between differ in their labels."""
    lowest = highest = labels
    for axis, along in enumerate(taps):
        lowest = np.minimum(lowest.take(along.low, axis), lowest.take(along.high, axis))
        highest = np.maximum(highest.take(along.low, axis), highest.take(along.high, axis))
    return lowest != highest


def _corners(
    taps: AxisTaps, at: tuple[Indices, ...], shape: tuple[int, int, int]
) -> list[tuple[Indices, NDArray[np.float64]]]:
    """Of each of eight corners the flat index and the weight of the voxel, the last axis fastest."""
    ends = [
        ((t.low[index], t.low_weight[index]), (t.high[index], t.high_weight[index]))
        for t, index in zip(taps, at, strict=True)
    ]
    return [
        ((z * shape[1] + y) * shape[2] + x, z_weight * y_weight * x_weight)
        for z, z_weight in ends[0]
        for y, y_weight in ends[1]
        for x, x_weight in ends[2]
    ]


def _largest_share(flat: Signed, corners: list[tuple[Indices, NDArray[np.float64]]], nearest: Signed) -> Signed:
    """The label with the largest share of each point's cell."""
    values = np.stack([flat[index] for index, _ in corners])
    best, winners = np.zeros(nearest.size), np.empty_like(nearest)
    is_nearest_best = np.zeros(nearest.size, np.bool_)
    for label in np.unique(values):
        share = np.zeros(nearest.size)
        for corner, (_, weight) in zip(values, corners, strict=True):
            share += np.where(corner == label, weight, 0.0)
        better, level = share > best, (share == best) & (share > 0)
        is_nearest_best = np.where(better, nearest == label, is_nearest_best | (level & (nearest == label)))
        winners[better], best[better] = label, share[better]
    return np.where(is_nearest_best, nearest, winners)
