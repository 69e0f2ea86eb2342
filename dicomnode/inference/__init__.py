"""Model packages at work: sampled voxels in, labels on the source grid out. Owns torch and MONAI."""

from dicomnode.inference.device import Precision
from dicomnode.inference.engine import Engine, Inference, model_spacing

__all__ = ["Engine", "Inference", "Precision", "model_spacing"]
