"""What nnU-Net and MONAI themselves make of small models and images: the cases that `make oracles` leaves behind.

scripts/oracles says how each was made; a case's `about` says what it is there to show.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry

CASES = Path(__file__).parents[1] / ".venv-oracles/cases"

NNUNET_CASES = (
    "nnunet-ct-fullres",
    "nnunet-ct-random",
    "nnunet-resenc",
    "nnunet-old-plans",
    "nnunet-old-resenc",
    "nnunet-inherits",
    "nnunet-2d",
    "nnunet-cascade",
    "nnunet-regions",
    "nnunet-ignore",
    "nnunet-transpose",
    "nnunet-mr-mask",
    "nnunet-two-folds",
    "nnunet-300-labels",
    "nnunet-other-norms",
    "nnunet-small-image",
    "nnunet-zero-border",
    "nnunet-orientation",
    "nnunet-reorient",
    "nnunet-step-08",
    "nnunet-torch-resampling",
)
MONAI_CASES = (
    "monai-spleen",
    "monai-spleen-torchscript",
    "monai-wholebody",
    "monai-wholebody-lowres",
    "monai-swin-btcv",
    "monai-brats",
    "monai-dynunet-yaml",
    "monai-vista3d",
    "monai-vista3d-everything",
)


@dataclass(frozen=True, slots=True)
class OracleStage:
    """One network of a case: the folder it was trained in and what came out of it, on the image's own grid."""

    configuration: str
    model: Path
    labels: Path


@dataclass(frozen=True, slots=True)
class OracleCase:
    """A model, the image it was given and the labels that its own framework made of it."""

    name: str
    about: str
    model: Path
    input: tuple[Path, ...]  # one file per channel, in order
    labels: Path
    probabilities: Path | None  # .npz with `probabilities` [class, z, y, x]; nnU-Net, and only where cheap
    stages: tuple[OracleStage, ...]  # nnU-Net: more than one in a cascade, the last is the case's own
    folds: tuple[int | str, ...]  # numbers, or all
    tile_step_size: float  # in parts of the patch; nnU-Net only
    label_prompt: tuple[int, ...] | None  # VISTA3D: the classes asked for; None: all that the bundle calls everything


@dataclass(frozen=True, slots=True)
class OracleImage:
    """An image as SimpleITK and nnU-Net hold it: voxels [z, y, x], and index (z, y, x) -> LPS millimetres."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64]


def oracle_case(name: str) -> OracleCase:
    """The case of that name; else the test is skipped, or fails with REQUIRE_PEERS=1."""
    folder = CASES / name
    if not (folder / "case.json").is_file():
        _missing(f"the oracle case {name} is not there: run `make oracles`, which needs the network once")
    record: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return OracleCase(
        name=name,
        about=record["about"],
        model=folder / record["model"],
        input=tuple(folder / path for path in record["input"]),
        labels=folder / record["labels"],
        probabilities=folder / record["probabilities"] if record.get("probabilities") else None,
        stages=tuple(_stage(folder, stage) for stage in record.get("stages", [])),
        folds=tuple(record.get("folds", [])),
        tile_step_size=record.get("tile_step_size", 0.5),
        label_prompt=tuple(record["label_prompt"]) if record.get("label_prompt") else None,
    )


def read_image(path: Path) -> OracleImage:
    """Read a case's image or labels."""
    image = SimpleITK.ReadImage(str(path))
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3] = axes[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return OracleImage(SimpleITK.GetArrayFromImage(image), affine)


def write_case_series(case: OracleCase, folder: Path, channel: int = 0) -> list[Path]:
    """Write one channel of a case as a DICOM series, a file per z.

    Raises:
        ValueError: the grid is left-handed, as no series of slices is.
    """
    image = read_image(case.input[channel])
    slices, rows, columns = image.voxels.shape
    identity = SeriesIdentity(seed=f"{case.name}-{channel}")
    geometry = Geometry(image.affine, (slices, rows, columns), identity.frame_of_reference_uid)
    return write_series(build_ct_slices(image.voxels.astype(np.int16), geometry, identity), folder)


def _stage(folder: Path, stage: dict[str, Any]) -> OracleStage:
    return OracleStage(stage["configuration"], folder / stage["model"], folder / stage["labels"])


def _missing(sentence: str) -> None:
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)
