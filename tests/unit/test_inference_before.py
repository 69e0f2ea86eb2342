"""Each step before the network against the software that models were trained with, or against what it promises."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import CropForeground as MonaiCropForeground
from monai.transforms.croppad.array import DivisiblePad, SpatialPad
from monai.transforms.intensity.array import (
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)
from numpy.typing import NDArray
from pydantic import TypeAdapter

from dicomnode.assembly.resample import resample
from dicomnode.errors import ModelError
from dicomnode.imaging.orientation import axis_letters
from dicomnode.inference import before
from dicomnode.inference.picture import Cropped, Padded, Picture
from dicomnode.inference.scene import NothingToSee, Scene
from dicomnode.models.before import BeforeStep
from tests.toy_models import upright_geometry, volume_on

SHAPE = (9, 14, 11)
SPACING_MM = (3.0, 1.0, 2.0)
Array = NDArray[np.float32]
_STEPS: TypeAdapter[Any] = TypeAdapter(BeforeStep)


def scene(labels: dict[str, NDArray[np.uint8]] | None = None) -> Scene:
    volume = volume_on(upright_geometry(SHAPE, SPACING_MM))
    return Scene(volume, resample, torch.device("cpu"), 1, labels or {})


def picture(voxels: NDArray[Any]) -> Picture:
    channels = torch.from_numpy(voxels if voxels.ndim == 4 else voxels[None])
    return Picture(channels, axis_letters(scene().source.geometry), SPACING_MM)


def done(start: Picture, *steps: dict[str, object], given: Scene | None = None) -> Picture:
    """The picture after some steps."""
    for step in steps:
        start = before.apply(_STEPS.validate_python(step), start, given or scene())
    return start


def noise(seed: int = 0, channels: int = 1) -> Array:
    """HU with some air that is exactly 0."""
    voxels = np.random.default_rng(seed).normal(50, 300, (channels, *SHAPE)).astype(np.float32)
    voxels[voxels < -100] = 0
    return voxels


INTENSITY: dict[str, tuple[dict[str, object], Callable[[Any], Any]]] = {
    "scale": ({"step": "scale", "source": [-57, 164], "to": [0, 1]}, ScaleIntensityRange(-57, 164, 0, 1, clip=True)),
    "scale uncut": (
        {"step": "scale", "source": [-963.8, 1053.7], "to": [-1, 1], "clip": False},
        ScaleIntensityRange(-963.8, 1053.7, -1, 1, clip=False),
    ),
    "percentiles": (
        {"step": "scale-percentiles", "percentiles": [1, 99], "to": [0, 1]},
        ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True),
    ),
    "z-score": ({"step": "z-score", "per_channel": False}, NormalizeIntensity()),
    "z-score by channel": ({"step": "z-score"}, NormalizeIntensity(channel_wise=True)),
    "z-score of what is not 0": (
        {"step": "z-score", "over": "nonzero"},
        NormalizeIntensity(nonzero=True, channel_wise=True),
    ),
    "known mean": (
        {"step": "standardise", "mean": 77.9, "deviation": 143.2},
        NormalizeIntensity(torch.tensor(77.9), torch.tensor(143.2)),
    ),
    "lowest and highest": ({"step": "scale-of-volume"}, ScaleIntensity(0.0, 1.0)),
    "lowest and highest elsewhere": ({"step": "scale-of-volume", "to": [-3, 5]}, ScaleIntensity(-3.0, 5.0)),
}


@pytest.mark.parametrize(("step", "monai"), INTENSITY.values(), ids=INTENSITY.keys())
@pytest.mark.parametrize("voxels", [noise(), noise(1, 3), np.full((1, *SHAPE), 4.0, np.float32)])
def test_values_become_those_of_monai(step: dict[str, object], monai: Callable[[Any], Any], voxels: Array) -> None:
    expected = np.asarray(Compose([monai])(torch.from_numpy(voxels.copy())))
    found = done(picture(voxels), step).voxels
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"step": "clip", "to": [-10.0, 10.5]}, [-10.0, -1.7, 0.0, 1.7, 10.5]),
        ({"step": "truncate"}, [-99.0, -1.0, 0.0, 1.0, 99.0]),
        ({"step": "standardise", "mean": 1.7, "deviation": 2.0, "channel": 0}, [-50.65, -1.7, -0.85, 0.0, 48.85]),
    ],
)
def test_values_are_changed_as_said(step: dict[str, object], expected: list[float]) -> None:
    given = np.array([-99.6, -1.7, 0.0, 1.7, 99.4], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_allclose(done(picture(given), step).voxels.numpy().ravel(), expected, rtol=1e-6)


def test_a_step_for_one_channel_leaves_the_others() -> None:
    voxels = noise(2, 2)
    found = done(picture(voxels), {"step": "z-score", "channel": 1}).voxels.numpy()
    np.testing.assert_array_equal(found[0], voxels[0])
    assert found[1].mean() == pytest.approx(0, abs=1e-5)


def test_what_a_step_is_given_is_not_changed() -> None:
    voxels = noise()
    kept = voxels.copy()
    start = picture(voxels)
    for step, _ in INTENSITY.values():
        done(start, step)
    np.testing.assert_array_equal(voxels, kept)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_views_are_clipped_and_mapped_linearly(dtype: type) -> None:
    voxels = np.array([-2000, -1000, 0, 500, 3000], dtype).reshape(1, 1, 5)
    views = [{"clip": [-1000, 1000], "to": [-2, 2]}, {"clip": [0, 500], "to": [1, 0]}]
    found = done(picture(voxels), {"step": "channels", "views": views}).voxels
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].ravel(), [-2, -2, 0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(found[1].ravel(), [1, 1, 1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("side", ["end", "both"])
@pytest.mark.parametrize("value", [0.0, -3.5, -1024.0])
def test_padding_to_a_multiple_is_monais(side: str, value: float) -> None:
    method = "symmetric" if side == "both" else "end"
    expected = DivisiblePad(8, method=method, mode="constant", value=value)(torch.from_numpy(noise()))
    found = done(picture(noise()), {"step": "pad", "multiple": 8, "value": value, "side": side})
    np.testing.assert_array_equal(found.voxels.numpy(), np.asarray(expected))


def test_padding_to_a_size_is_monais() -> None:
    expected = SpatialPad((12, 12, 12), method="symmetric")(torch.from_numpy(noise()))
    found = done(picture(noise()), {"step": "pad", "at_least": [12, 12, 12], "side": "both"})
    np.testing.assert_array_equal(found.voxels.numpy(), np.asarray(expected))


def test_padding_may_repeat_the_edge_of_integers() -> None:
    voxels = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    found = done(picture(voxels), {"step": "pad", "at_least": [1, 3, 5], "value": "edge", "side": "both"}).voxels
    np.testing.assert_array_equal(found[0, 0], [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5], [3, 3, 4, 5, 5]])
    assert found.dtype == torch.int16


def bright_box() -> Array:
    voxels = np.full((1, *SHAPE), -5.0, np.float32)
    voxels[0, 2:5, 6:13, 1:4] = noise()[0, 2:5, 6:13, 1:4] + 2000
    return voxels


@pytest.mark.parametrize("margin", [0, 1, 4])
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("within", [True, False])
def test_the_foreground_is_monais(margin: int, multiple: int, within: bool) -> None:
    monai = MonaiCropForeground(margin=margin, k_divisible=multiple, allow_smaller=within)
    step: dict[str, object] = {
        "step": "crop-foreground",
        "margin": margin,
        "multiple": multiple,
        "margin_within": within,
    }
    found = done(picture(bright_box()), step)
    np.testing.assert_array_equal(found.voxels.numpy(), np.asarray(monai(torch.from_numpy(bright_box()))))
    assert {type(move) for move in found.moves} <= {Cropped, Padded}


def test_without_foreground_all_is_kept() -> None:
    start = picture(np.zeros(SHAPE, np.float32))
    assert done(start, {"step": "crop-foreground"}) is start


def stage_labels() -> dict[str, NDArray[np.uint8]]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 4:9, 5:7], labels[0, 0, 0] = 2, 7
    return {"coarse": labels}


@pytest.mark.parametrize("axes", ["SPL", "RAS", "LIA"])
def test_the_box_of_an_earlier_stage_is_kept_with_its_margin_in_whole_voxels(axes: str) -> None:
    start = picture(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
    step: dict[str, object] = {"step": "crop-to-stage", "stage": "coarse", "labels": [2], "margin_mm": 2.9}
    given = scene(stage_labels())
    cropped = done(start, {"step": "orient", "axes": axes}, step, {"step": "orient", "axes": "SPL"}, given=given)
    np.testing.assert_array_equal(cropped.voxels[0], start.voxels[0, 3:6, 2:11, 4:8])


def test_where_an_earlier_stage_found_nothing_the_stage_is_skipped_or_sees_all() -> None:
    step: dict[str, object] = {"step": "crop-to-stage", "stage": "coarse", "labels": [3]}
    with pytest.raises(NothingToSee):
        done(picture(noise()), step, given=scene(stage_labels()))
    assert done(picture(noise()), {**step, "if_none": "whole"}, given=scene(stage_labels())).shape == SHAPE


def test_an_earlier_stage_that_was_skipped_has_no_label_however_high() -> None:
    step: dict[str, object] = {"step": "crop-to-stage", "stage": "coarse", "labels": [300], "if_none": "whole"}
    skipped = {"coarse": np.zeros(SHAPE, np.uint8)}
    assert done(picture(noise()), step, given=scene(skipped)).shape == SHAPE


def test_what_lies_where_the_stage_had_already_cropped_counts_as_not_found() -> None:
    corner = {"coarse": np.zeros(SHAPE, np.uint8)}
    corner["coarse"][0, 0, 0], corner["coarse"][-1, -1, -1] = 1, 2
    first: dict[str, object] = {"step": "crop-to-stage", "stage": "coarse", "labels": [1]}
    with pytest.raises(NothingToSee):
        done(picture(noise()), first, {**first, "labels": [2]}, given=scene(corner))
    whole = {**first, "labels": [2], "if_none": "whole"}
    assert done(picture(noise()), first, whole, given=scene(corner)).shape == (1, 1, 1)


def test_labels_of_an_earlier_stage_become_channels_where_they_are() -> None:
    steps: tuple[dict[str, object], ...] = (
        {"step": "orient", "axes": "RIP"},
        {"step": "add-labels", "stage": "coarse", "labels": [2, 7]},
        {"step": "orient", "axes": "SPL"},
    )
    found = done(picture(noise()), *steps, given=scene(stage_labels()))
    np.testing.assert_array_equal(found.voxels[1], stage_labels()["coarse"] == 2)
    np.testing.assert_array_equal(found.voxels[2], stage_labels()["coarse"] == 7)


def test_the_nodes_own_grid_is_refused_behind_padding() -> None:
    steps: tuple[dict[str, object], ...] = (
        {"step": "pad", "multiple": 32},
        {"step": "resample", "spacing_mm": [2.0, 2.0, 2.0], "grid": "faces"},
    )
    with pytest.raises(ModelError, match='grid = "faces": expected no padding'):
        done(picture(bright_box()), *steps)


@pytest.mark.parametrize("grid", ["faces", "centres", "corners", "monai"])
def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made(grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.inference.room.physical_bytes", lambda: 1 << 20)
    with pytest.raises(ModelError, match=r"a grid of 270 x 140 x 220 voxels needs 0.12 GiB, expected at most 0.00 GiB"):
        done(picture(noise()), {"step": "resample", "spacing_mm": [0.1, 0.1, 0.1], "grid": grid})


def test_a_margin_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    with pytest.raises(ModelError, match=r"a grid of 4096 x 4096 x 4096 voxels needs 1024.00 GiB"):
        done(picture(noise()), {"step": "pad", "at_least": [4096, 4096, 4096]})
