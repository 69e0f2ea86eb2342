"""Stages that are decided while their network runs give the labels of those that keep their logits."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet

from dicomnode.assembly.resample import resample
from dicomnode.errors import ModelError
from dicomnode.imaging import Geometry
from dicomnode.imaging.segmentation import Labels
from dicomnode.inference.admission import Demand, admit
from dicomnode.inference.picture import Cropped, Padded, Sampled, Turned
from dicomnode.inference.scene import Scene
from dicomnode.inference.stages import Clock, NamedForward, prepare
from dicomnode.inference.sweeping import Showing, answer, plan_return
from dicomnode.models.stages import Network, Stage
from tests.toy_models import FRAME, upright_geometry, volume_on

SHAPE, SPACING_MM, CLASSES = (24, 38, 34), (2.5, 1.2, 1.4), 4
CPU = torch.device("cpu")
NETWORK = Network(name="UNet", in_channels=1, out_channels=CLASSES)
Step = dict[str, Any]

ORIENT: Step = {"step": "orient", "axes": "RAS"}
SCALE: Step = {"step": "scale", "source": [-1000.0, 1000.0], "to": [-1.0, 1.0]}
PAD: Step = {"step": "pad", "at_least": [40, 40, 40], "value": -1000, "side": "both"}
CROP: Step = {"step": "crop-foreground", "above": -500.0, "margin": 1}
SOFTMAX: Step = {"step": "activate", "function": "softmax"}
BACK: Step = {"step": "back", "order": 1}
DECIDE: Step = {"step": "decide"}
LARGEST: Step = {"step": "largest-components", "keep": {1: 1, 2: 1}}


def resampled(grid: str) -> Step:
    return {"step": "resample", "grid": grid, "spacing_mm": [1.9, 1.7, 1.5]}


def tilted() -> Geometry:
    affine = upright_geometry(SHAPE, SPACING_MM).affine.copy()
    affine[1, 0] = SPACING_MM[0] * 0.3
    return Geometry(affine, SHAPE, FRAME)


def scene_on(geometry: Geometry) -> Scene:
    """Blobs in a block, air around it."""
    noise = torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(1))
    blobs = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)[0, 0].numpy() * 6000
    voxels = np.full(SHAPE, -1000.0, np.float32)
    inner = (slice(3, -4), slice(5, -6), slice(4, -3))
    voxels[inner] = np.clip(blobs[inner], -400, 1000)
    return Scene(volume_on(geometry, voxels), resample, CPU, 2)


def stage_of(before: list[Step], after: list[Step], **others: Any) -> Stage:
    windows = {"patch": [16, 24, 16], "overlap": 0.25}
    return Stage.model_validate({"networks": ["n"], "before": before, "after": after, "windows": windows, **others})


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, CLASSES, (4, 8), (2,), num_res_units=1).eval()


def answers(stage: Stage, scene: Scene) -> tuple[Labels, Labels, Clock]:
    """Decided while the network runs, and from the logits of the whole."""
    picture = prepare(stage, scene)
    returned = plan_return(stage, picture)
    assert returned is not None
    kept = admit(Demand(picture.shape, NETWORK, stage.windows, 1, 1.0), [CPU], lambda _: 1 << 40)
    swept = admit(Demand(picture.shape, NETWORK, stage.windows, 1, 1.0, 0), [CPU], lambda _: 1 << 40)
    assert swept.predicted_bytes < kept.predicted_bytes
    forwards, clock = [NamedForward("n", network())], Clock()
    with torch.inference_mode():
        first = answer(Showing(stage, NETWORK, forwards, picture, swept, returned), scene, clock)
        return first, answer(Showing(stage, NETWORK, forwards, picture, kept, None), scene, Clock()), clock


@pytest.mark.parametrize("after", [[SOFTMAX, BACK, DECIDE], [BACK, DECIDE, LARGEST], [BACK, SOFTMAX, DECIDE]])
@pytest.mark.parametrize("grid", ["faces", "monai", "corners", "centres"])
@pytest.mark.parametrize("first", [[], [ORIENT], [CROP], [ORIENT, CROP]])
def test_the_labels_are_those_of_the_whole(first: list[Step], grid: str, after: list[Step]) -> None:
    stage = stage_of([*first, resampled(grid), PAD, SCALE], after)
    swept, kept, clock = answers(stage, scene_on(upright_geometry(SHAPE, SPACING_MM)))
    assert (swept != kept).mean() < 2e-5  # sums in another order
    assert len(np.unique(kept)) > 2
    assert clock.seconds.keys() == clock.cpu_seconds.keys() == {"windows", "back"}


@pytest.mark.parametrize("first", [[], [ORIENT, CROP]])
def test_so_they_are_of_a_tilted_gantry(first: list[Step]) -> None:
    swept, kept, _ = answers(stage_of([*first, resampled("faces"), SCALE], [SOFTMAX, BACK, DECIDE]), scene_on(tilted()))
    assert (swept != kept).mean() < 2e-5
    assert len(np.unique(kept)) > 2


@pytest.mark.parametrize("geometry", [upright_geometry(SHAPE, SPACING_MM), tilted()])
def test_a_crop_of_the_scanners_grid_is_background_around_the_body_only(geometry: Geometry) -> None:
    scene = scene_on(geometry)
    cut = prepare(stage_of([CROP, ORIENT, resampled("faces")], [BACK, DECIDE]), scene)
    assert [type(move) for move in cut.moves] == [Cropped, Sampled, Turned]
    whole = prepare(stage_of([ORIENT, resampled("faces")], [BACK, DECIDE]), scene)
    assert cut.voxels.numel() < 0.8 * whole.voxels.numel()
    body = np.argwhere(np.asarray(scene.source.voxels) > -500)
    inside = body @ cut.from_source[:3, :3].T + cut.from_source[:3, 3]
    assert (inside > -0.51).all()
    assert (inside < np.array(cut.shape) - 0.49).all()


def test_nothing_is_decided_early_where_a_step_looks_at_the_whole_or_the_way_is_another() -> None:
    scene, steps = scene_on(upright_geometry(SHAPE, SPACING_MM)), [resampled("monai"), SCALE]
    runner_up = {**LARGEST, "rest": "runner-up"}
    plain = [SOFTMAX, BACK, DECIDE]
    others = [
        stage_of(steps, [SOFTMAX, runner_up, BACK, DECIDE]),
        stage_of(steps, [{**BACK, "order": 3}, DECIDE]),
        stage_of(steps, [{**BACK, "halves": True}, DECIDE]),
        stage_of(steps, [DECIDE, BACK]),
        stage_of(steps, [BACK, {"step": "decide", "rule": "overlapping"}]),
        stage_of([SCALE], plain),
        stage_of([*steps, {"step": "crop-foreground", "above": 0.1}], plain),
        stage_of(steps, plain, windows={"patch": [16, 16, 16], "style": "nnunet"}),
        stage_of(steps, plain, networks=["n", "m"]),
    ]
    assert plan_return(stage_of(steps, plain), prepare(stage_of(steps, plain), scene)) is not None
    assert [plan_return(stage, prepare(stage, scene)) for stage in others] == [None] * len(others)


def test_padding_that_came_last_is_not_interpolated_with() -> None:
    stage = stage_of([resampled("monai"), PAD, SCALE], [BACK, DECIDE])
    picture = prepare(stage, scene_on(upright_geometry(SHAPE, SPACING_MM)))
    returned = plan_return(stage, picture)
    (last,) = [move for move in picture.moves if isinstance(move, Padded)]
    assert returned is not None
    assert (returned.start, returned.way.shape) == (last.before, last.shape)
    assert last.before != (0, 0, 0)


def test_logits_that_are_not_finite_name_stage_and_network() -> None:
    stage = stage_of([resampled("monai"), SCALE], [SOFTMAX, BACK, DECIDE], name="fine")
    scene = scene_on(upright_geometry(SHAPE, SPACING_MM))
    picture = prepare(stage, scene)
    course = admit(Demand(picture.shape, NETWORK, stage.windows, 1, 1.0, 0), [CPU], lambda _: 1 << 40)
    bad = [NamedForward("n", lambda window: window.repeat(1, CLASSES, 1, 1, 1) * torch.nan)]
    with pytest.raises(ModelError, match="stage 'fine', network 'n': expected finite logits from the network, found"):
        answer(Showing(stage, NETWORK, bad, picture, course, plan_return(stage, picture)), scene, Clock())
