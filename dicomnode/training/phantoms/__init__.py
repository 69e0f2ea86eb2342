"""Procedural torsos: anatomy drawn from a seed, and the CT a scanner would make of it.

Needs numpy and scipy only, so that demonstrations and tests can build a torso without torch.
"""

from dicomnode.training.phantoms.anatomy import build_anatomy
from dicomnode.training.phantoms.appearance import build_torso_ct
from dicomnode.training.phantoms.tissue import Target, Tissue, build_target_labels

__all__ = ["Target", "Tissue", "build_anatomy", "build_target_labels", "build_torso_ct"]
