"""The networks that a manifest may name; nothing else can be built from one."""

from collections.abc import Mapping

import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from monai.networks.nets.vnet import VNet

NETWORKS: Mapping[str, type[torch.nn.Module]] = {
    "AttentionUnet": AttentionUnet,
    "BasicUNet": BasicUNet,
    "DynUNet": DynUNet,
    "SegResNet": SegResNet,
    "UNet": UNet,
    "VNet": VNet,
}
