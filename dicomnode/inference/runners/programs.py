"""What programs, TorchScript and ONNX, have in common: how the node calls one and what it takes for an answer.

A program is code of its own kind: it holds the network as well as its weights. It is given a window
`[n, channel, ...]` in FP32 and has to answer with logits `[n, class, ...]` of the same spatial shape.
"""

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import ValidationError

from dicomnode.errors import ModelError
from dicomnode.models import ModelPackage
from dicomnode.models.fields import Table
from dicomnode.models.stages import Network

ENTRY = "forward"


class ProgramArguments(Table):
    """The arguments of a program in a manifest."""

    output: int | str | None = None  # which of several: its place in a tuple, or its name


def program_arguments(network: Network, where: str) -> ProgramArguments:
    """The arguments of a network that is a program; `where` names the manifest and the network in errors.

    Raises:
        ModelError: it has another entry than "forward", or arguments that a program has not.
    """
    if network.name != ENTRY:
        raise ModelError(f"{where}.name: a program is entered at {ENTRY!r}, found {network.name!r}")
    try:
        return ProgramArguments.model_validate(dict(network.arguments))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"][:1])
        raise ModelError(f"{where}.arguments.{key}: expected output, a number or a name, and nothing else") from error


def require_memory(package: ModelPackage, name: str, where: str) -> None:
    """Return if it is known what a forward of a program takes, or its windows are of one size anyway.

    The layers of a network tell by being watched; a program does not show any. Importing one measures it.

    Raises:
        ModelError: neither is so.
    """
    whole = any(name in stage.networks and stage.windows.patch == "whole" for stage in package.manifest.stages)
    if whole and package.manifest.memory is None:
        problem = "expected memory.bytes_per_voxel, or windows.patch, in the manifest of a program, found neither"
        raise ModelError(f"{where}: {problem}; 'dicomnode models import' measures it")


def logits_of(answer: object, output: int | str | None, window: torch.Tensor, classes: int) -> torch.Tensor:
    """The logits among what a program answered to a window.

    Args:
        answer: a tensor; a tuple or list of tensors, of which `output` is the place (else the first is taken); or a
            dict of tensors, of which `output` is the key.
        output: which of several.
        window: what was asked.
        classes: that the manifest says.

    Raises:
        ModelError: the answer is none of these, no floating point, or of another shape.
    """
    logits = _chosen(answer, output)
    if not logits.is_floating_point():
        dtype = str(logits.dtype).removeprefix("torch.")
        raise ModelError(f"expected logits in floating point, found {dtype}; export the program without its decision")
    expected = (len(window), classes, *window.shape[2:])
    if tuple(logits.shape) != expected:
        problem = f"expected logits of shape {list(expected)}, found {list(logits.shape)}"
        raise ModelError(f"{problem}, for a window of shape {list(window.shape)}; see out_channels in the manifest")
    return logits


def _chosen(answer: object, output: int | str | None) -> torch.Tensor:
    if isinstance(answer, dict):
        return _named(cast(dict[object, object], answer), output)
    if isinstance(answer, list | tuple):
        return _placed(cast(Sequence[object], answer), output)
    if output not in (None, 0):
        raise ModelError(f"expected several outputs, of which {output!r} is one; found one {_kind(answer)}")
    return _tensor(answer)


def _named(answer: dict[object, object], output: int | str | None) -> torch.Tensor:
    if output not in answer:
        names = sorted(str(name) for name in answer)
        raise ModelError(f"expected arguments.output to be one of {names} in the manifest, found {output!r}")
    return _tensor(answer[output])


def _placed(answer: Sequence[object], output: int | str | None) -> torch.Tensor:
    place = 0 if output is None else output
    if isinstance(place, str) or not 0 <= place < len(answer):
        problem = f"expected arguments.output below {len(answer)}, the number of outputs"
        raise ModelError(f"{problem}, found {output!r}")
    return _tensor(answer[place])


def _tensor(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"expected a tensor of logits from the program, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return type(value).__name__
