"""Resampling keeps every value where it is in the patient: a ramp over the patient comes back as that ramp."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomnode.assembly.resample import resample, sampled_geometry, write_nifti
from dicomnode.imaging import Geometry, SampledVolume, SliceSource, Volume
from tests.encoding_cases import affine, axial, image_orientations, oblique, tilted

SHAPE = (21, 26, 23)
SLOPES = np.array([1.7, -2.3, 3.1])  # HU per mm along x, y, z


def ramp(geometry: Geometry) -> NDArray[np.float64]:
    """HU that grow steadily over the patient, at every voxel of a grid."""
    indices = np.indices(geometry.shape).reshape(3, -1).T.astype(np.float64)
    centre = geometry.to_patient_mm(np.array([[n / 2 for n in SHAPE]]))
    return ((geometry.to_patient_mm(indices) - centre) @ SLOPES).reshape(geometry.shape)


def volume_on(geometry: Geometry, voxels: NDArray[np.int16] | NDArray[np.float32]) -> Volume:
    sources = tuple(SliceSource(f"1.2.{number}", "1.2") for number in range(geometry.shape[0]))
    return Volume(voxels, geometry, sources)


def grid(affine_mm: NDArray[np.float64], shape: tuple[int, int, int] = SHAPE) -> Geometry:
    return Geometry(affine_mm, shape, "1.2.3")


def well_inside(sampled: SampledVolume, source: Geometry, margin: float) -> NDArray[np.bool_]:
    """The new voxels whose place in the source is at least `margin` source voxels from every edge."""
    indices = np.indices(sampled.geometry.shape).reshape(3, -1).T.astype(np.float64)
    there = source.to_indices(sampled.geometry.to_patient_mm(indices))
    inside = (there >= margin) & (there <= np.array(source.shape) - 1 - margin)
    return np.asarray(inside.all(axis=1)).reshape(sampled.geometry.shape)


def assert_ramp_is_kept(source: Geometry, spacing_mm: tuple[float, float, float]) -> None:
    sampled = resample(volume_on(source, ramp(source).astype(np.float32)), spacing_mm)
    assert sampled.voxels.dtype == np.float32
    assert not sampled.geometry.is_sheared
    assert sampled.geometry.spacing_mm == pytest.approx(spacing_mm)
    slice_mm = float(source.affine[:3, 0] @ source.normal)
    ratios = np.array(spacing_mm) / (slice_mm, *source.spacing_mm[1:])
    inside = well_inside(sampled, source, margin=float(max(1.0, ratios.max())))
    assert inside.any()
    centre = source.to_patient_mm(np.array([[n / 2 for n in SHAPE]]))
    indices = np.argwhere(inside).astype(np.float64)
    expected = (sampled.geometry.to_patient_mm(indices) - centre) @ SLOPES
    assert np.abs(sampled.voxels[inside] - expected).max() < 0.02


def turned(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """The rotation that turns the axial directions into the oblique ones."""
    return oblique(degrees) @ oblique((0.0, 0.0, 0.0)).T


ORIENTED = {name: affine(directions, (2.5, 0.9, 0.7)) for name, directions in image_orientations().items()}
SLANTED = {
    "oblique": affine(oblique(), (2.5, 0.9, 0.7)),
    "tilted": affine(tilted(18.5), (2.5, 0.9, 0.7)),
    "tilted back": affine(tilted(-27.0), (4.0, 0.9, 0.7)),
    "tilted and oblique": affine(turned((12.0, -7.0, 31.0)) @ tilted(20.0), (2.5, 0.9, 0.7)),
}


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (4.5, 4.5, 4.5), (2.5, 0.9, 0.7), (5.0, 1.3, 2.2)])
@pytest.mark.parametrize("name", [*ORIENTED, *SLANTED])
def test_a_ramp_stays_in_its_place(name: str, spacing_mm: tuple[float, float, float]):
    assert_ramp_is_kept(grid((ORIENTED | SLANTED)[name]), spacing_mm)


@settings(max_examples=60, deadline=None)
@given(
    turns=st.tuples(*[st.floats(-180, 180)] * 3),
    degrees=st.floats(-30, 30),
    old=st.tuples(*[st.floats(0.5, 4.0)] * 3),
    ratio=st.tuples(*[st.floats(0.6, 4.0)] * 3),
)
def test_a_ramp_stays_in_its_place_on_any_grid(
    turns: tuple[float, float, float],
    degrees: float,
    old: tuple[float, float, float],
    ratio: tuple[float, float, float],
):
    source = grid(affine(turned(turns) @ tilted(degrees), old))
    slice_mm = float(source.affine[:3, 0] @ source.normal)
    spacing_mm = (slice_mm * ratio[0], old[1] * ratio[1], old[2] * ratio[2])
    assert_ramp_is_kept(source, spacing_mm)


@settings(max_examples=200, deadline=None)
@given(
    degrees=st.floats(-30, 30),
    old=st.tuples(*[st.floats(0.3, 8.0)] * 3),
    new=st.tuples(*[st.floats(0.3, 8.0)] * 3),
    shape=st.tuples(*[st.integers(1, 60)] * 3),
)
def test_the_new_grid_covers_the_old_voxels_whole(
    degrees: float,
    old: tuple[float, float, float],
    new: tuple[float, float, float],
    shape: tuple[int, int, int],
):
    source = grid(affine(tilted(degrees), old), shape)
    target = sampled_geometry(source, new)
    faces = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape])).reshape(3, -1).T
    there = target.to_indices(source.to_patient_mm(faces))
    slack = 1e-3
    assert (there >= -0.5 - slack).all()
    assert (there <= np.array(target.shape) - 0.5 + slack).all()
    assert (there.max(axis=0) - there.min(axis=0) > np.array(target.shape) - 1 - slack).all()


def test_at_its_own_spacing_an_upright_volume_is_unchanged():
    source = grid(axial())
    voxels = np.random.default_rng(3).integers(-1024, 3000, SHAPE).astype(np.int16)
    sampled = resample(volume_on(source, voxels), source.spacing_mm)
    assert sampled.geometry.is_close_to(source, tolerance_mm=1e-9)
    assert sampled.voxels.dtype == np.int16
    assert np.array_equal(sampled.voxels, voxels)


@pytest.mark.parametrize("level", [-1024, -1, 0, 1, 3071])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 4.5, 4.0)])
def test_an_even_volume_stays_even_to_its_last_voxel(level: int, spacing_mm: tuple[float, float, float]):
    sampled = resample(volume_on(grid(axial()), np.full(SHAPE, level, np.int16)), spacing_mm)
    assert np.all(sampled.voxels == level)


@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (1.3, 0.8, 0.7), (4.1, 3.7, 2.9)])
def test_integers_are_rounded_to_the_nearest_not_cut(spacing_mm: tuple[float, float, float]):
    source = grid(axial((3.0, 1.0, 1.0)))
    sampled = resample(volume_on(source, np.rint(ramp(source) + 300).astype(np.int16)), spacing_mm)
    inside = well_inside(sampled, source, 3.0)
    expected = ramp_at(sampled.geometry, source) + 300
    error = (sampled.voxels - expected)[inside]
    assert np.abs(error).max() <= 1.5
    assert abs(error.mean()) < 0.25  # cut ones would be 0.5 off


def ramp_at(geometry: Geometry, source: Geometry) -> NDArray[np.float64]:
    indices = np.indices(geometry.shape).reshape(3, -1).T.astype(np.float64)
    centre = source.to_patient_mm(np.array([[n / 2 for n in SHAPE]]))
    return ((geometry.to_patient_mm(indices) - centre) @ SLOPES).reshape(geometry.shape)


def test_outside_a_tilted_stack_there_is_air():
    source = grid(affine(tilted(25.0), (5.0, 1.0, 1.0)))
    voxels = np.full(SHAPE, 40, np.int16)
    voxels[0, 0, 0] = -1024
    sampled = resample(volume_on(source, voxels), (1.0, 1.0, 1.0))
    assert sampled.voxels[0, -1, 5] == -1024 or sampled.voxels[0, 0, 5] == -1024
    assert sampled.voxels[sampled.voxels.shape[0] // 2, sampled.voxels.shape[1] // 2, 10] == 40


@pytest.mark.parametrize("factor", [2.0, 3.0, 6.4])
def test_detail_finer_than_the_new_spacing_does_not_alias(factor: float):
    source = grid(axial((1.0, 1.0, 1.0)), (48, 48, 48))
    checkers = (np.indices(source.shape).sum(axis=0) % 2 * 2000 - 1000).astype(np.int16)
    sampled = resample(volume_on(source, checkers), (factor, factor, factor))
    assert np.abs(sampled.voxels[1:-1, 1:-1, 1:-1]).max() < 60  # without averaging: 1000


def test_a_nifti_file_says_the_same_of_every_voxel(tmp_path: Path):
    for name, affine_mm in (ORIENTED | {"oblique": SLANTED["oblique"]}).items():
        geometry = grid(affine_mm)
        voxels = np.random.default_rng(5).integers(0, 9, SHAPE).astype(np.uint8)
        write_nifti(tmp_path / f"{name}.nii.gz", voxels, geometry)
        image = nibabel.Nifti1Image.load(tmp_path / f"{name}.nii.gz")
        indices = np.array([[0, 0, 0], [20, 3, 11], [7, 25, 22]])
        ras = geometry.to_patient_mm(indices.astype(np.float64)) * (-1, -1, 1)
        affine_ras = np.asarray(image.affine, dtype=np.float64)
        there = np.c_[ras, np.ones(3)] @ np.linalg.inv(affine_ras).T
        found = np.asarray(image.dataobj)[tuple(np.rint(there[:, :3]).astype(int).T)]
        assert np.abs(there[:, :3] - np.rint(there[:, :3])).max() < 1e-3
        assert np.array_equal(found, voxels[tuple(indices.T)])


def test_a_sheared_grid_is_not_written_as_nifti():
    with TemporaryDirectory() as folder, pytest.raises(ValueError, match="sheared"):
        write_nifti(Path(folder) / "x.nii", np.zeros(SHAPE, np.uint8), grid(affine(tilted(10))))
