"""nnU-Net's description of a network, in old plans or new, as the arguments of our own two networks."""

from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from dicomnode.importers.nnunet_plans import TrainedConfiguration

Json = Mapping[str, JsonValue]

_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
_PACKAGE = "dynamic_network_architectures."
_NORMS = {"InstanceNorm2d": "instance", "InstanceNorm3d": "instance", "BatchNorm2d": "batch", "BatchNorm3d": "batch"}
_KNOWN = {
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"),
    *("n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs", "nonlin_first"),
    *("dropout_op", "dropout_op_kwargs", "deep_supervision", "stem_channels"),  # the first three do nothing here
    *("block", "bottleneck_channels"),
}
# Trainers that build another network than the plans say.
_TRAINERS_WITH_BATCH_NORM = ("nnUNetTrainerBN",)


def network_of(trained: TrainedConfiguration, trainer: str) -> tuple[str, dict[str, JsonValue]]:
    """The name of the network and the arguments that a manifest holds for it.

    Raises:
        ModelError: it is another network, or asks for what ours do not have; names the key.
    """
    key, name, described = _described(trained)
    if name not in _NETWORKS:
        problem = f"expected {' or '.join(_NETWORKS)}, found {name!r}; no other network of nnU-Net can be imported"
        raise trained.error(key, problem)
    if strangers := sorted(set(described) - _KNOWN):
        raise trained.error(f"architecture.arch_kwargs.{strangers[0]}", "expected no such argument, found one")
    for argument in ("block", "bottleneck_channels"):
        if described.get(argument) is not None:
            raise trained.error(f"architecture.arch_kwargs.{argument}", "expected null: bottleneck blocks are unknown")
    dimensions = len(trained.configuration.patch_size)
    _check_convolution(trained, described, dimensions)
    stages = _count(trained, described)
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    arguments: dict[str, JsonValue] = {
        "features": _each(described.get("features_per_stage"), stages),
        "kernels": _each(described.get("kernel_sizes"), stages, dimensions),
        "strides": _each(described.get("strides"), stages, dimensions),
        "blocks": _each(described.get(blocks), stages),
        "decoder_convolutions": _each(described.get("n_conv_per_stage_decoder"), stages - 1),
        "bias": bool(described.get("conv_bias", False)),
        **_norm(trained, described, trainer),
        **_activation(trained, described),
    }
    if described.get("stem_channels") is not None:
        arguments["stem_channels"] = described["stem_channels"]
    _check_patch(trained, arguments)
    return name, arguments


def _described(trained: TrainedConfiguration) -> tuple[str, str, Json]:
    """The key that names the class, the class, and its arguments as new plans have them."""
    architecture = trained.raw.get("architecture")
    if isinstance(architecture, dict):
        full, arguments = architecture.get("network_class_name"), architecture.get("arch_kwargs")
        if not isinstance(full, str) or not isinstance(arguments, dict):
            raise trained.error("architecture", "expected network_class_name and arch_kwargs, found something else")
        name = full.rpartition(".")[2] if full.startswith(_PACKAGE) else full
        return "architecture.network_class_name", name, arguments
    name = trained.raw.get("UNet_class_name")
    if not isinstance(name, str):
        raise trained.error("architecture", "expected it, or UNet_class_name of older plans; found neither")
    return "UNet_class_name", name, _from_old_plans(trained)


def _from_old_plans(trained: TrainedConfiguration) -> Json:
    """What nnU-Net itself makes of plans from before its version 2.3."""
    raw = trained.raw
    encoder, base, most = (
        raw.get(key) for key in ("n_conv_per_stage_encoder", "UNet_base_num_features", "unet_max_num_features")
    )
    if not isinstance(encoder, list) or not isinstance(base, int) or not isinstance(most, int):
        key = "n_conv_per_stage_encoder, UNet_base_num_features, unet_max_num_features"
        raise trained.error(key, "expected a list and two numbers, found something else")
    return {
        "n_stages": len(encoder),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(min(len(encoder), 32))],
        "kernel_sizes": raw.get("conv_kernel_sizes"),
        "strides": raw.get("pool_op_kernel_sizes"),
        "n_conv_per_stage" if raw.get("UNet_class_name") == "PlainConvUNet" else "n_blocks_per_stage": encoder,
        "n_conv_per_stage_decoder": raw.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
        "norm_op": f"InstanceNorm{len(trained.configuration.patch_size)}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def _check_convolution(trained: TrainedConfiguration, described: Json, dimensions: int) -> None:
    convolution = described.get("conv_op", f"Conv{dimensions}d")
    if not isinstance(convolution, str) or convolution.rpartition(".")[2] != f"Conv{dimensions}d":
        problem = f"expected Conv{dimensions}d for a patch of {dimensions} axes, found {str(convolution)[:60]}"
        raise trained.error("architecture.arch_kwargs.conv_op", problem)


def _count(trained: TrainedConfiguration, described: Json) -> int:
    stages = described.get("n_stages")
    if not isinstance(stages, int) or not 2 <= stages <= 16:
        raise trained.error("architecture.arch_kwargs.n_stages", f"expected 2 to 16, found {str(stages)[:40]}")
    return stages


def _each(value: JsonValue, stages: int, dimensions: int = 0) -> JsonValue:
    """One number for all stages, or all axes of a stage, written out; the runner refuses what is neither."""
    entries = _repeated(value, stages)
    if not dimensions or not isinstance(entries, list):
        return entries
    return [_repeated(entry, dimensions) for entry in entries]


def _repeated(value: JsonValue, count: int) -> JsonValue:
    if not isinstance(value, int):
        return value
    repeated: list[JsonValue] = [value] * count
    return repeated


def _norm(trained: TrainedConfiguration, described: Json, trainer: str) -> dict[str, JsonValue]:
    name = described.get("norm_op")
    norm = _NORMS.get(name.rpartition(".")[2]) if isinstance(name, str) else None
    arguments = described.get("norm_op_kwargs") or {}
    if norm is None or not isinstance(arguments, dict) or set(arguments) - {"eps", "affine"}:
        problem = f"expected InstanceNorm or BatchNorm with eps and affine, found {name} with {str(arguments)[:80]}"
        raise trained.error("architecture.arch_kwargs.norm_op", problem)
    if trainer in _TRAINERS_WITH_BATCH_NORM:
        return {"norm": "batch"}
    affine = arguments.get("affine", norm == "batch")  # torch's own defaults
    return {"norm": norm, "norm_eps": arguments.get("eps", 1e-5), "norm_affine": affine}


def _activation(trained: TrainedConfiguration, described: Json) -> dict[str, JsonValue]:
    name, arguments = described.get("nonlin"), described.get("nonlin_kwargs") or {}
    short = name.rpartition(".")[2] if isinstance(name, str) else None
    if short not in {"LeakyReLU", "ReLU"} or not isinstance(arguments, dict):
        raise trained.error("architecture.arch_kwargs.nonlin", f"expected LeakyReLU or ReLU, found {str(name)[:60]}")
    slope = 0.0 if short == "ReLU" else arguments.get("negative_slope", 0.01)
    return {"negative_slope": slope, "activation_first": bool(described.get("nonlin_first", False))}


def _check_patch(trained: TrainedConfiguration, arguments: Mapping[str, JsonValue]) -> None:
    """A window that the strides do not divide comes out of the network in another shape, or not at all."""
    strides = arguments["strides"]
    if not isinstance(strides, list):
        raise trained.error("strides", f"expected a list, found {str(strides)[:60]}")
    for axis, size in enumerate(trained.configuration.patch_size):
        product = 1
        for stage in strides:
            step = cast(Sequence[JsonValue], stage)[axis] if isinstance(stage, list) and axis < len(stage) else 0
            if not isinstance(step, int) or step < 1:
                raise trained.error("strides", f"expected whole numbers from 1 for each axis, found {str(stage)[:60]}")
            product *= step
        if size % product:
            problem = f"expected multiples of the strides' product, {product} along axis {axis}; found {size}"
            raise trained.error("patch_size", problem)
