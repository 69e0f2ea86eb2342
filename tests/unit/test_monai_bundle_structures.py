"""What a bundle's labels are called behind its steps and prompts; what would be a guess is asked."""

from pathlib import Path

import pytest

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported
from dicomnode.importers.monai_bundle import BundleOptions, import_monai_bundle
from tests.bundles import (
    NETWORK,
    Config,
    answer_transform,
    compose,
    invert,
    metadata_config,
    unet_weights,
    write_bundle,
)


def imported(folder: Path, options: BundleOptions | None = None) -> Imported:
    return import_monai_bundle(folder, {}, folder.parent / "labels.toml", options)


def relabelled(folder: Path, names: dict[int, str], origin: list[int], target: list[int]) -> Imported:
    """A bundle that decides between some structures and then changes their labels."""

    def change(config: Config) -> None:
        config["network_def"]["out_channels"] = len(names)
        config["postprocessing"] = compose(
            answer_transform("AsDiscreted", argmax=True),
            invert(nearest=True),
            answer_transform("MapLabelValued", orig_labels=origin, target_labels=target),
        )

    weights = unet_weights({**NETWORK, "out_channels": len(names)})
    return imported(write_bundle(folder / "bundle", change, metadata_config(names), weights))


def test_labels_that_become_one_are_not_called_by_the_first_of_them(tmp_path: Path):
    names = {0: "background", 1: "kidney_right", 2: "kidney_left", 3: "spleen"}
    with pytest.raises(ModelError, match="found none for 'kidney_right and kidney_left'; complete"):
        relabelled(tmp_path / "a", names, [2], [1])
    veins = {0: "background", 1: "spleen", 2: "spleen"}  # parts of one name are that
    (segment,) = relabelled(tmp_path / "b", veins, [2], [1]).manifest.segments
    assert (segment.name, segment.labels) == ("Spleen", (1,))


def test_a_label_that_moves_to_the_number_of_another_name_is_not_guessed(tmp_path: Path):
    names = {0: "background", 1: "liver", 2: "spleen"}
    with pytest.raises(ModelError, match="found none for 'label 1', 'label 2'; complete"):
        relabelled(tmp_path / "a", names, [1, 2], [2, 1])
    segments = relabelled(tmp_path / "b", names, [1, 2], [11, 12]).manifest.segments
    assert [(segment.name, segment.labels) for segment in segments] == [("Liver", (11,)), ("Spleen", (12,))]


def test_prompts_are_for_vista3d_and_for_no_other_network(tmp_path: Path):
    with pytest.raises(ModelError, match="prompts: expected a bundle of VISTA3D, found one of UNet"):
        imported(write_bundle(tmp_path / "bundle"), BundleOptions(prompts=(1, 3)))


def test_vista3d_as_a_program_is_refused_as_nobody_would_give_it_prompts(tmp_path: Path):
    def change(config: Config) -> None:
        config["network_def"] = {"_target_": "monai.networks.nets.vista3d132", "in_channels": 1}
        config["everything_labels"] = [1, 3]

    folder = write_bundle(tmp_path / "bundle", change)
    (folder / "models/model.pt").unlink()
    (folder / "models/model.ts").write_bytes(b"the program")
    for options in (BundleOptions(), BundleOptions(prompts=(3,))):
        with pytest.raises(ModelError, match=r"expected the weights of VISTA3D as models/model.pt, found .*model.ts"):
            imported(folder, options)
