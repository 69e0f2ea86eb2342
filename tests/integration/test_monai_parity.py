"""Bundles, imported and run here, say voxel for voxel what MONAI itself says of the same images.

Two kinds of case: those of `make oracles`, modelled on published bundles, and small ones that MONAI's own
`ConfigParser` runs in the test, on a DICOM series read by MONAI's own reader.

What cannot be equal. Where a voxel of the scanner's grid lies exactly between two of the network's (e.g. 1.25 mm to
1.5 mm, every third voxel), MONAI's inverse takes the one to which the last bits of its arithmetic tend. `monai_grid`
computes in the same order, so these come out equal as well, unless the axes are at right angles only to seven digits
or a crop shifted the affine by rounding: then the last bits differ from voxel to voxel, and a tie may go either way.
"""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from numpy.typing import NDArray

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.resample import resample
from dicomnode.assembly.volume import assemble
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry, SliceSource, Volume
from dicomnode.imaging.orientation import axis_letters
from dicomnode.importers.bundle_files import open_bundle
from dicomnode.importers.bundle_metadata import read_metadata
from dicomnode.importers.monai_bundle import BundleOptions, import_monai_bundle
from dicomnode.importers.naming import Coded
from dicomnode.inference import Engine
from dicomnode.inference.admission import Demand, admit
from dicomnode.inference.before import apply
from dicomnode.inference.device import Precision
from dicomnode.inference.picture import Picture
from dicomnode.inference.runners import RUNNERS
from dicomnode.inference.scene import Scene
from dicomnode.inference.stages import NamedForward, conclude, prepare, say
from dicomnode.models import ModelPackage
from dicomnode.models.writing import write_package
from tests.bundles import (
    Config,
    answer_transform,
    compose,
    inference_config,
    invert,
    transform,
    write_bundle,
)
from tests.oracles import MONAI_CASES, OracleCase, oracle_case

CPU = torch.device("cpu")
ANYTHING = Coded(category=("91723000", "SCT", "Anatomical Structure"), type=("38266002", "SCT", "Entire body"))
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TIE_VOXELS = 1e-6
PARTS_OF_A_PROMPT = {2: (14, 5), 20: (28, 29, 30, 31, 32)}  # as the cases' configs name them

Labels = NDArray[np.generic]


def nifti_volume(path: Path) -> Volume:
    """An image as MONAI sees it: its affine to the last bit, [column, row, slice] turned to [slice, row, column]."""
    image: Any = nib.load(path)
    voxels = np.ascontiguousarray(np.asarray(image.dataobj, np.float32).transpose(2, 1, 0))
    affine = (LPS_FROM_RAS @ image.affine)[:, [2, 1, 0, 3]]
    slices, rows, columns = voxels.shape
    sources = tuple(SliceSource(f"2.25.{index + 1}", "1.2.840.10008.5.1.4.1.1.2") for index in range(slices))
    return Volume(voxels, Geometry(affine, (slices, rows, columns), "2.25.1"), sources)


def nifti_labels(path: Path) -> Labels:
    image: Any = nib.load(path)
    return np.rint(np.asarray(image.dataobj)).astype(np.int64).transpose(2, 1, 0)


def bundle_without_code(case: OracleCase, folder: Path) -> Path:
    """The case's bundle in a folder without scripts/, which the import of the real one asks for."""
    if not (case.model / "scripts").exists():
        return case.model
    for path in case.model.rglob("*"):
        inside = path.relative_to(case.model)
        if path.is_file() and inside.parts[0] != "scripts":
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            (folder / inside).symlink_to(path)
    return folder


def installed(case: OracleCase, store: Path) -> ModelPackage:
    prompts = [part for prompt in case.label_prompt or () for part in PARTS_OF_A_PROMPT.get(prompt, (prompt,))]
    options = BundleOptions(name=case.name, prompts=tuple(prompts))
    return package_of(bundle_without_code(case, store / "bundle"), store, options)


def package_of(bundle: Path, store: Path, options: BundleOptions) -> ModelPackage:
    """Install a bundle, whatever its labels mean."""
    names = read_metadata(open_bundle(bundle)).names
    mapped = dict.fromkeys((name for name in named_in_results(names, options)), ANYTHING)
    imported = import_monai_bundle(bundle, mapped, store / "labels.toml", options)
    return write_package(store / "models", imported.manifest, imported.files)


def named_in_results(names: dict[int, str], options: BundleOptions) -> list[str]:
    if options.name.startswith("monai-vista3d"):
        everything = sorted(set(range(1, 133)) - {2, 16, 18, 20, 21, 23, 24, 25, 26, 27, 128, 129, 130, 131, 132})
        return [names[prompt] for prompt in options.prompts or everything]
    if options.name == "monai-brats":
        return ["label 1", "label 2", "label 4"]
    return [name for channel, name in names.items() if channel]


@torch.inference_mode()
def segmented(package: ModelPackage, volumes: list[Volume]) -> Labels:
    """By the engine; several images at once, which the engine does not take, by the same steps."""
    if len(volumes) == 1:
        return Engine(resample, device="cpu", threads=1, precision=Precision.FP32).segment(package, volumes[0]).labels
    scene = Scene(volumes[0], resample, CPU, threads=1)
    (stage,) = package.manifest.stages
    geometry = volumes[0].geometry
    voxels = torch.from_numpy(np.stack([volume.voxels for volume in volumes]))
    picture = Picture(voxels, axis_letters(geometry), geometry.spacing_mm)
    for step in stage.before:
        picture = apply(step, picture, scene)
    network = package.manifest.networks["main"]
    demand = Demand(picture.shape, network, stage.windows, 1, 1.0)
    course = admit(demand, [CPU], lambda _: 1 << 40)
    forwards = [NamedForward("main", RUNNERS[network.runner](package, "main"))]
    return conclude(stage, say(stage, network, forwards, picture, course), picture, scene)


def ties(package: ModelPackage, volume: Volume) -> NDArray[np.bool_]:
    """The voxels of the scanner's grid that lie between two of the network's, to six digits."""
    picture = prepare(package.manifest.stages[0], Scene(volume, resample, CPU, threads=1))
    grid = np.indices(volume.geometry.shape).reshape(3, -1)
    places = (picture.from_source @ np.vstack([grid, np.ones(grid.shape[1])]))[:3]
    between = np.abs(places % 1 - 0.5) < TIE_VOXELS  # [axis, voxel]
    return np.asarray(between.any(axis=0), np.bool_).reshape(volume.geometry.shape)


@pytest.mark.parametrize("name", MONAI_CASES)
def test_a_bundle_modelled_on_a_published_one_says_what_monai_says(name: str, tmp_path: Path):
    case = oracle_case(name)
    package = installed(case, tmp_path)
    volumes = [nifti_volume(path) for path in case.input]
    found, expected = segmented(package, volumes), nifti_labels(case.labels)
    assert len(np.unique(expected)) > 1
    differing = found != expected
    is_oblique = np.count_nonzero(np.abs(volumes[0].geometry.directions) > TIE_VOXELS) > 3
    if is_oblique and differing.any():
        assert not (differing & ~ties(package, volumes[0])).any()
        assert differing.mean() < 1e-3
    else:
        assert np.count_nonzero(differing) == 0


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An axial series with structures of every size, smaller than a window along one axis."""
    generator = np.random.default_rng(5)
    coarse = torch.from_numpy(generator.normal(size=(1, 1, 5, 7, 6)))
    smooth = torch.nn.functional.interpolate(coarse, (14, 40, 36), mode="trilinear")[0, 0].numpy()
    voxels = (smooth * 300 + generator.normal(size=smooth.shape) * 40).clip(-1000, 2000).astype(np.int16)
    voxels[:, :3] = -1000
    affine = np.array([[0.0, 0, 1.25, -20], [0, 1.25, 0, 31.5], [2.5, 0, 0, 100], [0, 0, 0, 1]])
    identity = SeriesIdentity(seed="monai-parity")
    geometry = Geometry(affine, (14, 40, 36), identity.frame_of_reference_uid)
    folder = tmp_path_factory.mktemp("series")
    write_series(build_ct_slices(voxels, geometry, identity), folder)
    return folder


def parsed(bundle: Path) -> tuple[ConfigParser, torch.nn.Module]:
    """MONAI's parser of a bundle that reads series with pydicom, and its network with the bundle's weights."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    parser["device"] = "cpu"
    parser["bundle_root"] = str(bundle)  # where SaveImaged writes
    parser["preprocessing#transforms#0#reader"] = "PydicomReader"
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    return parser, network.eval()


@torch.inference_mode()
def balance(bundle: Path, series: Path) -> None:
    """Shift the random weights of a bundle so that each of its two classes has half of the voxels."""
    parser, network = parsed(bundle)
    image = parser.get_parsed_content("preprocessing")({"image": str(series)})["image"]
    logits = parser.get_parsed_content("inferer")(image[None], network)[0].as_tensor()
    weights = network.state_dict()
    last = [name for name, tensor in weights.items() if name.endswith("bias") and tensor.shape == (2,)][-1]
    weights[last] += torch.tensor([1.0, 0.0]) * (logits[1] - logits[0]).median()
    torch.save(weights, bundle / "models/model.pt")


@torch.inference_mode()
def said_by_monai(bundle: Path, series: Path) -> Labels:
    """The labels [slice, row, column] by MONAI's own parser, reader, transforms and inferer."""
    parser, network = parsed(bundle)
    image = parser.get_parsed_content("preprocessing")({"image": str(series)})["image"]
    pred = image.clone()
    pred.set_array(parser.get_parsed_content("inferer")(image[None], network)[0].as_tensor())
    answer = parser.get_parsed_content("postprocessing")({"image": image, "pred": pred})["pred"]
    return answer[0].numpy().astype(np.int64).transpose(2, 1, 0)


def said_here(bundle: Path, series: Path, store: Path) -> Labels:
    (found,) = series_from_paths([series]).series
    return segmented(package_of(bundle, store, BundleOptions(name="bundle")), [assemble(inspect(found))])


ARGMAX, SOFTMAX = answer_transform("AsDiscreted", argmax=True), answer_transform("Activationsd", softmax=True)
RAS = transform("Orientationd", axcodes="RAS")
SPACING = transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear")
RANGE = transform("ScaleIntensityRanged", a_min=-300, a_max=500, b_min=0.0, b_max=1.0, clip=True)
WINDOWS: Config = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5, "mode": "gaussian"}

MARGIN: Config = {"margin": 2, "allow_smaller": True}
BEYOND: Config = {"margin": 3, "allow_smaller": False, "k_divisible": 4}

BUNDLES: dict[str, tuple[list[Config], Config, list[Config]]] = {
    "scores come back, then they are decided": (
        [RAS, SPACING, RANGE],
        WINDOWS,
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "scores come back as logits": ([RAS, SPACING, RANGE], WINDOWS, [invert(nearest=False), SOFTMAX, ARGMAX]),
    "scores come back from the nearest voxel": (
        [RAS, SPACING, RANGE],
        WINDOWS,
        [SOFTMAX, invert(nearest=True), ARGMAX],
    ),
    "labels come back": ([RAS, SPACING, RANGE], WINDOWS, [SOFTMAX, ARGMAX, invert(nearest=True)]),
    "whole-volume intensities, edges repeated": (
        [
            RAS,
            SPACING,
            transform("NormalizeIntensityd", nonzero=True),
            transform("ScaleIntensityd", minv=-1.0, maxv=1.0),
        ],
        {**WINDOWS, "padding_mode": "replicate", "overlap": 0.25},
        [ARGMAX, invert(nearest=True)],
    ),
    "percentiles and a threshold": (
        [
            RAS,
            transform("ThresholdIntensityd", threshold=-200, above=True, cval=-200),
            transform("ScaleIntensityRangePercentilesd", lower=2, upper=98, b_min=-1, b_max=1, clip=True),
            SPACING,
        ],
        {**WINDOWS, "mode": "constant", "cval": -1.0},
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "cropped to the foreground in between": (
        [
            RAS,
            SPACING,
            transform("CropForegroundd", source_key="image", select_fn="$lambda x: x > 400", **MARGIN),
            RANGE,
        ],
        WINDOWS,
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "cropped with a margin beyond the volume": (
        [RAS, SPACING, transform("CropForegroundd", source_key="image", select_fn="$lambda x: x > 0", **BEYOND), RANGE],
        WINDOWS,
        [SOFTMAX, ARGMAX, invert(nearest=True)],
    ),
    "resampled and cropped before it is turned": (
        [
            transform("Spacingd", pixdim=[1.37, 1.61, 2.03]),
            transform("CropForegroundd", source_key="image"),
            RANGE,
            RAS,
        ],
        WINDOWS,
        [ARGMAX, invert(nearest=True)],
    ),
    "never turned": ([transform("Spacingd", pixdim=[1.5, 1.5, 2.0]), RANGE], WINDOWS, [ARGMAX, invert(nearest=True)]),
    "turned to other letters, coarser": (
        [transform("Orientationd", axcodes="PLI"), transform("Spacingd", pixdim=[2.0, 3.1, 3.3]), RANGE],
        {**WINDOWS, "sigma_scale": 0.2},
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "padded, in one piece": (
        [RAS, SPACING, RANGE, transform("DivisiblePadd", k=8)],
        {"_target_": "SimpleInferer"},
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "padded to a size, by repeating": (
        [RAS, SPACING, RANGE, transform("SpatialPadd", spatial_size=[48, 40, 32], mode="replicate")],
        {"_target_": "SimpleInferer"},
        [ARGMAX, invert(nearest=True)],
    ),
    "at that spacing already, nearly": (
        [RAS, transform("Spacingd", pixdim=[1.2504, 1.2496, 2.5004]), RANGE],
        WINDOWS,
        [SOFTMAX, invert(nearest=False), ARGMAX],
    ),
    "holes filled": (
        [RAS, SPACING, RANGE],
        WINDOWS,
        [ARGMAX, answer_transform("FillHolesd", applied_labels=[1]), invert(nearest=True)],
    ),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_on_a_dicom_series_says_what_monai_says_of_the_same_files(name: str, series: Path, tmp_path: Path):
    transforms, inferer, answers = BUNDLES[name]

    def change(config: Config) -> None:
        loading = [transform("LoadImaged"), transform("EnsureChannelFirstd")]
        config["preprocessing"] = compose(*loading, *transforms)
        config["inferer"] = inferer
        config["postprocessing"] = compose(*answers)

    bundle = write_bundle(tmp_path / "bundle", change)
    balance(bundle, series)
    expected = said_by_monai(bundle, series)
    assert 0.1 < np.count_nonzero(expected) / expected.size < 0.9
    assert np.count_nonzero(said_here(bundle, series, tmp_path) != expected) == 0


def test_the_comparison_notices_a_bundle_that_is_another(series: Path, tmp_path: Path):
    bundle = write_bundle(tmp_path / "bundle")
    balance(bundle, series)
    expected = said_by_monai(bundle, series)
    config = inference_config()
    config["inferer"]["overlap"] = 0.25
    (bundle / "configs/inference.json").write_text(json.dumps(config))
    assert np.count_nonzero(said_here(bundle, series, tmp_path) != expected) > 0
