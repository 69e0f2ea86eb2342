"""plans.json and dataset.json as nnU-Net v2 writes them, small enough for a test."""

from typing import Any

Json = dict[str, Any]

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"

KERNELS = [[3, 3, 3]] * 3
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]

CT_PROPERTIES = {
    "max": 3071.0, "mean": 83.25, "median": 61.0, "min": -1024.0,
    "percentile_00_5": -893.0, "percentile_99_5": 551.0, "std": 187.375,
}  # fmt: skip


def architecture(
    features: list[int],
    kernels: list[list[int]] = KERNELS,
    strides: list[list[int]] = STRIDES,
    network: str = PLAIN,
    blocks: list[int] | None = None,
    decoder: list[int] | None = None,
) -> Json:
    """The architecture block of new plans; two convolutions or blocks a stage unless said otherwise."""
    stages = len(features)
    conv, norm = f"torch.nn.modules.conv.Conv{len(kernels[0])}d", f"InstanceNorm{len(kernels[0])}d"
    per_stage = "n_conv_per_stage" if network.endswith("PlainConvUNet") else "n_blocks_per_stage"
    arguments = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": conv,
        "kernel_sizes": kernels,
        "strides": strides,
        per_stage: blocks or [2] * stages,
        "n_conv_per_stage_decoder": decoder or [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.{norm}",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return {"architecture": {"network_class_name": network, "arch_kwargs": arguments, "_kw_requires_import": imported}}


def old_architecture(name: str, features: int, kernels: list[list[int]], strides: list[list[int]]) -> Json:
    """The same in the keys that plans had before nnunetv2 2.3."""
    stages = len(kernels)
    return {
        "UNet_class_name": name,
        "UNet_base_num_features": features,
        "n_conv_per_stage_encoder": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "num_pool_per_axis": [sum(s[axis] > 1 for s in strides) for axis in range(len(strides[0]))],
        "pool_op_kernel_sizes": strides,
        "conv_kernel_sizes": kernels,
        "unet_max_num_features": features * 3,
    }


def configuration(
    name: str,
    spacing: list[float],
    patch: list[int],
    network: Json,
    normalization: list[str] | None = None,
    use_mask: list[bool] | None = None,
) -> Json:
    """One entry of `configurations`."""
    schemes = normalization or ["CTNormalization"]
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(2 * n) for n in patch],
        "spacing": spacing,
        "normalization_schemes": schemes,
        "use_mask_for_norm": use_mask or [False] * len(schemes),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": _resampling(3, is_seg=False),
        "resampling_fn_seg_kwargs": _resampling(1, is_seg=True),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": _resampling(1, is_seg=False),
        **network,
        "batch_dice": True,
    }


def plans(dataset: str, configurations: Json, channels: int = 1, transpose: tuple[int, int, int] = (0, 1, 2)) -> Json:
    """The whole of plans.json."""
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 0.9, 0.9],
        "original_median_shape_after_transp": [44, 56, 60],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): CT_PROPERTIES for c in range(channels)},
    }


def dataset(labels: Json, channels: tuple[str, ...] = ("CT",), **more: Any) -> Json:
    """The whole of dataset.json."""
    names = {str(index): name for index, name in enumerate(channels)}
    return {"channel_names": names, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz", **more}


def _resampling(order: int, *, is_seg: bool) -> Json:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
