"""Runner "monai": a network of MONAI by its name in a table, its state dict in safetensors."""

import torch

from dicomnode.errors import ModelError
from dicomnode.inference.networks import NETWORKS
from dicomnode.inference.weights import load_weights
from dicomnode.models import ModelPackage


def build_monai_network(package: ModelPackage, name: str) -> torch.nn.Module:
    """A network of a package with its weights, on the CPU, in evaluation mode.

    Raises:
        ModelError: the network is not known, does not take the arguments, or the weights are altered,
            unreadable, not finite, or of another network.
    """
    return load_weights(_build(package, name), package, name)


def _build(package: ModelPackage, name: str) -> torch.nn.Module:
    network = package.manifest.networks[name]
    key = f"{package.manifest_path}: key 'networks.{name}"
    if network.name not in NETWORKS:
        raise ModelError(f"{key}.name': expected one of {', '.join(NETWORKS)}; found {network.name!r}")
    try:
        return NETWORKS[network.name](**network.arguments)
    # Constructors check their arguments each in its own way, or by failing in arithmetic on them.
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError) as error:
        problem = f"expected arguments that {network.name} takes, found: {type(error).__name__}: {error}"
        raise ModelError(f"{key}.arguments': {problem}") from error
