"""What the scores of a voxel decide, as nnU-Net decides it: on halves, of equals the first, regions over one another.

A decision is first a code, the class that wins or a bit per region, so that voxels can be compared; then a label.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Codes = NDArray[np.signedinteger[Any]]
Floating = NDArray[np.floating[Any]]
LabelArray = NDArray[np.uint8 | np.uint16]
Doubles = NDArray[np.float64]
Rounding = Literal["half", "single"]

MOST_REGIONS = 62  # bits of a code
_TYPES: dict[Rounding, type[np.float16] | type[np.float32]] = {"half": np.float16, "single": np.float32}
# Two numbers further apart than this part of the larger are two numbers after rounding; and never nearer than that.
_STEPS: dict[Rounding, tuple[float, float]] = {"half": (2.0**-10, 2.0**-24), "single": (2.0**-23, 2.0**-149)}
_SAFETY = 1.01


@dataclass(frozen=True, slots=True)
class Decision:
    """How scores become labels.

    `regions` None: the highest score wins. Else region i, whose score is above `threshold`, writes `regions[i]`, later
    ones over earlier ones.
    """

    classes: int
    rounding: Rounding = "half"
    regions: tuple[int, ...] | None = None
    threshold: float = 0.5
    sigmoid: bool = True  # of the scores, before they are compared with the threshold

    @property
    def is_wide(self) -> bool:
        """Whether codes need 64 bits."""
        return self.regions is not None and len(self.regions) > 30

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest type that holds the labels."""
        highest = max(self.regions) if self.regions else self.classes - 1
        return np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16

    def codes(self, scores: Floating) -> Codes:
        """`[class, voxel]`, rounded -> the code of each voxel."""
        values = np.asarray(scores, np.float32)
        if self.regions is not None:
            return self._bits(values)
        return values.argmax(0).astype(np.int32)

    def codes_of_sums(self, sums: Doubles) -> Codes:
        """The same of sums in FP64, which are rounded first, where that can make a difference."""
        if self.regions is not None:
            return self.codes(sums.astype(_TYPES[self.rounding]))
        codes, lead, needed = self._running(sums)
        close = np.flatnonzero(lead <= needed)
        if close.size:
            codes[close] = self.codes(sums[:, close].astype(_TYPES[self.rounding]))
        return codes

    def leads(self, slab: Floating) -> tuple[Codes, Floating, Floating]:
        """`[class, ...]` -> code, by how much it leads, and by how much it has to, lest rounding makes a draw."""
        if self.regions is None:
            return self._running(slab)
        nothing = np.zeros(slab.shape[1:], np.float32)
        return self._bits(slab), nothing + 1, nothing  # rounding moves no score over a threshold that is no score

    def labels(self, codes: Codes) -> LabelArray:
        """The labels that codes stand for."""
        if self.regions is None:
            return codes.astype(self.dtype)
        painted = np.zeros(codes.shape, self.dtype)
        for bit, label in enumerate(self.regions):
            painted[(codes >> bit) & 1 == 1] = label
        return painted

    def _running(self, slab: Floating) -> tuple[Codes, Floating, Floating]:
        """A running maximum, with the second beside it, beats argmax and a sort."""
        best, second = slab[0].copy(), np.full_like(slab[0], -np.inf)
        codes = np.zeros(best.shape, np.int32)
        for index in range(1, len(slab)):
            np.maximum(second, np.minimum(best, slab[index]), out=second)
            np.maximum(codes, (slab[index] > best) * np.int32(index), out=codes)  # classes ascend
            np.maximum(best, slab[index], out=best)
        part, least = _STEPS[self.rounding]
        np.subtract(best, second, out=second)
        needed = np.maximum(np.abs(best, out=best) * part, least, out=best)
        needed *= _SAFETY
        return codes, second, needed

    def _bits(self, slab: Floating) -> Codes:
        """Compared after torch's sigmoid, as nnU-Net does: beside a half the last bit of it matters."""
        codes = np.zeros(slab.shape[1:], np.int64 if self.is_wide else np.int32)
        for bit, scores in enumerate(slab):
            said = torch.sigmoid(torch.from_numpy(scores)).numpy() if self.sigmoid else scores
            codes |= (said > self.threshold).astype(codes.dtype) << bit
        return codes
