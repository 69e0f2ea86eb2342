"""VISTA3D asked for a fixed list of classes: its encoder and class head, without the head for points.

The published inference calls a voxel background where no class has a logit above 0, else the class with the highest
one. Logits with a 0 for the background before them say the same by their highest score.
"""

from collections.abc import Sequence

import torch
from monai.networks.nets.vista3d import vista3d132

_LAST_CLASS = 132  # what its class head was trained for; above come structures that only points can show


class PromptedVista3d(torch.nn.Module):
    """`[batch, 1, ...]` -> `[batch, 1 + classes, ...]`: 0 for the background, then a logit for each class asked for.

    The tensors have the names that they have in MONAI's VISTA3D.
    """

    def __init__(self, classes: Sequence[int], encoder_embed_dim: int = 48, in_channels: int = 1) -> None:
        super().__init__()
        if not classes or not all(1 <= index <= _LAST_CLASS for index in classes):
            raise ValueError(f"expected classes from 1 to {_LAST_CLASS}, found {list(classes)}")
        if len(set(classes)) != len(classes):
            raise ValueError(f"expected each class once, found {list(classes)}")
        whole = vista3d132(encoder_embed_dim=encoder_embed_dim, in_channels=in_channels)
        self.image_encoder = whole.image_encoder
        self.class_head = whole.class_head
        self.register_buffer("classes", torch.tensor(classes)[:, None], persistent=False)  # [class, 1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `[batch, channel, ...]` -> logits."""
        _, features = self.image_encoder(images, with_point=False, with_label=True)
        logits, _ = self.class_head(features, self.classes)  # [class, batch, ...]
        logits = logits.transpose(0, 1)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
