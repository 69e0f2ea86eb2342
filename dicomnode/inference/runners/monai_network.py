"""Architecture "monai": a network of MONAI, its state dict in safetensors, every tensor used and finite."""

import safetensors
import safetensors.torch
import torch

from dicomnode.errors import ModelError
from dicomnode.inference.networks import NETWORKS
from dicomnode.models import ModelPackage


def build_monai_network(package: ModelPackage) -> torch.nn.Module:
    """The network of a package with its weights, on the CPU, in evaluation mode.

    Raises:
        ModelError: the network is not known, does not take the arguments, or the weights are altered,
            unreadable, not finite, or of another network.
    """
    network = _build(package)
    state = _read_state(package)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch's class for missing, unexpected and misshapen tensors
        sentence = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{package.weights_path}: expected the tensors of the manifest's network: {sentence}"
        ) from error
    return network.eval().requires_grad_(requires_grad=False)


def _build(package: ModelPackage) -> torch.nn.Module:
    name, arguments = package.manifest.network.name, package.manifest.network.arguments
    where = package.folder / "manifest.toml"
    if name not in NETWORKS:
        raise ModelError(f"{where}: key 'network.name': expected one of {', '.join(NETWORKS)}; found {name!r}")
    try:
        return NETWORKS[name](**arguments)
    # Constructors check their arguments each in its own way, or by failing in arithmetic on them.
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError) as error:
        problem = f"expected arguments that {name} takes, found: {type(error).__name__}: {error}"
        raise ModelError(f"{where}: key 'network.arguments': {problem}") from error


def _read_state(package: ModelPackage) -> dict[str, torch.Tensor]:
    weights = package.read_weights()
    try:
        state = safetensors.torch.load(weights)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{package.weights_path}: expected a complete safetensors file, found: {error}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{package.weights_path}: expected finite weights, found NaN or infinity in {name!r}")
    return state
