"""One file per architecture: how the weights of a package become a network, `[1, channel, ...]` -> logits."""

from collections.abc import Callable, Mapping

import torch

from dicomnode.inference.runners.monai_network import build_monai_network
from dicomnode.models import ModelPackage

RUNNERS: Mapping[str, Callable[[ModelPackage], torch.nn.Module]] = {
    "monai": build_monai_network,
}
