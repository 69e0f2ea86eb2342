"""Reads what `torch.save` wrote, as data: tensors, numbers, text and containers of them, and nothing that could run.

A pickle may name any function and have it called. torch's reader with `weights_only=True` refuses every name but those
of tensors and the few numpy scalars below, which training loops leave beside the weights.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from dicomnode.errors import ModelError

# Where numpy keeps the function that rebuilds a scalar: the second name is of numpy before 2.0.
_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_NUMBERS = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64)
SAFE_GLOBALS: tuple[Any, ...] = (
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(number)) for number in _NUMBERS),
)

_NAMED = re.compile(r"unsupported global:? (?:GLOBAL )?([A-Za-z_][\w.]*)", re.IGNORECASE)


def read_checkpoint(path: Path) -> Mapping[str, object]:
    """The table that a checkpoint file holds, its tensors on the CPU.

    The file stays mapped into memory as long as a tensor of it lives: what is not looked at is not read.

    Raises:
        ModelError: the file is missing, damaged, holds code, or does not hold a table.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a table of weights and settings, found {type(content).__name__}")
    return {str(key): value for key, value in cast(dict[object, object], content).items()}


def tensors_of(table: object, source: str) -> dict[str, torch.Tensor]:
    """A state dict: names -> tensors, in FP32 where they are floating point.

    Raises:
        ModelError: it is not one, is empty, or holds what is not dense, real and finite; `source` names file and key.
    """
    if not isinstance(table, Mapping) or not table:
        raise ModelError(f"{source}: expected a table of tensors by name, found {type(table).__name__}")
    state: dict[str, torch.Tensor] = {}
    for name, tensor in cast(Mapping[object, object], table).items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{source}: expected a tensor for {str(name)[:80]!r}, found {type(tensor).__name__}")
        _check_plain(tensor, f"{source}: {str(name)[:80]!r}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{source}: expected finite weights, found NaN or infinity in {str(name)[:80]!r}")
        state[str(name)] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _check_plain(tensor: torch.Tensor, what: str) -> None:
    """Some few bytes of a file can stand for a tensor of any size: those are refused before they are looked at."""
    if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise ModelError(f"{what}: expected a dense tensor of real numbers, found {tensor.layout}, {tensor.dtype}")
    if (stored := tensor.untyped_storage().nbytes()) < tensor.numel() * tensor.element_size():
        raise ModelError(f"{what}: expected every value stored, found {tensor.numel()} values in {stored} bytes")


def _read(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(list(SAFE_GLOBALS)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: expected a checkpoint, found no such file") from error
    except pickle.UnpicklingError as error:
        raise ModelError(_why(path, str(error))) from error
    # torch reads a damaged file until some arithmetic on it fails; it has no class for that.
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: expected a complete checkpoint, found a damaged one: {problem}") from error


def _is_archive(path: Path) -> bool:
    """Whether the file is a zip archive, as torch writes since 1.6; older ones cannot be mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _why(path: Path, problem: str) -> str:
    """torch's explanation tells people to switch the protection off; ours does not."""
    if named := _NAMED.search(problem):
        return (
            f"{path}: expected weights and plain values only, found the name of a program part, {named[1]!r}, which "
            f"could run code; save the state dict alone with torch.save and import that"
        )
    said = " ".join(problem.rpartition("WeightsUnpickler error:")[2].split())[:200]  # else it is all advice
    found = said if "WeightsUnpickler error:" in problem else "something that its reader for weights refuses"
    return f"{path}: expected a checkpoint of torch, found: {found}"
