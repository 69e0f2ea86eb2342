"""Logits -> class probabilities and the most probable class, plane by plane and in place."""

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.inference.source_grid import label_dtype

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8 | np.uint16]


def softmax_in_place(logits: torch.Tensor, shape: tuple[int, int, int]) -> tuple[Floats, Labels]:
    """Turn `[class, *padded]` into probabilities; what of them and of their winners lies in `shape`, on the host."""
    inner = logits[:, : shape[0], : shape[1], : shape[2]]
    dtype = torch.uint8 if label_dtype(len(logits)) is np.uint8 else torch.int32
    winners = torch.empty(shape, dtype=dtype, device=logits.device)
    for index in range(shape[0]):
        plane = torch.softmax(inner[:, index], dim=0)  # [class, a1, a2]
        inner[:, index] = plane
        winners[index] = _winners(plane, dtype)
    return inner.cpu().numpy(), winners.cpu().numpy().astype(label_dtype(len(logits)), copy=False)


def _winners(plane: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The class that is highest at each point; of equals the first. A running maximum beats argmax."""
    best = plane[0].clone()
    winners = torch.zeros(best.shape, dtype=dtype, device=plane.device)
    for index in range(1, len(plane)):
        winners.masked_fill_(plane[index] > best, index)
        torch.maximum(best, plane[index], out=best)
    return winners
