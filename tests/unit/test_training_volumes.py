"""Reading and measuring what evaluations need."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from dicomnode.imaging import Geometry, SliceSource, Volume
from dicomnode.training.torso_evaluation import dice, resample
from dicomnode.training.volumes import bring_labels_to, read_image

# RAS affine of voxels (i, j, k), three orientations of public data sets.
AFFINES = {
    "RAS": np.diag([3.0, 2.0, 5.0, 1.0]),
    "LPS": np.diag([-3.0, -2.0, 5.0, 1.0]),
    "LAS": np.diag([-3.0, 2.0, 5.0, 1.0]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_a_nifti_file_keeps_every_voxel_at_its_place_in_the_patient(tmp_path: Path, name: str) -> None:
    affine = AFFINES[name].copy()
    affine[:3, 3] = (-40.0, 30.0, 7.0)
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    Nifti1Image(voxels, affine).to_filename(tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz")
    index = np.array((3, 1, 2))  # (i, j, k)
    expected_lps = (affine @ (*index, 1.0))[:3] * (-1.0, -1.0, 1.0)
    found = np.argwhere(image.voxels == voxels[tuple(index)])
    np.testing.assert_allclose(image.geometry.to_patient_mm(found.astype(float))[0], expected_lps, atol=1e-4)


def test_labels_stored_upside_down_land_on_the_image(tmp_path: Path) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 0] = 7
    Nifti1Image(labels, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(tmp_path / "a.nii")
    flipped = np.diag([-1.0, -1.0, -2.0, 1.0])
    flipped[2, 3] = 10.0
    Nifti1Image(labels[:, :, ::-1], flipped).to_filename(tmp_path / "b.nii")
    first, second = read_image(tmp_path / "a.nii"), read_image(tmp_path / "b.nii")
    np.testing.assert_array_equal(bring_labels_to(second, first.geometry), first.voxels)


def test_resampling_keeps_the_outer_faces_and_the_mean() -> None:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 2.0, 1.0, 1.0, 1.0
    geometry = Geometry(affine, (10, 40, 40), "1.2.3")
    image = np.random.default_rng(0).normal(50.0, 10.0, geometry.shape).astype(np.float32)
    sources = (SliceSource("1.2.4", "1.2.5"),) * geometry.shape[0]
    sampled = resample(Volume(image, geometry, sources), (5.0, 4.0, 4.0))
    assert sampled.geometry.shape == (4, 10, 10)
    corner = np.full((1, 3), -0.5)
    np.testing.assert_allclose(sampled.geometry.to_patient_mm(corner), geometry.to_patient_mm(corner), atol=1e-9)
    assert sampled.voxels.mean() == pytest.approx(image.mean(), abs=0.5)
    assert sampled.voxels.std() < 0.5 * image.std()  # averaged, not picked


def test_dice_counts_overlap_and_takes_two_empty_masks_as_equal() -> None:
    mask = np.array([True, True, False, False])
    assert dice(mask, mask) == 1.0
    assert dice(mask, ~mask) == 0.0
    assert dice(mask, np.array([True, False, False, False])) == pytest.approx(2 / 3)
    assert dice(~mask & mask, ~mask & mask) == 1.0
