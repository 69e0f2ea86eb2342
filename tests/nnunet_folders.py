"""Result folders of nnU-Net v2 as small as they can be, with random weights, for tests that need no oracle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dicomnode.inference.nnunet_networks import Layers, Shape, build_plain

Json = dict[str, Any]

FEATURES = (2, 4)
KERNELS = ((3, 3, 3), (3, 3, 3))
STRIDES = ((1, 1, 1), (2, 2, 2))


def plans() -> Json:
    """plans.json with one configuration, of one CT channel."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    arguments = {
        "n_stages": 2,
        "features_per_stage": list(FEATURES),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(kernel) for kernel in KERNELS],
        "strides": [list(stride) for stride in STRIDES],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [8, 8, 8],
        "spacing": [3.0, 1.5, 1.5],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
        },
    }
    return {
        "dataset_name": "Dataset123_Small",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 80.0, "std": 180.0, "percentile_00_5": -900.0, "percentile_99_5": 500.0}
        },
    }


def dataset() -> Json:
    """dataset.json with two structures that our table of codes has."""
    labels = {"background": 0, "spleen": 1, "kidney_left": 2}
    return {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}


def checkpoint(configuration: str = "3d_fullres", classes: int = 3, channels: int = 1) -> Json:
    """What a training leaves behind, as far as anybody reads it."""
    shape = Shape(channels, classes, FEATURES, KERNELS, STRIDES, (1, 1), (1,))
    weights = build_plain(Layers(), shape).state_dict()
    repeated = {
        f"decoder.encoder.{n.removeprefix('encoder.')}": t for n, t in weights.items() if n.startswith("encoder.")
    }
    return {
        "network_weights": {**weights, **repeated},
        "init_args": {"configuration": configuration, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


Change = Callable[[Json], object]


def unchanged(_: Json) -> None:
    """Nothing is changed."""


def write_folder(
    folder: Path, change_plans: Change = unchanged, change_dataset: Change = unchanged, change_fold: Change = unchanged
) -> Path:
    """A result folder with fold 0, each of its files after a change."""
    (folder / "fold_0").mkdir(parents=True)
    files = ((plans(), change_plans, "plans.json"), (dataset(), change_dataset, "dataset.json"))
    for content, change, name in files:
        change(content)
        (folder / name).write_text(json.dumps(content))
    fold = checkpoint()
    change_fold(fold)
    torch.save(fold, folder / "fold_0/checkpoint_final.pth")
    return folder
