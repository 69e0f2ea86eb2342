"""Models of several networks and stages, what they show each other, and what is done where memory is short."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.errors import ModelError, Unavailable
from dicomnode.imaging import Volume
from dicomnode.inference import Engine, Inference
from dicomnode.models import ModelPackage
from tests.toy_models import (
    Document,
    State,
    bright_where,
    segment,
    toy_engine,
    toy_manifest,
    toy_network,
    toy_stage,
    upright_geometry,
    volume_on,
    write_package,
)

SHAPE = (12, 24, 24)
SPACING_MM = (3.0, 2.0, 1.5)
GIB = 1 << 30
VIEWS = {"step": "channels", "views": [{"clip": [-1000.0, 1000.0], "to": [-1.0, 1.0]}]}


def volume() -> Volume:
    """Air, a block of 500 HU, and a smaller one of 900 HU in it."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:9, 4:20, 6:18], voxels[4:7, 8:12, 9:12] = 500, 900
    return volume_on(upright_geometry(SHAPE, SPACING_MM), voxels)


def stage(name: str, network: str, above_hu: float, *first: Document, **others: Any) -> Document:
    """A stage at the scanner's own grid whose network says 1 above some HU."""
    views = {"step": "channels", "views": [{"clip": [above_hu - 1000, above_hu + 1000], "to": [-1.0, 1.0]}]}
    keys = {"name": name, "networks": [network], "before": [*first, views], "after": [{"step": "decide"}]}
    return {**keys, "after": [{"step": "decide"}, {"step": "back"}], "windows": {"multiple": 2}, **others}


def manifest(networks: list[str], *stages: Document, labels: int = 1) -> Document:
    """A model of several networks, each with its file, and some labels."""
    return {
        **toy_manifest(),
        "networks": {name: {**toy_network(), "file": f"{name}.safetensors"} for name in networks},
        "stages": list(stages),
        "segments": [segment(label, f"Structure {label}", [label]) for label in range(1, labels + 1)],
    }


def run(package: ModelPackage, engine: Engine | None = None) -> Inference:
    return (engine or toy_engine()).segment(package, volume())


def test_stages_write_into_one_label_map_the_later_over_the_earlier(tmp_path: Path) -> None:
    block = stage("block", "a", 0, writes={1: 2})
    core = stage("core", "b", 700, writes={1: 1})
    package = write_package(tmp_path, manifest(["a", "b"], block, core, labels=2), bright_where(), bright_where())
    voxels = volume().voxels
    np.testing.assert_array_equal(run(package).labels, np.select([voxels > 700, voxels > 0], [1, 2], 0))


def test_parts_whose_labels_are_hundreds_fit_into_one_map(tmp_path: Path) -> None:
    parts = [stage("block", "a", 0, writes={1: 2}), stage("core", "b", 700, writes={1: 400})]
    document = manifest(["a", "b"], *parts)
    document["segments"] = [segment(1, "Block", [2]), segment(2, "Core", [400])]
    labels = run(write_package(tmp_path, document, bright_where(), bright_where())).labels
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 2, 400}


def test_a_coarse_stage_crops_for_a_fine_one_and_writes_nothing(tmp_path: Path) -> None:
    coarse = stage("coarse", "a", 700, writes="nothing")
    crop = {"step": "crop-to-stage", "stage": "coarse", "labels": [1], "margin_mm": 3.0}
    fine = stage("fine", "b", 0, crop)
    found = run(write_package(tmp_path, manifest(["a", "b"], coarse, fine), bright_where(), bright_where()))
    expected = np.zeros(SHAPE)
    expected[3:8, 7:13, 7:14] = 1  # the core and 1, 1 and 2 voxels around it, all of it in the block
    np.testing.assert_array_equal(found.labels, expected)
    assert [record.stage for record in found.stages] == ["coarse", "fine"]
    assert found.stages[1].window == (6, 6, 8)


def test_where_the_coarse_stage_found_nothing_the_fine_one_is_silent(tmp_path: Path) -> None:
    coarse = stage("coarse", "a", 950, writes="nothing")
    fine = stage("fine", "b", 0, {"step": "crop-to-stage", "stage": "coarse", "labels": [1]})
    found = run(write_package(tmp_path, manifest(["a", "b"], coarse, fine), bright_where(), bright_where()))
    assert not found.labels.any()
    assert [record.windows for record in found.stages] == [1, 0]


def test_a_cascade_is_shown_what_the_stage_before_it_found(tmp_path: Path) -> None:
    first = stage("first", "a", 700, writes="nothing")
    second = stage("second", "b", 0)
    second["before"].append({"step": "add-labels", "stage": "first", "labels": [1]})
    document = manifest(["a", "b"], first, second)
    document["networks"]["b"] = {**toy_network(in_channels=2), "file": "b.safetensors"}
    labels = run(write_package(tmp_path, document, bright_where(), only_second_channel())).labels
    np.testing.assert_array_equal(labels, volume().voxels > 700)


def only_second_channel() -> State:
    """The toy network of two channels that says 1 where the second is above a half."""
    state = bright_where()
    first = torch.zeros(2, 2, 3, 3, 3)
    first[0, 1, 1, 1, 1] = 1.0
    state["model.0.conv.weight"] = first
    state["model.2.conv.bias"] = torch.tensor([0.5, -0.5])
    return state


def test_a_stage_of_two_networks_says_their_mean(tmp_path: Path) -> None:
    both = {**stage("both", "a", 500), "networks": ["a", "b"]}
    against, stronger = bright_where(), bright_where(3.0)
    against["model.2.conv.weight"] *= -1
    package = write_package(tmp_path, manifest(["a", "b"], both), against, stronger)
    np.testing.assert_array_equal(run(package).labels, volume().voxels > 500)


def test_the_mean_of_all_mirrored_windows_is_taken(tmp_path: Path) -> None:
    # A network that looks one voxel ahead, mirrored, looks one voxel back: their mean is symmetric.
    document = manifest(["a"], stage("main", "a", 0, windows={"patch": "whole", "multiple": 2, "mirror_axes": [2]}))
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[:, :, 10:13] = 1000
    ahead = write_package(tmp_path, document, bright_where(look=(0, 0, 1)))
    labels = toy_engine().segment(ahead, volume_on(upright_geometry(SHAPE, SPACING_MM), voxels)).labels
    np.testing.assert_array_equal(labels, labels[:, :, ::-1][:, :, [*range(1, 24), 0]])
    assert labels[:, :, 11].all()


@pytest.mark.parametrize("patch", ["whole", [16, 16]])
@pytest.mark.parametrize("style", ["monai", "nnunet"])
def test_a_network_of_two_dimensions_sees_slices(tmp_path: Path, patch: object, style: str) -> None:
    flat = stage("main", "a", 0, windows={"patch": patch, "multiple": 2, "style": style})
    document = manifest(["a"], flat)
    arguments = {**toy_network()["arguments"], "spatial_dims": 2}
    document["networks"]["a"] |= {"dimensions": 2, "arguments": arguments}
    state = {key: tensor[..., 1] if tensor.ndim == 5 else tensor for key, tensor in bright_where().items()}
    labels = run(write_package(tmp_path, document, state)).labels
    np.testing.assert_array_equal(labels, volume().voxels > 0)


def test_regions_that_overlap_are_structures_that_share_labels(tmp_path: Path) -> None:
    document = manifest(["a"], stage("main", "a", 0))
    document["stages"][0]["after"] = [
        {"step": "activate", "function": "sigmoid"},
        {"step": "back"},
        {"step": "decide", "rule": "overlapping"},
    ]
    document["segments"] = [segment(1, "Dark", [1, 3]), segment(2, "Bright", [2, 3])]
    labels = run(write_package(tmp_path, document, bright_where())).labels
    np.testing.assert_array_equal(labels, np.where(volume().voxels > 0, 2, 1))


@pytest.mark.parametrize("patch", ["whole", [8, 8, 8]])
def test_what_is_not_a_number_is_blocked_with_the_stage_and_the_network(tmp_path: Path, patch: object) -> None:
    state = bright_where()
    state["model.0.conv.weight"] *= 1e38
    state["model.2.conv.weight"] *= 1e38
    document = manifest(["a", "b"], stage("first", "a", 0), stage("second", "b", 0, windows={"patch": patch}))
    package = write_package(tmp_path, document, bright_where(), state)
    with pytest.raises(ModelError, match="stage 'second', network 'b': expected finite logits"):
        run(package)


def test_a_network_of_other_channels_than_the_steps_give_is_refused(tmp_path: Path) -> None:
    document = manifest(["a"], stage("main", "a", 0))
    document["networks"]["a"] = {**toy_network(in_channels=2), "file": "a.safetensors"}
    with pytest.raises(ModelError, match="stage 'main': expected 2 channels after the steps before it, found 1"):
        run(write_package(tmp_path, document, only_second_channel()))


def roomy(tmp_path: Path) -> ModelPackage:
    """A package that says that a forward takes 8 kB per voxel."""
    document = {**manifest(["a"], stage("main", "a", 0)), "memory": {"bytes_per_voxel": 8000}}
    return write_package(tmp_path, document, bright_where())


def test_where_the_whole_does_not_fit_windows_do_and_the_result_says_so(tmp_path: Path) -> None:
    package = roomy(tmp_path)
    voxels = np.random.default_rng(0).normal(0, 400, (20, 96, 64)).astype(np.int16)
    given = volume_on(upright_geometry((20, 96, 64), SPACING_MM), voxels)
    whole = toy_engine(free=lambda _: 8 * GIB).segment(package, given)
    parts = toy_engine(free=lambda _: GIB).segment(package, given)
    assert (whole.stages[0].windows, whole.stages[0].steps) == (1, ())
    assert parts.stages[0].windows > 1
    assert parts.stages[0].steps == ("windows of 20 x 48 x 64 voxels instead of the whole 20 x 96 x 64",)
    np.testing.assert_array_equal(whole.labels, parts.labels)


def test_where_nothing_fits_the_job_comes_back_later_with_the_numbers(tmp_path: Path) -> None:
    engine = toy_engine(free=lambda _: 1_000_000)
    with pytest.raises(Unavailable, match=r"expected memory for \(12, 24, 24\) voxels, found too little; cpu: "):
        run(roomy(tmp_path), engine)
    assert Unavailable.retryable


def test_a_patch_that_does_not_fit_is_told_with_the_bytes(tmp_path: Path) -> None:
    document = {
        **manifest(["a"], stage("main", "a", 0, windows={"patch": [8, 8, 8]})),
        "memory": {"bytes_per_voxel": 1e6},
    }
    package = write_package(tmp_path, document, bright_where())
    with pytest.raises(Unavailable, match=r"needs 0.48 GiB for a window of 8 x 8 x 8 voxels .* may take 0.05 GiB of"):
        run(package, toy_engine(free=lambda _: GIB // 10))


def test_a_patch_of_which_nothing_is_said_is_measured_before_it_is_tried(tmp_path: Path) -> None:
    document = manifest(["a"], stage("main", "a", 0, windows={"patch": [320, 320, 320]}))
    package = write_package(tmp_path, document, bright_where())
    with pytest.raises(Unavailable, match=r"needs \d+\.\d\d GiB for a window of 320 x 320 x 320 voxels"):
        run(package, toy_engine(free=lambda _: GIB))


def test_a_patch_that_this_computer_never_has_room_for_is_not_tried_again(tmp_path: Path) -> None:
    document = {
        **manifest(["a"], stage("main", "a", 0, windows={"patch": [1024, 1024, 1024]})),
        "memory": {"bytes_per_voxel": 1e6},
    }
    with pytest.raises(ModelError, match=r"a window of 1024 x 1024 x 1024 voxels needs 1000000.00 GiB, .*expected at"):
        run(write_package(tmp_path, document, bright_where()))


def test_windows_without_end_are_refused(tmp_path: Path) -> None:
    document = manifest(["a"], stage("main", "a", 0, windows={"patch": [24, 24, 24], "overlap": 0.99}))
    given = volume_on(upright_geometry((80, 80, 80), SPACING_MM))
    with pytest.raises(ModelError, match=r"expected at most 50000 windows, found 185193 for 80 x 80 x 80 voxels"):
        toy_engine().segment(write_package(tmp_path, document, bright_where()), given)


def test_networks_stay_warm_within_their_bytes(tmp_path: Path) -> None:
    document = manifest(["a", "b"], stage("one", "a", 0, writes="nothing"), stage("two", "b", 0))
    package = write_package(tmp_path, document, bright_where(), bright_where())
    roomy_engine, tight_engine = toy_engine(), toy_engine(warm_bytes=1)
    for engine, expected in ((roomy_engine, 2), (tight_engine, 1)):
        first = run(package, engine).labels
        np.testing.assert_array_equal(run(package, engine).labels, first)
        assert engine.warm_networks == expected


def test_a_model_of_several_images_is_refused(tmp_path: Path) -> None:
    document = {**toy_manifest(), "stages": [toy_stage()], "input": {"modalities": ["MR"], "images": 4}}
    with pytest.raises(ModelError, match=r"expected input\.images = 1, found 4"):
        run(write_package(tmp_path, document))
