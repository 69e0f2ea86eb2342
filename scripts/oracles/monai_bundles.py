"""Bundles modelled on the MONAI model zoo's, with tiny networks: the same keys, the same quirks.

Each says whose structure it follows. Facts kept on purpose: names given by reference or as a $ expression, readers
that are not installed here, arguments that MONAI has dropped since, settings that nothing reads.
"""

from dataclasses import dataclass, field
from typing import Any

from monai_parts import (
    DEVICE,
    NAMED_OUTPUT,
    Json,
    argmax,
    compose,
    evaluating,
    head,
    invert,
    loading,
    metadata,
    save_as_named,
    sliding_window,
    softmax,
    transform,
)
from phantoms import IDENTITY, Grid, turned

# Right-handed and tilted; and one that runs to the left, to the front and down, as many archives' NIfTI do.
TILTED = Grid((36, 60, 56), (2.6, 1.1, 1.2), turned(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (9.0, 4.0)))
FLIPPED = Grid((40, 58, 62), (2.2, 1.25, 1.2), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
PLAIN = Grid((38, 56, 60), (2.4, 1.2, 1.15), IDENTITY)


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle and how MONAI was asked; `oracle` replaces what this machine's MONAI cannot do."""

    name: str
    about: str
    inference: Json
    metadata: Json
    grid: Grid
    kind: str = "ct"
    body_size: float = 1.0
    weights: str = "model.pt"
    wrapped: bool = False  # the checkpoint holds {"model": ...} instead of the weights themselves
    iterations: int = 25  # 0: random weights
    classes: int = 2
    regions: bool = False
    yaml: bool = False
    scripts: tuple[str, ...] = ()
    label_prompt: tuple[int, ...] | None = None
    oracle: Json = field(default_factory=dict[str, Any])


NOT_IN_EVERYTHING = [2, 16, 18, 20, 21, 23, 24, 25, 26, 27, 128, 129, 130, 131, 132]


def bundles() -> list[Bundle]:
    """Every bundle, the simplest first."""
    whole_body = (_whole_body(highres=True), _whole_body(highres=False))
    return [
        _spleen(),
        _spleen_script(),
        *whole_body,
        _swin_btcv(),
        _brats(),
        _dynunet(),
        _vista3d(),
        _vista3d_everything(),
    ]


def _spleen_config() -> Json:
    network = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 16, 16, 16],
        "strides": [2, 2, 2, 2],
        "num_res_units": 2,
        "norm": "batch",
    }
    before = compose(
        transform("LoadImaged"),
        transform("EnsureChannelFirstd"),
        transform("Orientationd", axcodes="RAS"),
        transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
        transform("ScaleIntensityRanged", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
        transform("EnsureTyped"),
    )
    return {
        **head("glob", "os"),
        **NAMED_OUTPUT,
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": before,
        **loading(),
        "inferer": sliding_window(32, 0.5),
        "postprocessing": compose(softmax(), invert(nearest=False), argmax(), save_as_named()),
        **evaluating(),
    }


def _spleen() -> Bundle:
    return Bundle(
        name="monai-spleen",
        about="After spleen_ct_segmentation: UNet with batch norm; softmax, invert linearly, argmax.",
        inference=_spleen_config(),
        metadata=metadata("Spleen CT segmentation", {"0": "background", "1": "spleen"}),
        grid=TILTED,
    )


def _spleen_script() -> Bundle:
    return Bundle(
        name="monai-spleen-torchscript",
        about="The same with models/model.ts instead of model.pt.",
        inference=_spleen_config(),
        metadata=metadata("Spleen CT segmentation", {"0": "background", "1": "spleen"}),
        grid=PLAIN,
        weights="model.ts",
    )


def _whole_body(*, highres: bool) -> Bundle:
    network = {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 12,
        "init_filters": 8,
        "blocks_down": [1, 2, 2, 4],
        "blocks_up": [1, 1, 1],
        "dropout_prob": 0.2,
    }
    before = compose(
        transform("LoadImaged", "@image_key"),
        transform("EnsureTyped", "@image_key"),
        transform("EnsureChannelFirstd", "@image_key"),
        transform("Orientationd", "@image_key", axcodes="RAS"),
        transform("Spacingd", "@image_key", pixdim="@pixdim", mode="bilinear"),
        transform("NormalizeIntensityd", "@image_key", nonzero=True),
        transform("ScaleIntensityd", "@image_key", minv=-1.0, maxv=1.0),
    )
    displayed = "@displayable_configs#{}".format
    window = sliding_window(32, displayed("sw_overlap"), padding_mode="replicate", mode="gaussian", device=DEVICE)
    config = {
        "displayable_configs": {"highres": highres, "sw_overlap": 0.25, "sw_batch_size": 1},
        **head("glob", "numpy", "os", image_key="image", dataset_dir="sampledata"),
        **NAMED_OUTPUT,
        "pixdim": "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        "modelname": "$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": before,
        **loading(workers=1),
        "inferer": {**window, "sw_batch_size": displayed("sw_batch_size")},
        "postprocessing": compose(softmax(), argmax(), invert(nearest=True, orig_keys="@image_key"), save_as_named()),
        **evaluating(checkpoint="'/models/' + @modelname"),
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@checkpointloader(@evaluator)"],
    }
    channels = {"0": "background", **{str(n): f"structure {n}" for n in range(1, 12)}}
    return Bundle(
        name="monai-wholebody" if highres else "monai-wholebody-lowres",
        about="After wholeBody_ct_segmentation: SegResNet, whole-volume intensities; argmax, then invert nearest.",
        inference=config,
        metadata=metadata("Whole body CT segmentation", channels),
        grid=FLIPPED if highres else TILTED,
        weights="model.pt" if highres else "model_lowres.pt",
        wrapped=True,
        classes=12,
    )


def _swin_btcv() -> Bundle:
    network = {
        "_target_": "SwinUNETR",
        "spatial_dims": 3,
        "img_size": 64,
        "in_channels": 1,
        "out_channels": 14,
        "feature_size": 12,
        "use_checkpoint": False,
    }
    before = compose(
        transform("LoadImaged", reader="ITKReader"),
        transform("EnsureChannelFirstd"),
        transform("Orientationd", axcodes="RAS"),
        transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
        transform("ScaleIntensityRanged", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
        transform("EnsureTyped"),
    )
    saving = transform("SaveImaged", "pred", output_dir="@output_dir")
    config = {
        **head("glob", "os", dataset_dir="/workspace/data/RawData/"),
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": before,
        **loading(),
        "inferer": sliding_window(64, 0.5),
        "postprocessing": compose(softmax(), invert(nearest=False), argmax(), saving),
        **evaluating(as_handler=True),
    }
    channels = {"0": "background", **{str(n): f"organ {n}" for n in range(1, 14)}}
    return Bundle(
        name="monai-swin-btcv",
        about="After swin_unetr_btcv_segmentation: img_size, which MONAI dropped; ITKReader; a window over the whole.",
        inference=config,
        metadata=metadata("BTCV multi-organ segmentation", channels, patch=64),
        grid=PLAIN,
        iterations=0,
        classes=14,
        oracle={"network_def#img_size": None, "preprocessing#transforms#0#reader": None},
    )


def _brats() -> Bundle:
    network = {
        "_target_": "SegResNet",
        "blocks_down": [1, 2, 2, 4],
        "blocks_up": [1, 1, 1],
        "init_filters": 8,
        "in_channels": 4,
        "out_channels": 3,
        "dropout_prob": 0.2,
    }
    choose = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    saving = transform("SaveImaged", "pred", meta_keys="pred_meta_dict", output_dir="@output_dir", output_postfix="seg")
    config = {
        **head("glob", "os", ckpt_dir="$@bundle_root + '/models'", amp=True),
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": compose(
            transform("LoadImaged"), transform("NormalizeIntensityd", nonzero=True, channel_wise=True)
        ),
        **loading(),
        "inferer": {**sliding_window(48, 0.5), "roi_size": [48, 48, 32], "sw_batch_size": 1},
        "postprocessing": compose(
            transform("Activationsd", "pred", sigmoid=True),
            invert(nearest=False, meta_keys="pred_meta_dict"),
            transform("AsDiscreted", "pred", threshold=0.5),
            transform("Lambdad", "pred", func=choose),
            {**saving, "output_dtype": "uint8", "resample": False, "squeeze_end_dims": True},
        ),
        **evaluating(as_handler=True),
    }
    return Bundle(
        name="monai-brats",
        about="After brats_mri_segmentation: four MR channels, sigmoid regions made labels by a lambda, no resampling.",
        inference=config,
        metadata=metadata("Brain tumour", {"0": "TC", "1": "WT", "2": "ET"}, inputs=4, modality="MR"),
        grid=Grid((40, 48, 56), (1.0, 1.0, 1.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)),
        kind="mr4",
        wrapped=True,
        classes=4,
        regions=True,
    )


def _dynunet() -> Bundle:
    network = {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": "@spatial_dims",
        "in_channels": "@input_channels",
        "out_channels": "@output_channels",
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, [2, 2, 1]],
        "upsample_kernel_size": [2, 2, [2, 2, 1]],
        "filters": [8, 16, 16, 24],
        "norm_name": "instance",
        "deep_supervision": False,
        "res_block": True,
    }
    before = compose(
        transform("LoadImaged", "@image_key", reader="ITKReader"),
        transform("EnsureChannelFirstd", "@image_key"),
        transform("Orientationd", axcodes="RAS"),
        {"_target_": "Spacingd", "keys": ["@image_key"], "pixdim": [1.5, 1.5, 3.0], "mode": ["bilinear"]},
        transform("ScaleIntensityRanged", "@image_key", a_min=-250, a_max=400, b_min=0, b_max=1, clip=True),
        {"_target_": "CropForegroundd", "keys": ["@image_key"], "source_key": "@image_key", "mode": ["minimum"]},
        transform("EnsureTyped"),
        transform("CastToTyped", "@image_key", dtype="$torch.float32"),
    )
    saving = transform("SaveImaged", "pred", meta_keys="pred_meta_dict", output_dir="@output_dir")
    config = {
        **head("glob", "os", workflow_type="inference", input_channels=1, output_channels=4, image_key="image"),
        "spatial_size": [32, 32, 32],
        "spatial_dims": "$len(@spatial_size)",
        "labels": {"background": 0, "liver": 1, "spleen": 2, "pancreas": 3},
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": before,
        **loading(),
        "inferer": sliding_window(32, 0.75),
        "postprocessing": compose(
            softmax(),
            invert(nearest=False, meta_key_postfix="meta_dict"),
            argmax(),
            {**saving, "separate_folder": False, "output_dtype": "$torch.int16"},
        ),
        **evaluating(checkpoint="'/models/dynunet_FT.pt'", as_handler=True),
    }
    channels = {"0": "background", "1": "liver", "2": "spleen", "3": "pancreas"}
    return Bundle(
        name="monai-dynunet-yaml",
        about="After pediatric_abdominal_ct_segmentation: YAML, DynUNet, cropped to the foreground after scaling.",
        inference=config,
        metadata=metadata("Paediatric abdominal CT segmentation", channels),
        grid=TILTED,
        weights="dynunet_FT.pt",
        classes=4,
        yaml=True,
        oracle={"preprocessing#transforms#0#reader": None},
    )


def _vista3d_config() -> Json:
    before = [
        transform("LoadImaged", "@image_key", reader="NibabelGPUReader", image_only=True),
        transform("EnsureChannelFirstd", "@image_key"),
        transform("EnsureTyped", "@image_key", device="@device", track_meta=True),
        transform("Spacingd", "@image_key", pixdim="@resample_spacing", mode="bilinear"),
        transform("CropForegroundd", "@image_key", allow_smaller=True, margin=10, source_key="@image_key"),
        transform(
            "monai.apps.vista3d.transforms.VistaPreTransformd",
            "@image_key",
            subclass="@subclass",
            labels_dict="@labels_dict",
        ),
        transform(
            "ScaleIntensityRanged",
            "@image_key",
            a_min=-963.8247715525971,
            a_max=1053.678477684517,
            b_min=0,
            b_max=1,
            clip=True,
        ),
        transform("Orientationd", "@image_key", axcodes="RAS"),
        transform("CastToTyped", "@image_key", dtype="$torch.float32"),
    ]
    after = compose(
        transform("ToDeviced", "pred", device="cpu", _disabled_=True),
        transform("monai.apps.vista3d.transforms.VistaPostTransformd", "pred"),
        invert(nearest=True, transform="$copy.deepcopy(@preprocessing)", orig_keys="@image_key"),
        transform("Lambdad", "pred", func="$lambda x: torch.nan_to_num(x, nan=255)"),
        {**save_as_named(), "resample": False},
    )
    labels = "$@metadata['network_data_format']['outputs']['pred']['channel_def']"
    config = {
        **head("glob", "os", "scripts", "numpy as np", "copy", "json", "pathlib", bundle_root="./", image_key="image"),
        **NAMED_OUTPUT,
        "output_dtype": "$np.float32",
        "input_dict": "${'image': '/workspace/Task09_Spleen/imagesTr/spleen_10.nii.gz', 'label_prompt': [3]}",
        "everything_labels": f"$list(set([i+1 for i in range(132)]) - set({NOT_IN_EVERYTHING}))",
        "metadata_path": "$@bundle_root + '/configs/metadata.json'",
        "metadata": "$json.loads(pathlib.Path(@metadata_path).read_text())",
        "labels_dict": labels,
        "subclass": {
            "2": [14, 5],
            "20": [28, 29, 30, 31, 32],
            "21": "$list(range(33, 57)) + list(range(63, 98)) + [114, 120, 122]",
        },
        "input_channels": 1,
        "resample_spacing": [1.5, 1.5, 1.5],
        "sw_batch_size": 1,
        "patch_size": [48, 48, 48],
        "use_point_window": True,
        "network_def": "$monai.networks.nets.vista3d132(encoder_embed_dim=8, in_channels=@input_channels)",
        "network": "$@network_def.to(@device)",
        "preprocessing_transforms": before,
        "preprocessing": {"_target_": "Compose", "transforms": "$@preprocessing_transforms "},
        **loading(workers=0),
        "inferer": {
            "_target_": "scripts.inferer.Vista3dInferer",
            "roi_size": "@patch_size",
            "overlap": 0.3,
            "sw_batch_size": "@sw_batch_size",
            "use_point_window": "@use_point_window",
        },
        "postprocessing": after,
        **evaluating(),
    }
    for unused in ("dataset_dir", "datalist"):
        del config[unused]
    config["dataset"]["data"] = "$[@input_dict]"
    config["dataloader"]["_target_"] = "ThreadDataLoader"
    config["evaluator"]["_target_"] = "scripts.evaluator.Vista3dEvaluator"
    config["evaluator"]["hyper_kwargs"] = {"user_prompt": True, "everything_labels": "@everything_labels"}
    config["checkpointloader"]["map_location"] = "@device"
    return config


def _vista3d() -> Bundle:
    return Bundle(
        name="monai-vista3d",
        about="After vista3d: class prompts liver, kidney (asked as its two sides) and spleen; scripts/ beside.",
        inference=_vista3d_config(),
        metadata=metadata("VISTA3D", _vista3d_labels(), patch=128),
        grid=Grid((36, 80, 84), (2.2, 1.25, 1.2), FLIPPED.direction),
        body_size=0.5,  # small enough for the crop to bite: its margin is 10 voxels
        iterations=0,
        scripts=("__init__", "inferer", "evaluator"),
        label_prompt=(1, 2, 3),
        oracle=VISTA3D_HERE,
    )


def _vista3d_everything() -> Bundle:
    return Bundle(
        name="monai-vista3d-everything",
        about="The same without a prompt: all of everything_labels.",
        inference=_vista3d_config(),
        metadata=metadata("VISTA3D", _vista3d_labels(), patch=128),
        grid=Grid((24, 44, 46), (2.2, 1.4, 1.3), IDENTITY),
        iterations=0,
        scripts=("__init__", "inferer", "evaluator"),
        oracle=VISTA3D_HERE,
    )


# scripts/ is not here, and what it does is done in make_monai.py; the GPU reader gives the array that nibabel gives.
VISTA3D_HERE: Json = {"imports#2": "$import os", "preprocessing_transforms#0#reader": None}


def _vista3d_labels() -> dict[str, str]:
    known = {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas", 5: "right kidney", 14: "left kidney", 20: "lung"}
    return {"0": "background", **{str(n): known.get(n, f"structure {n}") for n in range(1, 133)}}
