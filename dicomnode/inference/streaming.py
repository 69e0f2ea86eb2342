"""Slabs of a network's logits -> labels on the scanner's grid, each slab let go of before the next one comes.

For decisions by the highest class of what is interpolated linearly: a step "back" of order 1 beside "decide".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.imaging.orientation import AxisMap
from dicomnode.inference.picture import Turned, index_map
from dicomnode.inference.slabs import Slab
from dicomnode.inference.source_planes import GridMap, Labels, Shape, SourcePlanes


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """From the scanner's grid to the network's; their axes may be in another order and run the other way."""

    from_source: NDArray[np.float64]  # 4 x 4, index on the scanner's grid -> index on the network's
    source_shape: Shape
    shape: Shape  # of the network's grid
    reach_voxels: float = np.inf  # see `GridMap`

    @property
    def axis_map(self) -> AxisMap:
        """The turn from the scanner's axes that comes nearest."""
        linear = self.from_source[:3, :3]
        first, second, third = (int(axis) for axis in np.abs(linear / np.linalg.norm(linear, axis=0)).argmax(1))
        flips = [bool(linear[axis, source] < 0) for axis, source in enumerate((first, second, third))]
        return AxisMap((first, second, third), (flips[0], flips[1], flips[2]))

    @property
    def swept_axis(self) -> int:
        """The axis of the network's grid along which the scanner's slices follow each other."""
        return self.axis_map.permutation.index(0)

    @property
    def grids(self) -> GridMap:
        """The same between the scanner's grid and the network's turned to its axes."""
        axis_map = self.axis_map
        first, second, third = (self.shape[axis_map.permutation.index(axis)] for axis in range(3))
        turned = index_map(Turned(axis_map, (first, second, third)))
        to_turned = np.asarray(np.linalg.solve(turned, self.from_source), np.float64)
        return GridMap(to_turned, self.source_shape, (first, second, third), self.reach_voxels)

    @property
    def is_possible(self) -> bool:
        """Whether slices can be labelled as slabs arrive: planes are parallel to planes."""
        return self.grids.is_parallel


def labels_of_slabs(slabs: Iterable[Slab], way: Way, values: Labels, *, softmax: bool, threads: int = 1) -> Labels:
    """The labels `[slice, row, column]` on the scanner's grid of logits that were swept along `way.swept_axis`.

    Args:
        slabs: of the whole network's grid; their logits are overwritten.
        way: a possible one.
        values: [class], the label that a class is written as; less than the highest number of its type.
        softmax: the highest probability is looked for, not the highest logit.
        threads: that label at the same time.
    """
    planes = SourcePlanes(way.grids, values, sum_to_one=softmax, threads=threads)
    axis, axis_map = way.swept_axis, way.axis_map
    for slab in slabs:
        scores = torch.softmax(slab.logits, dim=0, out=slab.logits) if softmax else slab.logits
        first, count = slab.first, scores.shape[1 + axis]
        if axis_map.flips[axis]:
            first = way.shape[axis] - first - count
        planes.add(first, _turned_back(scores, axis_map))
    return planes.labels


def _turned_back(scores: torch.Tensor, axis_map: AxisMap) -> torch.Tensor:
    """`[class, axes of the network]` -> `[class, slice, row, column]`, contiguous."""
    against = [1 + axis for axis, flipped in enumerate(axis_map.flips) if flipped]
    turned = scores.flip(against) if against else scores
    return turned.permute(0, *(1 + axis_map.permutation.index(axis) for axis in range(3))).contiguous()
