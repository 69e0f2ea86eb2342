"""Windows through a network, their blended logits given out slab by slab as soon as no window still adds to them.

The sums of one window's depth are kept, whatever the length of the volume: with many classes the logits of a whole
volume would not fit. The blend is that of `windows.blended_logits`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dicomnode.errors import ModelError
from dicomnode.inference.windows import Forward, Shape, WindowPlan, importance_map

WindowAt = Callable[[tuple[slice, ...]], torch.Tensor]  # place in the padded volume -> [channel, *window] on the device

_FEW_CLASSES = 8
_SLAB_BYTES = 1 << 25  # of its logits, but at least `_LEAST_PLANES`
_LEAST_PLANES, _MOST_PLANES = 4, 16
_ADDED_PLANES = 4  # whose products stay in the processor's cache
_SPREAD_BYTES = 1 << 25  # of an importance map that is laid out class by class


@dataclass(frozen=True, slots=True)
class Sweep:
    """A walk through the windows along one axis, from its first plane to its last."""

    plan: WindowPlan
    shape: Shape  # of the volume, which the plan may have padded
    classes: int
    axis: int = 0
    start: Shape = (0, 0, 0)  # of the volume in what it was padded to
    sums: torch.dtype | None = None  # of what the windows add up to; None: `sum_dtype` of the network's logits
    importance: torch.Tensor | None = None  # of a window's voxels, [a0, a1, a2]; None: MONAI's Gaussian

    def places(self, start: int) -> list[tuple[slice, ...]]:
        """The windows that begin at `start` of the axis."""
        return [place for place in self.plan.slices() if place[self.axis].start == start]


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Finished logits of neighbouring planes of the swept axis; its first plane is the last of the slab before."""

    first: int  # index of its first plane in the volume
    logits: torch.Tensor  # [class, a0, a1, a2] in FP32, contiguous


def sum_dtype(network: torch.dtype, classes: int) -> torch.dtype:
    """In what to add up the windows of a network that computes in `network`: in half where many classes take much.

    FP16 keeps three bits more than BF16, so the sums lose nothing that the network had.
    """
    return torch.float32 if network == torch.float32 or classes <= _FEW_CLASSES else torch.float16


def finished_slabs(forward: Forward, window_at: WindowAt, sweep: Sweep) -> Iterator[Slab]:
    """The blended logits of the volume from the first plane of the swept axis to the last.

    Slabs share a plane with their neighbours: what is between two planes then needs one slab only.

    Raises:
        ModelError: the network gives another shape than the manifest says, or NaN, or infinity.
    """
    cutter = _Cutter(sweep)
    if sweep.plan.count == 1:
        only = _of_shape(forward(window_at(sweep.plan.slices()[0])[None]), sweep)
        yield from cutter.slabs(only, None)
        return
    starts = sweep.plan.starts[sweep.axis]
    ends = (*starts[1:], sweep.plan.padded_shape[sweep.axis])
    blend: _Blend | None = None
    for start, end in zip(starts, ends, strict=True):
        for place in sweep.places(start):
            logits = _of_shape(forward(window_at(place)[None]), sweep)
            blend = blend or _Blend(sweep, logits)
            blend.add(logits, place)
        if blend:
            yield from cutter.slabs(*blend.finished(end - start))
            blend.drop(end - start)


def _of_shape(logits: torch.Tensor, sweep: Sweep) -> torch.Tensor:
    expected = [1, sweep.classes, *sweep.plan.window]
    if list(logits.shape) != expected:
        raise ModelError(f"expected logits of shape {expected} from the network, found {list(logits.shape)}")
    return logits[0]


class _Cutter:
    """Cuts finished planes into slabs, one after the other along the swept axis."""

    def __init__(self, sweep: Sweep) -> None:
        """Begin at the first plane."""
        self._sweep = sweep
        self._axis = 1 + sweep.axis
        self._next = -sweep.start[sweep.axis]  # plane of the volume that comes next; below 0 it is padding
        self._last: torch.Tensor | None = None  # logits of the plane before it

    def slabs(self, sums: torch.Tensor, totals: torch.Tensor | None) -> Iterator[Slab]:
        """Slabs of what lies in the volume, of the sums that follow and the weights in them; no weights: 1."""
        axis, sweep, planes = self._axis, self._sweep, self._planes()
        inside = [slice(first, first + count) for first, count in zip(sweep.start, sweep.shape, strict=True)]
        skipped = min(max(0, -self._next), sums.shape[axis])
        self._next += skipped
        end = min(sums.shape[axis], skipped + sweep.shape[sweep.axis] - self._next)
        for first in range(skipped, end, planes):
            inside[sweep.axis] = slice(first, min(first + planes, end))
            weights = None if totals is None else totals[tuple(inside)]
            yield self._slab(sums[(slice(None), *inside)], weights)

    def _planes(self) -> int:
        """How many planes a slab has, so that it takes little memory however many classes there are."""
        plane = self._sweep.classes * math.prod(self._sweep.shape) // self._sweep.shape[self._axis - 1]
        return min(max(_SLAB_BYTES // (4 * plane), _LEAST_PLANES), _MOST_PLANES)

    def _slab(self, sums: torch.Tensor, weights: torch.Tensor | None) -> Slab:
        """The next slab; copied plane by plane, for which a copy from channels-last to class-first is fast."""
        axis, count, before = self._axis, sums.shape[self._axis], int(self._last is not None)
        shape = list(sums.shape)
        shape[axis] += before
        logits = torch.empty(shape, dtype=torch.float32, device=sums.device)
        if self._last is not None:
            logits.select(axis, 0).copy_(self._last)
        for plane in range(count):
            logits.select(axis, before + plane).copy_(sums.select(axis, plane))
        if weights is not None:
            logits.narrow(axis, before, count).div_(weights)
        self._last = logits.select(axis, -1).clone()
        first, self._next = self._next - before, self._next + count
        return _checked(Slab(first, logits))


def _checked(slab: Slab) -> Slab:
    if not bool(slab.logits.sum().isfinite()):  # one NaN or infinity makes the sum one
        raise ModelError(
            "expected finite logits from the network, found NaN or infinity; check the weights and the input"
        )
    return slab


class _Blend:
    """Weighted sums of the windows of one depth of the swept axis, and of their weights."""

    def __init__(self, sweep: Sweep, like: torch.Tensor) -> None:
        """Begin with the layout and on the device of the logits of a window."""
        self._sweep = sweep
        shape = list(sweep.plan.padded_shape)
        shape[sweep.axis] = sweep.plan.window[sweep.axis]
        self._channels_last = like.stride(0) == 1
        self._dtype = sweep.sums or sum_dtype(like.dtype, sweep.classes)
        self._sums = self._zeros((sweep.classes, *shape), like.device)
        self._totals = torch.zeros(shape, device=like.device)
        importance = importance_map(sweep.plan.window) if sweep.importance is None else sweep.importance
        self._importance = importance.to(like.device)
        self._weights = self._importance.to(self._dtype).expand(like.shape)
        if self._channels_last and like.numel() * self._dtype.itemsize <= _SPREAD_BYTES:
            self._weights = _channels_last(self._weights)

    def _zeros(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Laid out as the network lays out its logits, the swept axis outermost but for the classes."""
        order = [1 + self._sweep.axis, *(1 + axis for axis in range(3) if axis != self._sweep.axis)]
        order = [*order, 0] if self._channels_last else [0, *order]
        zeros = torch.zeros([shape[axis] for axis in order], dtype=self._dtype, device=device)
        return zeros.permute([order.index(axis) for axis in range(4)])

    def add(self, logits: torch.Tensor, place: tuple[slice, ...]) -> None:
        """Add a window's logits, `[class, *window]`."""
        here = tuple(
            slice(0, side.stop - side.start) if axis == self._sweep.axis else side for axis, side in enumerate(place)
        )
        self._totals[here] += self._importance
        sums = self._sums[(slice(None), *here)]
        for start in range(0, sums.shape[1], _ADDED_PLANES):
            planes = slice(start, start + _ADDED_PLANES)
            weights = self._weights[:, planes]
            if self._channels_last and weights.stride(0) == 0:
                weights = _channels_last(weights)
            sums[:, planes].addcmul_(logits[:, planes].to(sums.dtype), weights)

    def finished(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums and the weights of the first `count` planes that are kept."""
        axis = self._sweep.axis
        return self._sums.narrow(1 + axis, 0, count), self._totals.narrow(axis, 0, count)

    def drop(self, count: int) -> None:
        """Make room for other planes in the place of the first `count`."""
        _move_up(self._sums, 1 + self._sweep.axis, count)
        _move_up(self._totals, self._sweep.axis, count)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """The same `[class, a0, a1, a2]` with the classes innermost in memory."""
    return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _move_up(tensor: torch.Tensor, axis: int, count: int) -> None:
    """Drop the first `count` planes of an axis in place; zeros follow the others."""
    kept = tensor.shape[axis] - count
    for plane in range(kept):
        tensor.select(axis, plane).copy_(tensor.select(axis, plane + count))
    tensor.narrow(axis, kept, count).zero_()
