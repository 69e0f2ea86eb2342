"""The table of nnU-Net cases: what each one is there to show."""

from dataclasses import dataclass
from typing import Any

import nnunet_plans as write
from phantoms import Grid, turned

Json = dict[str, Any]

CT = Grid((40, 56, 60), (2.5, 0.9, 0.85))
# Sagittal slices, tilted: x runs to the back, y to the feet, z to the left, each a little off.
OBLIQUE = Grid((44, 52, 58), (1.6, 1.0, 1.05), turned(((0, 0, 1), (1, 0, 0), (0, 1, 0)), (12.0, -7.0)))
LEFT_HANDED = Grid((36, 50, 54), (2.0, 1.1, 1.0), turned(((0, -1, 0), (1, 0, 0), (0, 0, -1)), (0.0, 0.0)))
LABELS = {"background": 0, "body": 1, "spleen": 2, "liver": 3, "kidney": 4}
NETWORK = write.architecture([8, 16, 32])


@dataclass(frozen=True, slots=True)
class NnunetCase:
    """One trained folder (a cascade: two), one image and how nnU-Net was asked."""

    name: str
    about: str
    plans: Json
    dataset: Json
    configurations: tuple[str, ...] = ("3d_fullres",)  # in the order they run; a cascade has two
    grid: Grid = CT
    kind: str = "ct"
    organs: int = 3
    folds: tuple[int | str, ...] = (0,)
    mirroring_axes: tuple[int, ...] | None = None
    iterations: int = 40  # 0: random weights
    tile_step_size: float = 0.5
    probabilities: bool = False
    trainer: str = "nnUNetTrainer"
    seed: int = 1


def cases() -> list[NnunetCase]:
    """Every case, the simplest first."""
    return [
        *(
            _ct_fullres(),
            _ct_random(),
            _residual_encoder(),
            _old_plans(),
            _old_residual(),
            _inherits(),
            _flat(),
            _cascade(),
        ),
        *(_regions(), _ignore(), _transpose(), _mr_mask(), _two_folds(), _many_labels(), _other_normalizations()),
        *(_small_image(), _zero_border(), _orientation(), _reorient(), _no_mirroring_trainer(), _torch_resampling()),
    ]


def _plans(name: str, *, channels: int = 1, transpose: tuple[int, int, int] = (0, 1, 2), **settings: Any) -> Json:
    """Plans with 3d_fullres alone; `settings` replace what it has here."""
    settings = {"spacing": [2.0, 1.2, 1.2], "patch": [32, 32, 32], "network": NETWORK, **settings}
    fullres = write.configuration("3d_fullres", **settings)
    return write.plans(f"Dataset{name}", {"3d_fullres": fullres}, channels, transpose)


def _ct_fullres() -> NnunetCase:
    return NnunetCase(
        name="nnunet-ct-fullres",
        about="The plainest: one CT channel, PlainConvUNet, new plans, one fold, no mirroring.",
        plans=_plans("901_CtFullres"),
        dataset=write.dataset(LABELS),
        probabilities=True,
    )


def _ct_random() -> NnunetCase:
    return NnunetCase(
        name="nnunet-ct-random",
        about="Random weights: labels are noise, so that nothing of the arithmetic may differ.",
        plans=_plans("902_CtRandom", network=write.architecture([4, 8, 16, 16], *_four_stages(), blocks=[1, 2, 3, 1])),
        dataset=write.dataset(LABELS),
        iterations=0,
    )


def _four_stages() -> tuple[list[list[int]], list[list[int]]]:
    return [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]


def _residual_encoder() -> NnunetCase:
    residual = write.architecture([8, 16, 24], network=write.RESIDUAL, blocks=[1, 2, 2], decoder=[1, 1])
    return NnunetCase(
        name="nnunet-resenc",
        about="ResidualEncoderUNet in new plans; mirroring along two of three axes.",
        plans=_plans("903_ResEnc", network=residual),
        dataset=write.dataset(LABELS),
        mirroring_axes=(0, 2),
    )


def _old_plans() -> NnunetCase:
    plans = _plans("904_OldPlans", network=write.old_architecture("PlainConvUNet", 8, write.KERNELS, write.STRIDES))
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    return NnunetCase(
        name="nnunet-old-plans",
        about="Plans from before nnunetv2 2.3: UNet_class_name and its keys, intensities by modality.",
        plans=plans,
        dataset=write.dataset(LABELS),
    )


def _old_residual() -> NnunetCase:
    network = write.old_architecture("ResidualEncoderUNet", 6, *_four_stages())
    return NnunetCase(
        name="nnunet-old-resenc",
        about="Old plans with ResidualEncoderUNet, random weights, features capped by unet_max_num_features; fold_all.",
        plans=_plans("905_OldResEnc", network=network, patch=[24, 32, 32]),
        dataset=write.dataset(LABELS),
        folds=("all",),
        iterations=0,
    )


def _inherits() -> NnunetCase:
    plans = _plans("906_Inherits")
    plans["configurations"]["3d_wide"] = {"inherits_from": "3d_fullres", "patch_size": [24, 32, 40], "batch_size": 4}
    plans["configurations"]["3d_wide_fine"] = {"inherits_from": "3d_wide", "spacing": [2.2, 1.05, 1.05]}
    return NnunetCase(
        name="nnunet-inherits",
        about="A configuration that inherits from one that inherits from 3d_fullres.",
        plans=plans,
        dataset=write.dataset(LABELS),
        configurations=("3d_wide_fine",),
    )


def _flat() -> NnunetCase:
    network = write.architecture([8, 16, 32], [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]])
    flat = write.configuration("2d", [1.2, 1.2], [40, 32], network)
    return NnunetCase(
        name="nnunet-2d",
        about="2d: every slice along the first axis by itself, no resampling between slices, mirrored in plane.",
        plans=write.plans("Dataset907_Flat", {"2d": flat}),
        dataset=write.dataset(LABELS),
        configurations=("2d",),
        mirroring_axes=(0, 1),
    )


def _cascade() -> NnunetCase:
    plans = _plans("908_Cascade")
    lowres = write.configuration("3d_lowres", [4.0, 2.1, 2.1], [20, 24, 24], write.architecture([8, 16, 32]))
    plans["configurations"]["3d_lowres"] = {**lowres, "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return NnunetCase(
        name="nnunet-cascade",
        about="3d_lowres, whose labels on the image's own grid are further channels of 3d_cascade_fullres.",
        plans=plans,
        dataset=write.dataset(LABELS),
        configurations=("3d_lowres", "3d_cascade_fullres"),
    )


def _regions() -> NnunetCase:
    labels = {"background": 0, "whole": [1, 2, 3, 4], "organs": [2, 3, 4], "kidney": 4}
    return NnunetCase(
        name="nnunet-regions",
        about="Overlapping regions: sigmoid, painted in regions_class_order; MR, z-score over the whole crop.",
        plans=_plans("909_Regions", channels=2, normalization=["ZScoreNormalization"] * 2),
        dataset=write.dataset(labels, ("T1", "T2"), regions_class_order=[1, 2, 4]),
        kind="mr",
        probabilities=True,
    )


def _ignore() -> NnunetCase:
    labels = {"background": 0, "body": 1, "spleen": 2, "liver": 3, "ignore": 4}
    return NnunetCase(
        name="nnunet-ignore",
        about="An ignore label: the network has no output for it.",
        plans=_plans("910_Ignore"),
        dataset=write.dataset(labels),
    )


def _transpose() -> NnunetCase:
    network = write.architecture([8, 16, 32], [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]])
    plans = _plans("911_Transpose", transpose=(2, 0, 1), spacing=[3.5, 1.1, 1.1], patch=[16, 32, 32], network=network)
    return NnunetCase(
        name="nnunet-transpose",
        about="transpose_forward (2, 0, 1) and spacing so uneven that the coarse axis is resampled by itself.",
        plans=plans,
        dataset=write.dataset(LABELS),
        grid=Grid((56, 60, 24), (0.9, 0.85, 4.0)),
        mirroring_axes=(1, 2),
    )


def _mr_mask() -> NnunetCase:
    schemes, masks = ["ZScoreNormalization"] * 2, [True, True]
    return NnunetCase(
        name="nnunet-mr-mask",
        about="Two MR channels, z-score within the nonzero mask, cropped to it; slices stay as thick as they are.",
        plans=_plans("912_MrMask", channels=2, spacing=[4.0, 1.2, 1.2], normalization=schemes, use_mask=masks),
        dataset=write.dataset(LABELS, ("T1", "T2")),
        grid=Grid((26, 50, 54), (4.0, 0.95, 0.95)),
        kind="mr",
    )


def _two_folds() -> NnunetCase:
    return NnunetCase(
        name="nnunet-two-folds",
        about="The mean of two folds, each mirrored along all three axes.",
        plans=_plans("913_TwoFolds"),
        dataset=write.dataset(LABELS),
        grid=Grid((22, 44, 48), (2.5, 0.95, 0.9)),
        folds=(0, 1),
        mirroring_axes=(0, 1, 2),
        iterations=40,
    )


def _many_labels() -> NnunetCase:
    labels = {"background": 0, **{f"structure_{value}": value for value in range(1, 300)}}
    return NnunetCase(
        name="nnunet-300-labels",
        about="299 structures, random weights: label values above 255, stored in 16 bits.",
        plans=_plans("914_ManyLabels", spacing=[2.5, 1.5, 1.5]),
        dataset=write.dataset(labels),
        grid=Grid((28, 40, 44), (3.0, 1.3, 1.2)),
        iterations=0,
    )


def _other_normalizations() -> NnunetCase:
    schemes = ["NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"]
    return NnunetCase(
        name="nnunet-other-norms",
        about="Three channels: left as it is, stretched to 0..1, divided by 255; a mask is asked for and ignored.",
        plans=_plans("915_OtherNorms", channels=3, normalization=schemes, use_mask=[False, True, True]),
        dataset=write.dataset(LABELS, ("noNorm", "rescale_to_0_1", "rgb_to_0_1")),
        kind="three",
    )


def _small_image() -> NnunetCase:
    return NnunetCase(
        name="nnunet-small-image",
        about="An image smaller than the patch along two axes: padded with zeros, more after than before if odd.",
        plans=_plans("916_SmallImage"),
        dataset=write.dataset(LABELS),
        grid=Grid((20, 25, 60), (2.5, 0.9, 0.85)),
    )


def _zero_border() -> NnunetCase:
    return NnunetCase(
        name="nnunet-zero-border",
        about="A CT padded with exact zeros: cropped to what is not zero, labels put back into place.",
        plans=_plans("917_ZeroBorder"),
        dataset=write.dataset(LABELS),
        kind="ct-in-zeros",
    )


def _orientation() -> NnunetCase:
    return NnunetCase(
        name="nnunet-orientation",
        about="Tilted sagittal slices read by SimpleITKIO, which takes the array as it is stored.",
        plans=_plans("918_Orientation", spacing=[1.5, 1.3, 1.3]),
        dataset=write.dataset(LABELS),
        grid=OBLIQUE,
    )


def _reorient() -> NnunetCase:
    plans = _plans("919_Reorient", spacing=[1.5, 1.3, 1.3])
    return NnunetCase(
        name="nnunet-reorient",
        about="A left-handed grid read by NibabelIOWithReorient, which turns the array to the nearest RAS.",
        plans={**plans, "image_reader_writer": "NibabelIOWithReorient"},
        dataset=write.dataset(LABELS),
        grid=LEFT_HANDED,
    )


def _no_mirroring_trainer() -> NnunetCase:
    return NnunetCase(
        name="nnunet-step-08",
        about="As TotalSegmentator's networks: 1.5 mm, a trainer without mirroring, windows 0.8 of the patch apart.",
        plans=_plans("920_StepEight", spacing=[1.5, 1.5, 1.5]),
        dataset=write.dataset(LABELS),
        tile_step_size=0.8,
        trainer="nnUNetTrainerNoMirroring",
    )


def _torch_resampling() -> NnunetCase:
    plans = _plans("921_TorchResampling", spacing=[3.0, 1.2, 1.2], patch=[16, 32, 32])
    for purpose in ("data", "seg", "probabilities"):
        settings = {"is_seg": purpose == "seg", "force_separate_z": None, "memefficient_seg_resampling": False}
        plans["configurations"]["3d_fullres"] |= {
            f"resampling_fn_{purpose}": "resample_torch_fornnunet",
            f"resampling_fn_{purpose}_kwargs": settings,
        }
    return NnunetCase(
        name="nnunet-torch-resampling",
        about="Plans of the torch resampling planner: linear in plane, nearest-exact between thick slices.",
        plans=plans,
        dataset=write.dataset(LABELS),
        grid=Grid((28, 56, 60), (4.0, 0.9, 0.85)),
    )
