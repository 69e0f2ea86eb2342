"""Runner "nnunet": one of nnU-Net's two networks, its tensors in safetensors."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError

from dicomnode.errors import ModelError
from dicomnode.inference.nnunet_networks import Layers, NnunetNetwork, Shape, build_plain, build_residual
from dicomnode.inference.weights import load_weights
from dicomnode.models import ModelPackage
from dicomnode.models.fields import Positive, Table
from dicomnode.models.stages import Network

Count = Annotated[int, Field(ge=1, le=4096)]
Size = Annotated[int, Field(ge=1, le=31)]
Sizes = tuple[Size, Size] | tuple[Size, Size, Size]

NNUNET_NETWORKS: Mapping[str, Callable[[Layers, Shape], NnunetNetwork]] = {
    "PlainConvUNet": build_plain,
    "ResidualEncoderUNet": build_residual,
}


class NnunetArguments(Table):
    """The arguments of either network in a manifest; lists run from the finest stage to the coarsest."""

    features: tuple[Count, ...]
    kernels: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]
    blocks: tuple[Count, ...]  # convolutions (PlainConvUNet) or residual blocks of the encoder's stages
    decoder_convolutions: tuple[Count, ...]  # from the coarsest stage
    stem_channels: Count | None = None
    bias: bool = True
    norm: Literal["instance", "batch"] = "instance"
    norm_eps: Positive = 1e-5
    norm_affine: bool = True
    negative_slope: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the leaky ReLU; 0: a plain one
    activation_first: bool = False

    def layers(self, dimensions: Literal[2, 3]) -> Layers:
        """What all its convolutions have in common."""
        normalisation = (self.norm, self.norm_eps, self.norm_affine)
        return Layers(dimensions, self.bias, *normalisation, self.negative_slope, self.activation_first)

    def shape(self, in_channels: int, out_channels: int) -> Shape:
        """Its stages."""
        sizes = (self.features, self.kernels, self.strides, self.blocks, self.decoder_convolutions)
        return Shape(in_channels, out_channels, *sizes, self.stem_channels)


def build_nnunet_network(package: ModelPackage, name: str) -> torch.nn.Module:
    """The network `name` of a package with its weights, on the CPU, in evaluation mode.

    Raises:
        ModelError: its name is not known, its arguments describe no network, or the weights are not its own.
    """
    where = f"{package.manifest_path}: networks.{name}"
    return load_weights(network_without_weights(package.manifest.networks[name], where), package, name)


def network_without_weights(network: Network, where: str) -> NnunetNetwork:
    """What a manifest's network is made of; `where` names it in errors.

    Raises:
        ModelError: its name is not known, or its arguments describe no network.
    """
    if network.name not in NNUNET_NETWORKS:
        raise ModelError(f"{where}.name: expected one of {', '.join(NNUNET_NETWORKS)}; found {network.name!r}")
    try:
        arguments = NnunetArguments.model_validate(dict(network.arguments))
        shape = arguments.shape(network.in_channels, network.out_channels)
        return NNUNET_NETWORKS[network.name](arguments.layers(network.dimensions), shape)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{where}.arguments.{key}: {first['msg']}; found {str(first['input'])[:60]}") from error
    except ValueError as error:
        raise ModelError(f"{where}.arguments: {error}") from error
