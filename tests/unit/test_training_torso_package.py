"""The torso package that is shipped: manifest, weights and code belong together, and it finds organs."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from dicomnode.inference.engine import Engine
from dicomnode.models.before import Channels, Orient, Pad, Resample
from dicomnode.models.store import ModelPackage, ModelStore
from dicomnode.training.phantoms import Target
from dicomnode.training.torso import Learner, write_checkpoint
from dicomnode.training.torso_evaluation import build_phantom_case, measure, resample
from dicomnode.training.torso_network import NETWORK_ARGUMENTS, build_network, build_training_network
from dicomnode.training.torso_package import write_weights
from dicomnode.training.torso_samples import CHANNEL_CLIPS_HU, CHANNEL_RANGE, PAD_HU, PADDING_MULTIPLE, SPACING_MM


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return ModelStore().package("torso")


def test_the_manifest_describes_the_network_and_the_input_that_were_trained(package: ModelPackage) -> None:
    assert dict(package.manifest.networks["unet"].arguments) == NETWORK_ARGUMENTS
    (stage,) = package.manifest.stages
    orient, resampled, pad, channels = stage.before
    assert orient == Orient(step="orient", axes="SPL")
    assert resampled == Resample(step="resample", spacing_mm=SPACING_MM)
    assert pad == Pad(step="pad", multiple=PADDING_MULTIPLE, value=PAD_HU)
    assert isinstance(channels, Channels)
    assert tuple(view.clip for view in channels.views) == CHANNEL_CLIPS_HU
    assert {view.to for view in channels.views} == {CHANNEL_RANGE}


def test_every_class_but_the_background_is_a_segment_and_part_of_the_body(package: ModelPackage) -> None:
    organs = {segment.name.upper().replace(" ", "_"): segment.labels for segment in package.segments}
    classes = {target.name: (int(target),) for target in Target if target}
    assert organs == {**classes, "BODY": tuple(range(1, len(Target)))}


def test_the_package_is_small_and_says_it_is_not_for_diagnosis(package: ModelPackage) -> None:
    assert len(package.read_file("weights.safetensors")) < 10_000_000
    assert not package.manifest.diagnostic
    assert "not for diagnostic use" in (package.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_training_network_has_the_parameters_of_the_shipped_one() -> None:
    shipped, trained = build_network().state_dict(), build_training_network().state_dict()
    assert {name: value.shape for name, value in shipped.items()} == {name: v.shape for name, v in trained.items()}


def test_a_checkpoint_becomes_weights_whose_digest_the_manifest_names(tmp_path: Path, package: ModelPackage) -> None:
    folder = tmp_path / "torso"
    folder.mkdir()
    shutil.copy(package.folder / "manifest.toml", folder)
    learner = Learner.start(seed=4)
    write_checkpoint(tmp_path / "checkpoint.pt", learner)
    write_weights(tmp_path / "checkpoint.pt", folder)
    weights = load(ModelStore((tmp_path,)).package("torso").read_file("weights.safetensors"))
    assert weights.keys() == learner.average.keys()
    for name, value in learner.average.items():
        torch.testing.assert_close(weights[name].float(), value, rtol=1e-3, atol=1e-6)


def test_it_finds_the_organs_of_a_phantom_it_was_not_trained_on(package: ModelPackage) -> None:
    torch.set_num_threads(1)
    scores = measure(build_phantom_case(3), package, Engine(resample, "cpu", threads=1))
    assert min(scores.values()) > 0.5
    assert min(scores[target] for target in (Target.BODY, Target.RIGHT_LUNG, Target.LEFT_LUNG, Target.LIVER)) > 0.85
