"""Folders of nnU-Net v2, imported and run here, say voxel for voxel what nnU-Net itself says of the same image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dicomnode.assembly.resample import resample
from dicomnode.imaging import Geometry, SliceSource, Volume
from dicomnode.imaging.orientation import axis_letters
from dicomnode.importers.naming import Coded
from dicomnode.importers.nnunet import NnunetOptions, import_nnunet
from dicomnode.inference import Engine
from dicomnode.inference.admission import Demand, admit
from dicomnode.inference.before import apply
from dicomnode.inference.device import Precision
from dicomnode.inference.picture import Picture
from dicomnode.inference.runners import RUNNERS
from dicomnode.inference.scene import Scene
from dicomnode.inference.stages import NamedForward, conclude, say
from dicomnode.models import ModelPackage
from dicomnode.models.writing import write_package
from tests.oracles import NNUNET_CASES, OracleCase, OracleImage, oracle_case, read_image

CPU = torch.device("cpu")
ANYTHING = Coded(category=("91723000", "SCT", "Anatomical Structure"), type=("38266002", "SCT", "Entire body"))


def upright(image: OracleImage) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Voxels and affine with the first axis turned where the grid is left-handed, as no series of slices is."""
    if np.linalg.det(image.affine) < 0:  # in (slice, row, column) order that is right-handed
        return image.voxels, image.affine
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (image.voxels.shape[0] - 1)
    affine[:3, 0] *= -1
    return image.voxels[::-1], affine


def volume_of(image: OracleImage) -> Volume:
    voxels, affine = upright(image)
    slices, rows, columns = voxels.shape
    sources = tuple(SliceSource(f"2.25.{index + 1}", "1.2.840.10008.5.1.4.1.1.2") for index in range(slices))
    geometry = Geometry(affine, (slices, rows, columns), "2.25.1")
    return Volume(np.ascontiguousarray(voxels, np.float32), geometry, sources)


def installed(case: OracleCase, volume: Volume, store: Path) -> ModelPackage:
    """The case's folder as a package; images of the case are stored as they were for training."""
    reoriented = "NibabelIOWithReorient" in (case.model / "plans.json").read_text()
    options = NnunetOptions(
        orientation=None if reoriented else axis_letters(volume.geometry),
        folds=tuple(str(fold) for fold in case.folds),
        step=case.tile_step_size,
        modality="MR",
    )
    names = [name for name in labels_of(case) if name not in {"background", "ignore"}]
    imported = import_nnunet(case.model, dict.fromkeys(names, ANYTHING), store / "labels.toml", options)
    return write_package(store, imported.manifest, imported.files)


def labels_of(case: OracleCase) -> list[str]:
    return list(json.loads((case.model / "dataset.json").read_text())["labels"])


def segmented(package: ModelPackage, volumes: list[Volume]) -> NDArray[np.generic]:
    if len(volumes) == 1:
        return Engine(resample, device="cpu", threads=1, precision=Precision.FP32).segment(package, volumes[0]).labels
    return segmented_together(package, volumes)


@torch.inference_mode()
def segmented_together(package: ModelPackage, volumes: list[Volume]) -> NDArray[np.generic]:
    """Several images at once, which the engine does not take: the same steps by hand."""
    scene = Scene(volumes[0], resample, CPU, threads=1)
    (stage,) = package.manifest.stages
    geometry = volumes[0].geometry
    voxels = torch.from_numpy(np.stack([volume.voxels for volume in volumes]))
    picture = Picture(voxels, axis_letters(geometry), geometry.spacing_mm)
    for step in stage.before:
        picture = apply(step, picture, scene)
    network = package.manifest.networks[stage.networks[0]]
    demand = Demand(picture.shape, network, stage.windows, len(stage.networks), 1.0)
    course = admit(demand, [CPU], lambda _: 1 << 40)
    forwards = [NamedForward(name, RUNNERS[network.runner](package, name)) for name in stage.networks]
    return conclude(stage, say(stage, network, forwards, picture, course), picture, scene)


@pytest.mark.parametrize("name", NNUNET_CASES)
def test_every_voxel_is_the_one_that_nnunet_says(name: str, tmp_path: Path):
    case = oracle_case(name)
    volumes = [volume_of(read_image(path)) for path in case.input]
    expected, _ = upright(read_image(case.labels))

    found = segmented(installed(case, volumes[0], tmp_path), volumes)

    different = int(np.count_nonzero(found != expected))
    assert different == 0, f"{case.about} {different} of {expected.size} voxels differ"
