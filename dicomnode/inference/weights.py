"""Weights from a package into a network: every tensor used, none missing, all finite."""

import safetensors
import safetensors.torch
import torch

from dicomnode.errors import ModelError
from dicomnode.models import ModelPackage


def load_weights(module: torch.nn.Module, package: ModelPackage, name: str) -> torch.nn.Module:
    """A network of a package with its weights, in evaluation mode.

    Raises:
        ModelError: the file is altered or unreadable, or its tensors are not finite or not those of this network.
    """
    network = package.manifest.networks[name]
    state = _read_state(package, network.file, network.prefix)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch's class for missing, unexpected and misshapen tensors
        sentence = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{package.folder / network.file}: expected the tensors of network {name!r}: {sentence}"
        ) from error
    return module.eval().requires_grad_(requires_grad=False)


def _read_state(package: ModelPackage, file: str, prefix: str) -> dict[str, torch.Tensor]:
    path = package.folder / file
    try:
        tensors = safetensors.torch.load(package.read_file(file))
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}: expected a complete safetensors file, found: {error}") from error
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{path}: expected finite weights, found NaN or infinity in {prefix + name!r}")
    return state
