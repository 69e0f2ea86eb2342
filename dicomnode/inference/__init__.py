"""Model packages at work: a scanner's volume in, labels on its grid out. Owns torch and MONAI."""

from dicomnode.inference.device import Precision
from dicomnode.inference.engine import Engine, Inference
from dicomnode.inference.stages import StageRecord

__all__ = ["Engine", "Inference", "Precision", "StageRecord"]
