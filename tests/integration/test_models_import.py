"""What `dicomnode models import` says of an nnU-Net, and what it keeps out because the engine could not run it."""

from pathlib import Path

import pytest

from dicomnode.errors import ConfigError
from dicomnode.importers.nnunet import NnunetOptions, import_nnunet
from dicomnode.models.writing import write_package
from dicomnode.node import checked_config
from tests.integration.test_models_commands import Models, dicomnode, home_of, models, site
from tests.nnunet_folders import Json, checkpoint, write_folder
from tests.site import Site

__all__ = ["dicomnode", "models", "site"]  # fixtures


def two_images(folder: Path) -> Path:
    """An nnU-Net that looks at two images together."""

    def normalised(content: Json) -> None:
        both = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}
        content["configurations"]["3d_fullres"] |= both

    def named(content: Json) -> None:
        content["channel_names"] = {"0": "CT", "1": "CT"}

    return write_folder(folder, normalised, named, lambda fold: fold.update(checkpoint(channels=2)))


def test_a_model_of_several_images_is_not_installed(models: Models, site: Site, tmp_path: Path):
    said = models.refused("import", two_images(tmp_path / "two"), "--name", "two")
    assert "the engine runs models of one image so far, found one of 2 images" in said
    assert not home_of(site, "two").exists()


def test_a_route_to_a_model_of_several_images_is_refused_before_anything_runs(site: Site, tmp_path: Path):
    imported = import_nnunet(two_images(tmp_path / "two"), {}, tmp_path / "labels.toml", NnunetOptions(name="two"))
    write_package(home_of(site).parent, imported.manifest, imported.files)
    assert checked_config(site.config_path).routes[0].model == "torso"  # that it is there hurts nobody
    site.config_path.write_text(site.config_path.read_text().replace('model = "torso"', 'model = "two"'))
    with pytest.raises(ConfigError, match=r"'routes.torso.model': expected a model of one image, .* one of 2 images"):
        checked_config(site.config_path)


def test_axes_that_nobody_stated_are_said_when_a_model_is_imported(models: Models, tmp_path: Path):
    folder = write_folder(tmp_path / "small")
    said = models.done("import", folder)
    words = "training arrays taken as SPL (slices towards the head, rows towards the back, columns to the left)"
    assert words in said
    assert "import again with --orientation" in said
    assert models.said("import", folder, "--orientation", "SAR", "--replace")["notes"] == []
