"""One file per runner: how what a package says of a network becomes a module, `[n, channel, ...]` -> logits."""

from collections.abc import Callable, Mapping

import torch

from dicomnode.inference.runners.monai_network import build_monai_network
from dicomnode.inference.runners.nnunet_network import build_nnunet_network
from dicomnode.inference.runners.onnx import build_onnx_program
from dicomnode.inference.runners.torchscript import build_torchscript_program
from dicomnode.models import ModelPackage

# A package and the name of one of its networks -> that network on the CPU, with its weights, in evaluation mode.
RUNNERS: Mapping[str, Callable[[ModelPackage, str], torch.nn.Module]] = {
    "monai": build_monai_network,
    "nnunet": build_nnunet_network,
    "torchscript": build_torchscript_program,
    "onnx": build_onnx_program,
}
