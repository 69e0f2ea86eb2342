"""Measure a torso package: Dice on phantoms it was not trained on and on real, labelled CTs.

    python -m dicomnode.training.torso_evaluation [--package DIR] [--chaos DIR] [--totalsegmentator DIR] [--chest DIR]

Each data set is optional and is read where its publisher's folder was put. Prints a Markdown table for the model
card. Runs the package as the node does: the engine of inference/, probabilities brought back to the source grid.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.imaging import Geometry, SampledVolume, SliceSource, Volume
from dicomnode.inference.engine import Engine
from dicomnode.models.manifest import read_manifest
from dicomnode.models.store import SHIPPED_PACKAGES, ModelPackage
from dicomnode.training.phantoms import Target, build_torso_ct
from dicomnode.training.volumes import GridImage, bring_labels_to, read_image

HELD_OUT_SEEDS = range(8)
_PHANTOM_SPACING_MM = (3.0, 3.0, 3.0)

# TotalSegmentator v2, class numbers of its task "total".
_TOTALSEGMENTATOR: Mapping[Target, frozenset[int]] = {
    Target.SPLEEN: frozenset({1}),
    Target.RIGHT_KIDNEY: frozenset({2}),
    Target.LEFT_KIDNEY: frozenset({3}),
    Target.LIVER: frozenset({5}),
    Target.LEFT_LUNG: frozenset({10, 11}),
    Target.RIGHT_LUNG: frozenset({12, 13, 14}),
    Target.BONE: frozenset({*range(25, 51), *range(69, 79), 91, *range(92, 117)}),
}
# ChestImagingPlatform, region in the low byte: thirds of the left and of the right lung, from above.
_CHEST_REGIONS: Mapping[Target, frozenset[int]] = {
    Target.LEFT_LUNG: frozenset({9, 10, 11}),
    Target.RIGHT_LUNG: frozenset({12, 13, 14}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One CT in HU and the truth about some of the network's classes, on the CT's grid."""

    name: str
    image: NDArray[np.float32]  # [slice, row, column]
    geometry: Geometry
    truth: Mapping[Target, NDArray[np.bool_]]


def build_phantom_case(seed: int) -> Case:
    """Build a phantom as a case; the truth about every class is known."""
    image, labels = build_torso_ct(seed, _PHANTOM_SPACING_MM)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *_PHANTOM_SPACING_MM, 1.0
    slices, rows, columns = image.shape
    truth = {target: labels == target for target in Target if target is not Target.BACKGROUND}
    return Case(f"phantom {seed}", image.astype(np.float32), Geometry(affine, (slices, rows, columns), "1.2.3"), truth)


def read_chaos(folder: Path) -> Case:
    """Read one CHAOS abdomen: a portal-phase CT with a manual mask of the liver."""
    image = read_image(folder / "DICOM_anon")
    labels = bring_labels_to(read_image(folder / "liver_label.nii.gz"), image.geometry)
    return _case("CHAOS, portal phase", image, {Target.LIVER: labels == 1})


def read_totalsegmentator(folder: Path) -> Case:
    """Read the 30 slices of TotalSegmentator's example, labelled by TotalSegmentator itself."""
    image = read_image(folder / "example_ct_sm.nii.gz")
    labels = bring_labels_to(read_image(folder / "example_seg.nii.gz"), image.geometry)
    truth = {target: np.isin(labels, list(numbers)) for target, numbers in _TOTALSEGMENTATOR.items()}
    return _case("TotalSegmentator example, 9 cm, native", image, truth)


def read_chest(folder: Path) -> Case:
    """Read the 64 x 64 chest of the ChestImagingPlatform with its lung thirds."""
    image = read_image(folder / "ct-64.nrrd")
    labels = bring_labels_to(read_image(folder / "lm-64.nrrd"), image.geometry).astype(np.int64) & 0xFF
    truth = {target: np.isin(labels, list(numbers)) for target, numbers in _CHEST_REGIONS.items()}
    return _case("ChestImagingPlatform, 64 x 64 chest", image, truth)


def measure(case: Case, package: ModelPackage, engine: Engine) -> dict[Target, float]:
    """Give the Dice coefficient of every class the case tells the truth about."""
    sources = (SliceSource("1.2.3", "1.2.840.10008.5.1.4.1.1.2"),) * case.geometry.shape[0]
    volume = Volume(np.ascontiguousarray(case.image), case.geometry, sources)
    labels = engine.segment(package, volume).labels
    return {target: dice(labels == target, mask) for target, mask in case.truth.items()}


def dice(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Give the Dice coefficient; two empty masks agree."""
    total = int(found.sum()) + int(true.sum())
    return 1.0 if total == 0 else 2.0 * int((found & true).sum()) / total


def resample(volume: Volume, spacing_mm: tuple[float, float, float]) -> SampledVolume:
    """Bring a volume to about `spacing_mm` along its own axes, averaging where that is coarser.

    The outer faces of the grid stay where they are, so the spacing may differ a little from the one asked for.
    """
    image, geometry = np.asarray(volume.voxels, np.float32), volume.geometry
    affine = geometry.affine.copy()
    affine[:3, 3] -= 0.5 * affine[:3, :3].sum(axis=1)
    counts: list[int] = []
    for axis, (count, have, want) in enumerate(zip(image.shape, geometry.spacing_mm, spacing_mm, strict=True)):
        counts.append(max(1, round(count * have / want)))
        weights = _tent_weights(count, counts[-1])
        image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
        affine[:3, axis] *= count / counts[-1]
    affine[:3, 3] += 0.5 * affine[:3, :3].sum(axis=1)
    slices, rows, columns = counts
    grid = Geometry(affine, (slices, rows, columns), geometry.frame_of_reference_uid)
    return SampledVolume(np.ascontiguousarray(image, np.float32), grid)


def _tent_weights(count_in: int, count_out: int) -> NDArray[np.float32]:
    """Give linear interpolation as a matrix `[out, in]`; the tent widens where voxels get larger."""
    step = count_in / count_out
    positions = np.clip((np.arange(count_out) + 0.5) * step - 0.5, 0, count_in - 1)
    distance = np.abs(positions[:, None] - np.arange(count_in)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, step))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _case(name: str, image: GridImage, truth: Mapping[Target, NDArray[np.bool_]]) -> Case:
    return Case(name, image.voxels.astype(np.float32), image.geometry, truth)


def _real_cases(chosen: argparse.Namespace) -> Iterator[Case]:
    readers = ((chosen.chaos, read_chaos), (chosen.totalsegmentator, read_totalsegmentator), (chosen.chest, read_chest))
    for folder, read in readers:
        if folder is not None:
            yield read(folder)


def _table_row(name: str, scores: Mapping[Target, float]) -> str:
    cells = [f"{scores[target]:.3f}" if target in scores else "" for target in Target if target]
    return f"| {name} | " + " | ".join(cells) + " |"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dicomnode.training.torso_evaluation", description="Measure a torso package."
    )
    parser.add_argument("--package", type=Path, default=SHIPPED_PACKAGES / "torso")
    parser.add_argument("--chaos", type=Path, help="one case of CHAOS: DICOM_anon/ and liver_label.nii.gz")
    parser.add_argument("--totalsegmentator", type=Path, help="example_ct_sm.nii.gz and example_seg.nii.gz")
    parser.add_argument("--chest", type=Path, help="ct-64.nrrd and lm-64.nrrd of the ChestImagingPlatform")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    chosen = _parse_arguments()
    package = ModelPackage(chosen.package, read_manifest(chosen.package / "manifest.toml"))
    engine = Engine(resample, "cpu")
    names = [target.name.lower().replace("_", " ") for target in Target if target]
    lines = ["| Dice | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    phantoms = [measure(build_phantom_case(seed), package, engine) for seed in HELD_OUT_SEEDS]
    means = {target: float(np.mean([scores[target] for scores in phantoms])) for target in phantoms[0]}
    lines.append(_table_row(f"{len(phantoms)} phantoms, mean", means))
    lines.extend(_table_row(case.name, measure(case, package, engine)) for case in _real_cases(chosen))
    print("\n".join(lines))  # noqa: T201  the table is what this program is for


if __name__ == "__main__":
    main()
