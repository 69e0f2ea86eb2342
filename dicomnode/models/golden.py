"""Golden cases of a package: a volume and the labels that its networks gave in FP32, to compare with at any time.

A case is `golden-NAME.safetensors` beside the weights, its digest in the manifest: voxels `[slice, row, column]` and
labels of the same shape, with the grid as metadata. It holds no identity: no UID, no header.
"""

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dicomnode.errors import ModelError
from dicomnode.imaging import Geometry, SliceSource, Volume
from dicomnode.imaging.segmentation import Labels

_FRAME_OF_REFERENCE = "2.25.1"  # of nobody: the case's own
_SOURCE = "2.25.2"
_VOXELS, _LABELS, _AFFINE = "voxels", "labels", "affine"

LEAST_AGREEMENT = 0.999  # Dice over all labelled voxels
LEAST_AGREEMENT_OF_A_LABEL = 0.98  # a small structure that vanishes hardly shows in the Dice over all
_ENOUGH_VOXELS = 100  # of a label: below, the Dice of a surface says little


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCase:
    """A volume and what the package said about it."""

    volume: Volume
    labels: Labels


def anonymous(volume: Volume) -> Volume:
    """The same voxels on the same grid, of nobody."""
    geometry = Geometry(volume.geometry.affine, volume.geometry.shape, _FRAME_OF_REFERENCE)
    source = SliceSource(_SOURCE, _SOURCE)
    return Volume(volume.voxels, geometry, (source,) * geometry.shape[0])


def golden_bytes(case: GoldenCase) -> bytes:
    """The case as the file's content."""
    tensors = {_VOXELS: case.volume.voxels, _LABELS: case.labels, _AFFINE: case.volume.geometry.affine}
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"format": json.dumps(1)})


def read_golden(content: bytes, name: str) -> GoldenCase:
    """A golden case from its bytes.

    Raises:
        ModelError: it is not one.
    """
    try:
        tensors = load(content)
        voxels, labels = tensors[_VOXELS], tensors[_LABELS]
        first, second, third = voxels.shape
        geometry = Geometry(tensors[_AFFINE], (first, second, third), _FRAME_OF_REFERENCE)
        volume = Volume(voxels, geometry, (SliceSource(_SOURCE, _SOURCE),) * first)
    except (SafetensorError, KeyError, ValueError) as error:
        problem = f"{name}: expected a golden case, found something else ({type(error).__name__})"
        raise ModelError(f"{problem}; import the model again") from error
    if labels.shape != voxels.shape or labels.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ModelError(f"{name}: expected labels of shape {voxels.shape}, found {labels.dtype} {labels.shape}")
    return GoldenCase(volume, labels)


def agreement(expected: NDArray[np.unsignedinteger], found: NDArray[np.unsignedinteger]) -> float:
    """Dice of two label maps: over all voxels, the share of labelled ones that have the same label in both.

    1 where both are empty. Every labelled voxel counts once, so large structures count for more.
    """
    labelled = np.count_nonzero(expected) + np.count_nonzero(found)
    same = np.count_nonzero((expected == found) & (expected != 0))
    return 2 * same / labelled if labelled else 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two label maps agree: over all labels, and for the label that agrees least."""

    dice: float
    worst_label: int | None = None  # None: no label has voxels enough to be looked at by itself
    worst_dice: float = 1.0

    @property
    def is_enough(self) -> bool:
        """Whether one may stand for the other."""
        return self.dice >= LEAST_AGREEMENT and self.worst_dice >= LEAST_AGREEMENT_OF_A_LABEL


def compare_labels(expected: NDArray[np.unsignedinteger], found: NDArray[np.unsignedinteger]) -> Agreement:
    """The agreement of two label maps of one shape; a label counts by itself if 100 voxels have it in either."""
    dice = float(agreement(expected, found))
    there, said, same = _voxels_by_label(expected, found)
    counted = np.flatnonzero(np.maximum(there, said)[1:] >= _ENOUGH_VOXELS) + 1
    if not counted.size:
        return Agreement(dice)
    by_label = 2 * same[counted] / (there[counted] + said[counted])
    worst = int(by_label.argmin())
    return Agreement(dice, int(counted[worst]), float(by_label[worst]))


def _voxels_by_label(
    expected: NDArray[np.unsignedinteger], found: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """By label: voxels that have it in the one, in the other, in both."""
    count = 1 + max(int(expected.max(initial=0)), int(found.max(initial=0)))
    there, said, same = (np.zeros(count, np.int64) for _ in range(3))
    for one, other in zip(expected, found, strict=True):  # by slices: bincount takes 8 bytes per voxel
        there += np.bincount(one.ravel(), minlength=count)
        said += np.bincount(other.ravel(), minlength=count)
        same += np.bincount(one[one == other], minlength=count)
    return there, said, same
