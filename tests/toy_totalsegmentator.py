"""Weights folders laid out as TotalSegmentator's, with tiny networks of random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from dicomnode.importers.totalsegmentator_tasks import GradeName, catalogue
from dicomnode.inference.runners.nnunet_network import network_without_weights
from dicomnode.models.stages import Network

_PATCH = [16, 16, 16]
_BACKGROUND = 0.8  # about half of the voxels say nothing
_ARCHITECTURE: dict[str, Any] = {
    "n_stages": 2,
    "features_per_stage": [4, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
_ARGUMENTS: dict[str, Any] = {
    "features": [4, 8],
    "kernels": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "blocks": [1, 1],
    "decoder_convolutions": [1],
}


def write_task(results: Path, name: str, grade: GradeName = "default", **changes: Any) -> list[Path]:
    """The folders that a grade of a task needs; `changes` are `spacing` (z, y, x), `labels`, `configuration`."""
    task = catalogue().task(name)
    return [_write_part(results, name, grade, index, changes) for index in range(len(task.grade(grade).parts))]


def zipped(dataset: Path) -> Path:
    """A data set's folder as the archive that a release has, which takes its place."""
    archive = Path(shutil.make_archive(str(dataset), "zip", dataset.parent, dataset.name))
    shutil.rmtree(dataset)
    return archive


def trained_folder(dataset: Path) -> Path:
    """The folder with plans.json within a data set's."""
    (found,) = dataset.iterdir()
    return found


def _write_part(results: Path, name: str, grade_name: GradeName, index: int, changes: dict[str, Any]) -> Path:
    task, grade = catalogue().task(name), catalogue().task(name).grade(grade_name)
    part = grade.parts[index]
    dataset = results / catalogue().datasets[part.dataset].folder
    folder = dataset / grade.folder
    (folder / "fold_0").mkdir(parents=True)
    names = task.classes[part.first - 1 : part.last] + tuple(changes.get("helpers", ()))
    spacing = changes.get("spacing") or list(reversed(grade.spacing_mm or (1.5, 1.5, 2.0)))
    plans = _plans(dataset.name, changes.get("configuration", grade.configuration), spacing, task.modality)
    labels = {"background": 0, **{label: number for number, label in enumerate(names, 1)}}
    _write_json(folder / "plans.json", plans)
    data = {"channel_names": {"0": task.modality}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    _write_json(folder / "dataset.json", data)
    torch.save(_checkpoint(grade.trainer, grade.configuration, len(labels), part.dataset), folder / "fold_0" / _FINAL)
    return dataset


_FINAL = "checkpoint_final.pth"


def _checkpoint(trainer: str, configuration: str, outputs: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    described = Network(
        runner="nnunet", name="PlainConvUNet", arguments=_ARGUMENTS, in_channels=1, out_channels=outputs
    )
    weights = network_without_weights(described, "toy").state_dict()
    weights["decoder.seg_layers.0.bias"].zero_()  # so that what is there decides, not a bias
    weights["decoder.seg_layers.0.bias"][0] = _BACKGROUND
    return {
        "network_weights": weights,
        "trainer_name": trainer,
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": None,
    }


def _plans(dataset: str, configuration: str, spacing: list[float], modality: str) -> dict[str, Any]:
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 20.0, "std": 150.0, "percentile_00_5": -800.0, "percentile_99_5": 700.0}
        },
        "configurations": {
            configuration: {
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": _PATCH,
                "spacing": spacing,
                "normalization_schemes": ["CTNormalization" if modality == "CT" else "ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {**kwargs, "order": 3},
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**kwargs, "is_seg": True},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": kwargs,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": _ARCHITECTURE,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
