"""What the peculiar parts of published bundles come to: a step where there is one, else a refusal with the exact key.

Each change below gives the spleen bundle the part of another bundle of the MONAI model zoo that it is named after.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.errors import ModelError
from dicomnode.importers.monai_bundle import import_monai_bundle
from dicomnode.models import after, before
from tests.bundles import Config, answer_transform, compose, invert, transform, write_bundle

Change = Callable[[Config], None]


def prostate_mri_anatomy(config: Config) -> None:
    """Labels are decided, then interpolated linearly."""
    largest = answer_transform("KeepLargestConnectedComponentd", applied_labels=[1])
    decided = answer_transform("AsDiscreted", argmax=True)
    config["postprocessing"] = compose(decided, largest, invert(nearest=False))


def pancreas_ct_dints(config: Config) -> None:
    config["arch_ckpt"] = "$torch.load(@arch_ckpt_path, map_location=torch.device('cuda'))"
    config["dints_space"] = {"_target_": "monai.networks.nets.TopologyInstance", "arch_code": "$@arch_ckpt['a']"}
    config["network_def"] = {"_target_": "monai.networks.nets.DiNTS", "dints_space": "@dints_space"}


def renal_structures_unest(config: Config) -> None:
    config["network_def"] = {"_target_": "scripts.networks.unest.UNesT", "in_channels": 1, "out_channels": 4}


def spleen_deepedit(config: Config) -> None:
    config["preprocessing_transforms"] = config["preprocessing"]["transforms"]
    guidance = {"_target_": "AddGuidanceSignalDeepEditd", "keys": "image", "guidance": "guidance"}
    config["deepedit_transforms"] = [guidance]
    config["preprocessing"] = {
        "_target_": "Compose",
        "transforms": "$@preprocessing_transforms + @deepedit_transforms",
    }


def ventricular_short_axis(config: Config) -> None:
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [256, 256], "spatial_dim": 2}


def endoscopic_tools(config: Config) -> None:
    config["network_def"] = {"_target_": "FlexibleUNet", "in_channels": 3, "out_channels": 2, "backbone": "b2"}


def lung_nodule_detection(config: Config) -> None:
    config["detector"] = {"_target_": "RetinaNetDetector", "network": "@network"}


def prostate_of_another_author(config: Config) -> None:
    crop = transform("CenterScaleCropd", roi_scale=[0.6, 0.6, 1])
    config["preprocessing"]["transforms"].append(crop)


def ensemble(config: Config) -> None:
    config["postprocessing"] = compose({"_target_": "MeanEnsembled", "keys": ["pred0", "pred1"], "output_key": "pred"})


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (prostate_mri_anatomy, "postprocessing::transforms::2::nearest_interp"),
        (pancreas_ct_dints, "network_def::_target_"),
        (renal_structures_unest, "network_def::_target_"),
        (spleen_deepedit, "deepedit_transforms::0::_target_"),
        (ventricular_short_axis, "inferer::_target_"),
        (endoscopic_tools, "network_def::_target_"),
        (lung_nodule_detection, "detector::_target_"),
        (prostate_of_another_author, "preprocessing::transforms::6::_target_"),
        (ensemble, "postprocessing::transforms::0::_target_"),
    ],
)
def test_what_the_node_cannot_do_is_refused_with_its_key(change: Change, key: str, tmp_path: Path):
    with pytest.raises(ModelError, match=r"^inference\.json: ") as caught:
        import_monai_bundle(write_bundle(tmp_path / "bundle", change), {}, tmp_path / "labels.toml")
    assert key in str(caught.value)


def lists_of_transforms(config: Config) -> None:
    """vista3d and others join lists of transforms by an expression."""
    config["first"], config["image_key"] = config["preprocessing"]["transforms"], "image"
    config["last"] = [{"_target_": "CastToTyped", "keys": "@image_key", "dtype": "$torch.float32"}]
    config["preprocessing"] = {"_target_": "Compose", "transforms": "$@first + @last"}


def choice_of_resolution(config: Config) -> None:
    """wholeBody_ct_segmentation chooses spacing and weights by a switch."""
    config["displayable_configs"] = {"highres": False, "sw_overlap": 0.25}
    config["pixdim"] = "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]"
    config["modelname"] = "$'model_highres.pt' if @displayable_configs#highres else 'model.pt'"
    config["preprocessing"]["transforms"][3]["pixdim"] = "@pixdim"
    config["inferer"]["overlap"] = "@displayable_configs#sw_overlap"
    config["checkpointloader"]["load_path"] = "$@bundle_root + '/models/' + @modelname"


def loader_among_the_handlers(config: Config) -> None:
    loader = config.pop("checkpointloader")
    config["handlers"].insert(0, loader)
    config["initialize"] = ["$setattr(torch.backends.cudnn, 'benchmark', True)"]


def counted_channels(config: Config) -> None:
    """spleen_deepedit counts its labels, pediatric_abdominal its dimensions."""
    config["label_names"], config["spatial_size"] = {"spleen": 1, "background": 0}, [96, 96, 96]
    config["network_def"]["out_channels"] = "$len(@label_names)"
    config["network_def"]["spatial_dims"] = "$len(@spatial_size)"


@pytest.mark.parametrize(
    "change", [lists_of_transforms, choice_of_resolution, loader_among_the_handlers, counted_channels]
)
def test_how_published_configs_are_put_together_is_understood(change: Change, tmp_path: Path):
    imported = import_monai_bundle(write_bundle(tmp_path / "bundle", change), {}, tmp_path / "labels.toml")
    (stage,) = imported.manifest.stages
    assert [type(step) for step in stage.before] == [before.Orient, before.Resample, before.Scale]
    assert [type(step) for step in stage.after] == [after.Activate, after.Back, after.Decide]
    if change is choice_of_resolution:
        resample = stage.before[1]
        assert isinstance(resample, before.Resample)
        assert (resample.spacing_mm, stage.windows.overlap) == ((3.0, 3.0, 3.0), 0.25)
