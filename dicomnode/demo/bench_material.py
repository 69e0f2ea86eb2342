"""What `dicomnode bench` works on: a procedural CT series, and a model package with random weights."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from dicomnode.demo.bench_place import MODEL, Place, Size
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from dicomnode.inference.networks import NETWORKS
from dicomnode.models.manifest import parse_manifest
from dicomnode.training.phantoms import build_torso_ct

SEED = 20260
AIR_HU = -1024
STRUCTURES = (("Liver", "10200004"), ("Spleen", "78961009"), ("Kidney", "64033007"), ("Bone", "272673000"))

MANIFEST = """\
format = 1
name = "{name}"
version = "1.0.0"
title = "Random weights for the benchmark"
licence = "MIT"
intended_use = "Measuring time and memory"
diagnostic = false
provenance = "Random weights; what it says has no meaning"
weights_sha256 = "{sha256}"

[input]
modalities = ["CT"]
orientation = "SPL"
spacing_mm = [1.5, 1.5, 1.5]
padding_multiple = 16
pad_value = -1024
channels = [{{ clip = [-1000.0, 1000.0], to = [-1.0, 1.0] }}]

[network]
name = "UNet"
[network.arguments]
spatial_dims = 3
in_channels = 1
out_channels = 5
channels = [16, 32, 64, 128, 256]
strides = [2, 2, 2, 2]
num_res_units = 2

[inference]
window = [96, 96, 96]
overlap = 0.25
"""

SEGMENT = """
[[segments]]
number = {number}
name = "{name}"
labels = [{number}]
category = ["91723000", "SCT", "Anatomical Structure"]
type = ["{code}", "SCT", "{name}"]
colour_rgb = [{number}0, 120, 160]
"""


def write_series_of(size: Size, place: Place) -> None:
    """Write the CT series."""
    voxels_hu = _torso(size)
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.diag([size.pixel_mm, size.pixel_mm, size.slice_mm]))
    identity = SeriesIdentity(f"bench {SEED}")
    geometry = Geometry(affine, (size.slices, size.rows, size.rows), identity.frame_of_reference_uid)
    write_series(build_ct_slices(voxels_hu, geometry, identity), place.series_folder)


def write_model(place: Place) -> None:
    """Write the package: MONAI's UNet with channels 16 to 256 as it is initialised, from a fixed seed."""
    text = MANIFEST + "".join(
        SEGMENT.format(number=number, name=name, code=code) for number, (name, code) in enumerate(STRUCTURES, 1)
    )
    described = parse_manifest(text.format(name=MODEL, sha256="0" * 64), "bench").network
    torch.manual_seed(SEED)
    network = NETWORKS[described.name](**described.arguments)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    home = place.models / MODEL
    home.mkdir(parents=True)
    (home / "weights.safetensors").write_bytes(weights)
    (home / "manifest.toml").write_text(
        text.format(name=MODEL, sha256=hashlib.sha256(weights).hexdigest()), encoding="utf-8"
    )


def _torso(size: Size) -> NDArray[np.int16]:
    """The middle of a procedural torso `[slice, row, column]` in HU, air around it."""
    whole_hu, _labels = build_torso_ct(SEED, (size.slice_mm, size.pixel_mm, size.pixel_mm))
    voxels_hu = np.full((size.slices, size.rows, size.rows), AIR_HU, np.int16)
    take, put = zip(
        *(_middles(have, want) for have, want in zip(whole_hu.shape, voxels_hu.shape, strict=True)), strict=True
    )
    voxels_hu[put] = whole_hu[take]
    return voxels_hu


def _middles(have: int, want: int) -> tuple[slice, slice]:
    """The middle of one axis: what to take of what there is, and where to put it."""
    common = min(have, want)
    first_taken, first_put = (have - common) // 2, (want - common) // 2
    return slice(first_taken, first_taken + common), slice(first_put, first_put + common)
