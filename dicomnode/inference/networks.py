"""The networks that a manifest may name; nothing else can be built from one.

Each gives one tensor of logits when it is evaluated: what was trained with outputs at several depths gives the last.
"""

from collections.abc import Callable, Mapping

import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.mednext import MedNeXt, MedNeXtB, MedNeXtL, MedNeXtM, MedNeXtS
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from monai.networks.nets.vnet import VNet

from dicomnode.inference.vista3d import PromptedVista3d


class LastOfBasicUNetPlusPlus(BasicUNetPlusPlus):
    """BasicUNetPlusPlus lists its outputs, even where it has only one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The output of the last depth."""
        outputs: list[torch.Tensor] = super().forward(x)
        return outputs[-1]


NETWORKS: Mapping[str, Callable[..., torch.nn.Module]] = {
    "AttentionUnet": AttentionUnet,
    "BasicUNet": BasicUNet,
    "BasicUNetPlusPlus": LastOfBasicUNetPlusPlus,
    "DynUNet": DynUNet,
    "MedNeXt": MedNeXt,
    "MedNeXtB": MedNeXtB,
    "MedNeXtL": MedNeXtL,
    "MedNeXtM": MedNeXtM,
    "MedNeXtS": MedNeXtS,
    "SegResNet": SegResNet,
    "SegResNetDS": SegResNetDS,
    "SwinUNETR": SwinUNETR,
    "UNETR": UNETR,
    "UNet": UNet,
    "VISTA3D": PromptedVista3d,
    "VNet": VNet,
}
