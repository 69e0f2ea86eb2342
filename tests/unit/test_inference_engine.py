"""Whole segmentations by networks whose answer is known: where labels lie in the patient, and what stops one."""

import hashlib
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.errors import ModelError
from dicomnode.imaging import Geometry, SampledVolume, Volume
from dicomnode.inference import Engine, Inference, Precision
from dicomnode.inference.device import choose_precision
from dicomnode.models import ModelPackage
from tests.toy_models import (
    FRAME,
    Array,
    Document,
    bright_where,
    resampled_geometry,
    sampled_depth,
    segment,
    sphere_depth_mm,
    toy_engine,
    toy_manifest,
    toy_network,
    upright_geometry,
    volume_on,
    voxel_centres_mm,
    write_package,
    write_raw_package,
)

WEIGHTS = "weights.safetensors"
CENTRE_MM, RADIUS_MM = (4.0, -6.0, 2.5), 13.0
SHAPE = (16, 44, 40)
SPACING_MM = (3.3, 1.1, 1.3)


def sampled_sphere(volume: Volume, spacing_mm: tuple[float, float, float]) -> SampledVolume:
    """The sphere on the grid that assembly would make of the volume's."""
    grid = resampled_geometry(volume.geometry, spacing_mm)
    return sampled_depth(grid, sphere_depth_mm(voxel_centres_mm(grid), CENTRE_MM, RADIUS_MM))


@pytest.fixture(scope="module")
def seer() -> Engine:
    """An engine that sees a sphere wherever it looks."""
    return Engine(sampled_sphere, "cpu", threads=1, precision=Precision.FP32)


def run(package: ModelPackage, sampled: SampledVolume, source: Geometry, **options: object) -> Inference:
    """What an engine says that is shown `sampled` of a volume on the source grid."""
    return toy_engine(sampled, **options).segment(package, volume_on(source))


def right_handed_grids() -> dict[str, Array]:
    grids: dict[str, Array] = {}
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        directions = np.zeros((3, 3))
        directions[axes, range(3)] = signs
        if np.linalg.det(directions) < 0:
            grids[" ".join(f"{'+-'[sign < 0]}{'xyz'[axis]}" for axis, sign in zip(axes, signs, strict=True))] = (
                directions
            )
    return grids


GRIDS = right_handed_grids()


def turned(degrees: tuple[float, float]) -> Array:
    """Axial directions turned about x, then about z."""
    a, b = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x @ GRIDS["+z +y +x"]


def tilted(degrees: float) -> Geometry:
    """An axial stack whose slices slide towards posterior, as a tilted gantry's do."""
    affine = upright_geometry(SHAPE, SPACING_MM).affine.copy()
    affine[1, 0] = SPACING_MM[0] * np.tan(np.radians(degrees))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return Geometry(affine, SHAPE, FRAME)


SOURCES: dict[str, Geometry] = {
    **{name: upright_geometry(SHAPE, SPACING_MM, directions) for name, directions in GRIDS.items()},
    "oblique": upright_geometry(SHAPE, SPACING_MM, turned((17.0, -31.0))),
    "oblique beyond 45 degrees": upright_geometry(SHAPE, SPACING_MM, turned((62.0, 20.0))),
    "tilted gantry": tilted(18.5),
    "gantry tilted the other way": tilted(-22.0),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_sphere_is_found_where_it_lies_in_the_patient(tmp_path: Path, seer: Engine, source: Geometry) -> None:
    package = write_package(tmp_path, toy_manifest())
    labels = seer.segment(package, volume_on(source)).labels
    depth_mm = sphere_depth_mm(voxel_centres_mm(source), CENTRE_MM, RADIUS_MM)
    sure = np.abs(depth_mm) > 0.15  # a quarter of the smallest half voxel that anything could be shifted by
    assert (labels[sure] == (depth_mm[sure] > 0)).all()
    assert 1500 < (labels == 1).sum() < 2500


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_network_sees_the_volume_in_the_orientation_and_spacing_of_its_manifest(
    tmp_path: Path, seer: Engine, source: Geometry
) -> None:
    # A network that looks one voxel ahead along each of its axes moves what it sees by minus one voxel of its grid.
    package = write_package(tmp_path, toy_manifest(), bright_where(look=(1, 1, 1)))
    labels = seer.segment(package, volume_on(source)).labels
    bright_mm = voxel_centres_mm(source)[labels == 1].mean(axis=0)
    grid = resampled_geometry(source, (1.0, 1.0, 1.0))
    moved = np.array(CENTRE_MM) - nearest_axes(grid) @ np.array([3.0, 2.0, 1.5])
    np.testing.assert_allclose(bright_mm, moved, atol=0.12)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASR", "PIL", "IRA"])
def test_a_model_of_any_orientation_sees_its_own_axes(tmp_path: Path, seer: Engine, orientation: str) -> None:
    manifest = toy_manifest()
    manifest["stages"][0]["before"][0]["axes"] = orientation
    package = write_package(tmp_path, manifest, bright_where(look=(1, 1, 1)))
    source = upright_geometry(SHAPE, SPACING_MM)
    bright_mm = voxel_centres_mm(source)[seer.segment(package, volume_on(source)).labels == 1].mean(axis=0)
    signed = dict(zip("LPSRAI", [*np.eye(3), *-np.eye(3)], strict=True))
    steps = sum(mm * signed[side] for mm, side in zip((3.0, 2.0, 1.5), orientation, strict=True))
    np.testing.assert_allclose(bright_mm, np.array(CENTRE_MM) - steps, atol=0.12)


def nearest_axes(grid: Geometry) -> Array:
    """The grid's own directions that come nearest to superior, posterior and left, as columns."""
    best = max(
        (
            grid.directions[:, list(axes)] * np.array(signs)
            for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3))
        ),
        key=lambda turned_axes: float(np.trace(turned_axes.T @ GRIDS["+z +y +x"])),
    )
    return np.asarray(best)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 8), (9, 1, 8), (8, 9, 1)])
def test_grids_of_a_single_voxel_along_an_axis_work(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    package = write_package(tmp_path, toy_manifest())
    grid = upright_geometry(shape, (3.0, 2.0, 1.5))
    slice_mm, row_mm, column_mm = (n * mm for n, mm in zip(shape, grid.spacing_mm, strict=True))
    source = upright_geometry((3, 4, 5), (slice_mm / 3, row_mm / 4, column_mm / 5))  # the same box
    for hu, label in ((500, 1), (-500, 0)):
        sampled = SampledVolume(np.full(shape, hu, np.int16), grid)
        assert (run(package, sampled, source).labels == label).all()


def test_integers_and_floats_give_the_same_labels(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    grid = upright_geometry((9, 20, 21), (3.0, 2.0, 1.5))
    voxels = np.random.default_rng(3).integers(-1200, 1200, grid.shape).astype(np.int16)
    source = upright_geometry((20, 30, 30), (1.2, 1.3, 1.0))
    integers = run(package, SampledVolume(voxels, grid), source).labels
    floats = run(package, SampledVolume(voxels.astype(np.float32), grid), source).labels
    np.testing.assert_array_equal(integers, floats)


def test_the_same_input_gives_the_same_labels_in_any_engine(tmp_path: Path) -> None:
    package, sampled, source = noise_case(tmp_path)
    first, second = toy_engine(sampled, precision=None), toy_engine(sampled, precision=None)
    labels = [engine.segment(package, volume_on(source)).labels for engine in (first, first, second)]
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])


def test_half_precision_is_recorded_and_differs_only_where_the_classes_are_nearly_equal(tmp_path: Path) -> None:
    package, sampled, source = noise_case(tmp_path)
    exact, near = (run(package, sampled, source, precision=which) for which in (Precision.FP32, Precision.BF16))
    assert (exact.stages[0].precision, near.stages[0].precision) == (Precision.FP32, Precision.BF16)
    assert near.stages[0].device == "cpu"
    assert (exact.labels != near.labels).mean() < 0.01


def test_half_precision_is_used_only_where_the_package_was_verified_in_it(tmp_path: Path) -> None:
    package, sampled, source = noise_case(tmp_path)
    assert run(package, sampled, source, precision=None).stages[0].precision is Precision.FP32
    verified = write_package(tmp_path, {**toy_manifest("verified"), "verified": {"bf16": 0.9995, "fp16": 0.9995}})
    fastest = choose_precision(torch.device("cpu"))
    assert run(verified, sampled, source, precision=None).stages[0].precision is fastest


@pytest.mark.parametrize("window", [[16, 16, 16], [8, 24, 16]])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_windows_give_what_the_whole_gives_where_the_network_sees_no_neighbours(
    tmp_path: Path, window: list[int], blending: str
) -> None:
    package, sampled, source = noise_case(tmp_path)
    whole = run(package, sampled, source)
    manifest = toy_manifest("windowed")
    manifest["stages"][0]["windows"] = {"patch": window, "overlap": 0.25, "blending": blending}
    windowed = run(write_package(tmp_path, manifest), sampled, source)
    assert (whole.stages[0].windows, windowed.stages[0].window) == (1, tuple(window))
    assert windowed.stages[0].windows > 8
    np.testing.assert_array_equal(windowed.labels, whole.labels)


def test_a_class_that_no_segment_names_is_background(tmp_path: Path) -> None:
    manifest, state = three_classes()
    manifest["segments"] = [segment(1, "Second", [2])]
    grid = upright_geometry((8, 8, 8), (3.0, 2.0, 1.5))
    voxels = np.zeros(grid.shape, np.int16)
    voxels[:4], voxels[4:] = 500, -500  # class 1 above 0 HU, class 2 below
    labels = run(write_package(tmp_path, manifest, state), SampledVolume(voxels, grid), grid).labels
    assert (labels[:4] == 0).all()
    assert (labels[4:] == 2).all()


def test_stray_islands_of_a_structure_go_to_the_runner_up(tmp_path: Path) -> None:
    manifest, state = three_classes()
    manifest["segments"] = [segment(1, "First", [1]), segment(2, "Second", [2])]
    manifest["stages"][0]["after"].insert(1, {"step": "largest-components", "keep": {"1": 1}, "rest": "runner-up"})
    grid = upright_geometry((8, 16, 16), (3.0, 2.0, 1.5))
    voxels = np.full(grid.shape, -500, np.int16)
    voxels[1:4, 2:8, 2:8] = 500
    voxels[6, 12, 12] = 500
    labels = run(write_package(tmp_path, manifest, state), SampledVolume(voxels, grid), grid).labels
    expected = np.full(grid.shape, 2)
    expected[1:4, 2:8, 2:8] = 1
    np.testing.assert_array_equal(labels, expected)


def truncated(weights: bytes) -> bytes:
    return weights[:-8]


def without_a_tensor(state: dict[str, torch.Tensor]) -> None:
    state.pop("model.2.conv.bias")


def with_a_misshapen_tensor(state: dict[str, torch.Tensor]) -> None:
    state["model.2.conv.bias"] = torch.zeros(3)


def with_a_foreign_tensor(state: dict[str, torch.Tensor]) -> None:
    state["model.9.conv.bias"] = torch.zeros(3)


def with_nan(state: dict[str, torch.Tensor]) -> None:
    state["model.2.conv.bias"][1] = float("nan")


def with_infinity(state: dict[str, torch.Tensor]) -> None:
    state["model.0.conv.bias"][0] = float("-inf")


def with_weights_that_overflow(state: dict[str, torch.Tensor]) -> None:
    state["model.0.conv.weight"] *= 1e38
    state["model.2.conv.weight"] *= 1e38


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_a_tensor, "Missing key.*model.2.conv.bias"),
        (with_a_foreign_tensor, "Unexpected key.*model.9.conv.bias"),
        (with_a_misshapen_tensor, "size mismatch for model.2.conv.bias"),
        (with_nan, "expected finite weights, found NaN or infinity in 'model.2.conv.bias'"),
        (with_infinity, "expected finite weights, found NaN or infinity in 'model.0.conv.bias'"),
        (with_weights_that_overflow, "expected finite logits from the network, found NaN or infinity"),
    ],
)
def test_weights_that_cannot_be_right_are_refused_and_the_next_model_runs(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], sentence: str
) -> None:
    good, sampled, source = noise_case(tmp_path)
    state = bright_where()
    change(state)
    with pytest.raises(ModelError, match=sentence):
        run(write_package(tmp_path, toy_manifest("wrong"), state), sampled, source)
    assert run(good, sampled, source).labels.any()


def test_a_truncated_weights_file_is_refused_even_with_a_fitting_digest(tmp_path: Path) -> None:
    good, sampled, source = noise_case(tmp_path)
    weights = truncated(good.read_file(WEIGHTS))
    manifest = {**toy_manifest("cut"), "digests": {WEIGHTS: hashlib.sha256(weights).hexdigest()}}
    with pytest.raises(ModelError, match="expected a complete safetensors file"):
        run(write_raw_package(tmp_path, manifest, weights), sampled, source)


def test_weights_altered_on_disk_stop_an_engine_that_has_not_loaded_them(tmp_path: Path) -> None:
    package, sampled, source = noise_case(tmp_path)
    path = package.folder / WEIGHTS
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="the file was altered"):
        run(package, sampled, source)


@pytest.mark.parametrize("name", ["Unet", "os.system", "torch.nn.Conv3d", "NETWORKS"])
def test_a_network_that_is_not_in_the_table_is_refused(tmp_path: Path, name: str) -> None:
    _, sampled, source = noise_case(tmp_path)
    manifest = toy_manifest("unknown")
    manifest["networks"]["toy"]["name"] = name
    with pytest.raises(ModelError, match=f"key 'networks.toy.name': expected one of .*UNet.*; found '{name}'"):
        run(write_package(tmp_path, manifest), sampled, source)


@pytest.mark.parametrize(
    "argument", [{"strides": []}, {"channels": "many"}, {"shape": 3}, {"channels": []}, {"norm": "x"}]
)
def test_arguments_that_the_network_does_not_take_are_refused(tmp_path: Path, argument: dict[str, object]) -> None:
    _, sampled, source = noise_case(tmp_path)
    manifest = toy_manifest("arguments")
    manifest["networks"]["toy"]["arguments"].update(argument)
    with pytest.raises(
        ModelError, match=r"manifest.toml: key 'networks.toy.arguments': expected arguments that UNet takes|tensors of"
    ):
        run(write_package(tmp_path, manifest), sampled, source)


def test_more_models_than_stay_warm_each_give_their_own_answer(tmp_path: Path) -> None:
    _, sampled, source = noise_case(tmp_path)
    packages = [
        write_package(tmp_path, toy_manifest(f"toy{n}"), bright_where(look=(n % 2, n // 2, 0))) for n in range(4)
    ]
    engine = toy_engine(sampled, warm_bytes=3000)
    first = [engine.segment(package, volume_on(source)).labels for package in packages]
    again = [engine.segment(package, volume_on(source)).labels for package in packages]
    for index, (one, other) in enumerate(zip(first, again, strict=True)):
        np.testing.assert_array_equal(one, other)
        assert index == 0 or (one != first[0]).any()


def noise_case(
    folder: Path, shape: tuple[int, int, int] = (20, 37, 30)
) -> tuple[ModelPackage, SampledVolume, Geometry]:
    """The toy package, noise at its spacing, and a source grid that is finer."""
    grid = upright_geometry(shape, (3.0, 2.0, 1.5))
    voxels = np.random.default_rng(0).normal(0, 400, shape).astype(np.int16)
    fine = upright_geometry((shape[0], 2 * shape[1], 2 * shape[2]), (3.0, 1.0, 0.75))
    return write_package(folder, toy_manifest()), SampledVolume(voxels, grid), fine


def three_classes() -> tuple[Document, dict[str, torch.Tensor]]:
    """A network of three classes: 0 never wins, 1 above 0 HU, 2 below."""
    state = bright_where()
    state["model.2.conv.weight"] = torch.zeros(4, 3, 3, 3, 3)
    state["model.2.conv.weight"][0, :, 1, 1, 1] = torch.tensor([0.0, 4.0, -4.0])
    state["model.2.conv.bias"] = torch.tensor([-9.0, 0.0, 0.0])
    return {**toy_manifest("three"), "networks": {"toy": toy_network(3)}}, state
