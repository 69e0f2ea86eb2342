"""The networks that a manifest may name: each is built from plain arguments and gives one tensor of logits."""

from typing import Any

import pytest
import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.vista3d import vista3d132

from dicomnode.inference.networks import NETWORKS
from dicomnode.inference.vista3d import PromptedVista3d

CHANNELS: dict[str, Any] = {"in_channels": 1, "out_channels": 3}
STEPS: dict[str, Any] = {"spatial_dims": 3, **CHANNELS, "channels": [4, 8], "strides": [2]}
SMALL: dict[str, dict[str, Any]] = {
    "AttentionUnet": STEPS,
    "BasicUNet": {**CHANNELS, "features": [4, 4, 4, 4, 4, 4]},
    "BasicUNetPlusPlus": {**CHANNELS, "features": [4, 4, 4, 4, 4, 4], "deep_supervision": True},
    "DynUNet": {
        "spatial_dims": 3,
        **CHANNELS,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 8],
        "deep_supervision": True,
    },
    "MedNeXt": {**CHANNELS, "init_filters": 4, "kernel_size": 3, "deep_supervision": True},
    "MedNeXtB": CHANNELS,
    "MedNeXtL": CHANNELS,
    "MedNeXtM": CHANNELS,
    "MedNeXtS": CHANNELS,
    "SegResNet": {**CHANNELS, "init_filters": 8},
    "SegResNetDS": {**CHANNELS, "init_filters": 8, "dsdepth": 2},
    "SwinUNETR": {**CHANNELS, "feature_size": 12},
    "UNETR": {**CHANNELS, "img_size": 32, "feature_size": 4, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
    "UNet": STEPS,
    "VISTA3D": {"classes": [3, 1], "encoder_embed_dim": 8},
    "VNet": CHANNELS,
}
WITHOUT_NUMBERS = ("MedNeXtB", "MedNeXtL", "MedNeXtM", "MedNeXtS")  # large: shapes only


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_one_tensor_of_logits_per_class(name: str):
    edge = 64 if name == "SwinUNETR" else 32
    with torch.device("meta" if name in WITHOUT_NUMBERS else "cpu"), torch.inference_mode():
        torch.manual_seed(3)
        logits = NETWORKS[name](**SMALL[name]).eval()(torch.zeros(1, 1, edge, edge, edge))
    assert isinstance(logits, torch.Tensor)
    assert list(logits.shape) == [1, 3, edge, edge, edge]


def test_the_last_of_several_outputs_counts_and_the_weights_are_those_of_monai():
    torch.manual_seed(3)
    arguments = SMALL["BasicUNetPlusPlus"]
    theirs, ours = BasicUNetPlusPlus(**arguments).eval(), NETWORKS["BasicUNetPlusPlus"](**arguments).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert torch.equal(ours(image), theirs(image)[-1])


@pytest.mark.parametrize("classes", [[1], [3, 1, 132]])
def test_vista3d_asked_for_classes_gives_its_own_logits_behind_a_background_of_0(classes: list[int]):
    torch.manual_seed(3)
    theirs, ours = vista3d132(encoder_embed_dim=8).eval(), PromptedVista3d(classes, encoder_embed_dim=8).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        found = ours(image)
        expected = theirs(image, class_vector=torch.tensor(classes)[:, None], transpose=True)
    assert not found[:, 0].any()
    assert torch.equal(found[:, 1:], expected)


@pytest.mark.parametrize("classes", [[], [0], [133], [2, 2]])
def test_classes_that_vista3d_was_not_trained_for_are_refused(classes: list[int]):
    with pytest.raises(ValueError, match="expected"):
        PromptedVista3d(classes)
