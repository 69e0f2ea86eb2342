"""The tissues a phantom is made of and the classes the torso network tells apart."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Tissue(IntEnum):
    """What a voxel of a fine phantom consists of; paired organs carry their side of the patient."""

    AIR = 0
    TABLE = 1
    FAT = 2
    MUSCLE = 3
    SKIN = 4
    SOFT_TISSUE = 5
    RIGHT_LUNG = 6
    LEFT_LUNG = 7
    RIGHT_LUNG_VESSEL = 8
    LEFT_LUNG_VESSEL = 9
    AIRWAY = 10
    CORTICAL_BONE = 11
    TRABECULAR_BONE = 12
    MARROW = 13
    CARTILAGE = 14
    DISC = 15
    LIVER = 16
    HEPATIC_VESSEL = 17
    LIVER_LESION = 18
    SPLEEN = 19
    RIGHT_KIDNEY_CORTEX = 20
    LEFT_KIDNEY_CORTEX = 21
    RIGHT_KIDNEY_MEDULLA = 22
    LEFT_KIDNEY_MEDULLA = 23
    KIDNEY_SINUS_FAT = 24
    COLLECTING_SYSTEM = 25
    CYST = 26
    STOMACH_WALL = 27
    BOWEL_WALL = 28
    BOWEL_CONTENT = 29
    GAS = 30
    STOOL = 31
    ARTERY = 32
    VEIN = 33
    HEART_MUSCLE = 34
    HEART_BLOOD = 35
    GALLBLADDER = 36
    PANCREAS = 37
    BLADDER = 38
    EFFUSION = 39
    CALCIFICATION = 40


class Target(IntEnum):
    """The classes of the torso network, in the order of its output channels."""

    BACKGROUND = 0
    BODY = 1
    RIGHT_LUNG = 2
    LEFT_LUNG = 3
    BONE = 4
    LIVER = 5
    SPLEEN = 6
    RIGHT_KIDNEY = 7
    LEFT_KIDNEY = 8


_TARGET_OF_TISSUE: dict[Tissue, Target] = {
    Tissue.AIR: Target.BACKGROUND,
    Tissue.TABLE: Target.BACKGROUND,
    Tissue.RIGHT_LUNG: Target.RIGHT_LUNG,
    Tissue.RIGHT_LUNG_VESSEL: Target.RIGHT_LUNG,
    Tissue.LEFT_LUNG: Target.LEFT_LUNG,
    Tissue.LEFT_LUNG_VESSEL: Target.LEFT_LUNG,
    Tissue.CORTICAL_BONE: Target.BONE,
    Tissue.TRABECULAR_BONE: Target.BONE,
    Tissue.MARROW: Target.BONE,
    Tissue.LIVER: Target.LIVER,
    Tissue.HEPATIC_VESSEL: Target.LIVER,
    Tissue.LIVER_LESION: Target.LIVER,
    Tissue.SPLEEN: Target.SPLEEN,
    Tissue.RIGHT_KIDNEY_CORTEX: Target.RIGHT_KIDNEY,
    Tissue.RIGHT_KIDNEY_MEDULLA: Target.RIGHT_KIDNEY,
    Tissue.LEFT_KIDNEY_CORTEX: Target.LEFT_KIDNEY,
    Tissue.LEFT_KIDNEY_MEDULLA: Target.LEFT_KIDNEY,
}
_TARGET_TABLE: NDArray[np.uint8] = np.array(
    [_TARGET_OF_TISSUE.get(tissue, Target.BODY) for tissue in Tissue], dtype=np.uint8
)


def build_target_labels(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give the network class of every voxel of a tissue map; the shape is kept."""
    return _TARGET_TABLE[tissues]
