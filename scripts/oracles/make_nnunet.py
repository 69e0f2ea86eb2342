"""Make the nnU-Net oracle cases with nnunetv2 itself; make.sh runs it in the oracles' own environment.

usage: make_nnunet.py CASES_FOLDER [NAME ...]
"""

import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import absent_timm  # noqa: F401 - it stands in as soon as it is imported
import torch
from case_folder import generator_digest, is_current, make_case, remove_others
from nnunet_cases import NnunetCase, cases
from nnunet_training import prepared, save, shake, train
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from phantoms import channels, organs, write_image


def main(cases_folder: Path, wanted: list[str]) -> None:
    """Make every case that these scripts would make differently by now, or those named."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    digest = generator_digest()
    for case in cases():
        folder = cases_folder / case.name
        if (wanted and case.name not in wanted) or is_current(folder, digest):
            continue
        began, said = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(said):
            make_case(folder, digest, lambda unfinished, case=case: _write(case, unfinished))
        print(f"oracles: {case.name} ({time.monotonic() - began:.1f} s)", flush=True)
    remove_others(cases_folder, "nnunet-", {case.name for case in cases()})


def _write(case: NnunetCase, folder: Path) -> dict[str, Any]:
    labels = organs(case.grid, case.seed, case.organs)
    images = [
        write_image(channel, case.grid, folder / f"input/image_{index:04d}.nii.gz")
        for index, channel in enumerate(channels(case.kind, labels, case.seed))
    ]
    truth = write_image(labels, case.grid, folder / "truth.nii.gz")
    stages: list[dict[str, Any]] = []
    for configuration in case.configurations:
        trained = folder / "model" / case.plans["dataset_name"] / f"{case.trainer}__nnUNetPlans__{configuration}"
        _train_folds(case, configuration, trained, images, truth)
        expected = folder / "expected" / configuration
        _predict(case, trained, images, expected, stages)
        stages.append(_stage(configuration, trained, expected, folder))
    truth.unlink()
    return {
        "family": "nnunet",
        "about": case.about,
        "model": stages[-1]["model"],
        "input": [str(image.relative_to(folder)) for image in images],
        "labels": stages[-1]["labels"],
        "probabilities": stages[-1]["probabilities"],
        "stages": stages,
        "folds": list(case.folds),
        "tile_step_size": case.tile_step_size,
        "weights": "trained" if case.iterations else "random",
        "versions": {name: version(name) for name in ("nnunetv2", "torch", "numpy", "scipy", "scikit-image")},
    }


def _train_folds(case: NnunetCase, configuration: str, trained: Path, images: list[Path], truth: Path) -> None:
    trained.mkdir(parents=True)
    (trained / "plans.json").write_text(json.dumps(case.plans, indent=4))
    (trained / "dataset.json").write_text(json.dumps(case.dataset, indent=4))
    for index, fold in enumerate(case.folds):
        torch.manual_seed(100 * case.seed + index)
        trainer = _trainer(case, configuration, fold)
        shake(trainer.network)
        if case.iterations:
            train(trainer, *prepared(trainer, images, truth), case.iterations, seed=case.seed + index)
        save(trainer, case.mirroring_axes, trained / f"fold_{fold}" / "checkpoint_final.pth")


def _trainer(case: NnunetCase, configuration: str, fold: int | str) -> nnUNetTrainer:
    plans = {**deepcopy(case.plans), "continue_training": False}
    trainer = recursive_find_trainer_class_by_name(case.trainer)(
        plans, configuration, fold, deepcopy(case.dataset), device=torch.device("cpu")
    )
    # It looks at the files there for how they were written; we train from memory.
    preprocessed = Path(trainer.preprocessed_dataset_folder)
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "case.b2nd").touch()
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    return trainer


def _predict(case: NnunetCase, trained: Path, images: list[Path], out: Path, before: list[dict[str, Any]]) -> None:
    predictor = nnUNetPredictor(
        tile_step_size=case.tile_step_size, device=torch.device("cpu"), allow_tqdm=False, use_mirroring=True
    )
    predictor.initialize_from_trained_model_folder(str(trained), case.folds, "checkpoint_final.pth")
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:  # what it writes beside the labels is of no use to a test
        truncated = Path(scratch) / "image"
        predictor.predict_from_files_sequential(
            [[str(path) for path in images]],
            [str(truncated)],
            save_probabilities=case.probabilities,
            folder_with_segs_from_prev_stage=str(out.parent / before[-1]["configuration"]) if before else None,
        )
        for made in Path(scratch).glob("image.n*"):
            made.rename(out / made.name)


def _stage(configuration: str, trained: Path, expected: Path, folder: Path) -> dict[str, Any]:
    probabilities = expected / "image.npz"
    return {
        "configuration": configuration,
        "model": str(trained.relative_to(folder)),
        "labels": str((expected / "image.nii.gz").relative_to(folder)),
        "probabilities": str(probabilities.relative_to(folder)) if probabilities.exists() else None,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
