"""What `dicomnode bench` works on: a procedural CT series, and a model package with random weights."""

import hashlib
from collections.abc import Callable, Mapping

import jpeg_ls
import numpy as np
import torch
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from safetensors.torch import save

from dicomnode.demo.bench_place import CLASSES, ENCODINGS, Place, Size, model_of
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from dicomnode.inference.networks import NETWORKS
from dicomnode.models.manifest import parse_manifest
from dicomnode.training.phantoms import build_torso_ct

SEED = 20260
AIR_HU = -1024
_ENCODERS: Mapping[str, Callable[[NDArray[np.int16]], bytes]] = {
    "jls": lambda stored: bytes(jpeg_ls.encode_array(stored.view(np.uint16))),  # JPEG-LS knows no sign
    "j2k": encode_array,
}
STRUCTURES = (("Liver", "10200004"), ("Spleen", "78961009"), ("Kidney", "64033007"), ("Bone", "272673000"))

MANIFEST = """\
format = 2
name = "{name}"
version = "1.0.0"
title = "Random weights for the benchmark"
intended_use = "Measuring time and memory"
diagnostic = false
provenance = "Random weights; what it says has no meaning"
# Not so, as the benchmark shows: these weights draw noise, whose classes are nearly equal everywhere.
verified = {{ bf16 = 0.999, fp16 = 0.999 }}

[licence]
name = "MIT"

[digests]
"weights.safetensors" = "{sha256}"

[input]
modalities = ["CT"]

[networks.unet]
name = "UNet"
in_channels = 1
out_channels = {classes}
[networks.unet.arguments]
spatial_dims = 3
in_channels = 1
out_channels = {classes}
channels = [16, 32, 64, 128, 256]
strides = [2, 2, 2, 2]
num_res_units = {units}

[[stages]]
networks = ["unet"]
before = [
    {{ step = "orient", axes = "SPL" }},
    {{ step = "crop-foreground", above = -500.0, margin = 8 }}, # the box of the body
    {{ step = "resample", spacing_mm = [1.5, 1.5, 1.5] }},
    {{ step = "pad", at_least = [96, 96, 96], value = -1024 }},
    {{ step = "channels", views = [{{ clip = [-1000.0, 1000.0], to = [-1.0, 1.0] }}] }},
]
windows = {{ patch = [96, 96, 96], overlap = 0.25 }}
after = [
    {{ step = "activate", function = "softmax" }},
    {{ step = "back", order = 1 }},
    {{ step = "decide" }},
]
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


def write_compressed(place: Place) -> None:
    """Write the series again, losslessly compressed in each encoding."""
    for encoding, syntax in ENCODINGS.items():
        folder = place.compressed_folder(encoding)
        folder.mkdir()
        for path in place.series_folder.iterdir():
            ds = dcmread(path)
            ds.PixelData = encapsulate([_ENCODERS[encoding](ds.pixel_array)])
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = UID(syntax)
            ds.save_as(folder / path.name)


def write_model(place: Place, classes: int = CLASSES) -> None:
    """Write the package: MONAI's UNet with channels 16 to 256 as it is initialised, from a fixed seed.

    With many classes it has no residual units.
    """
    name = model_of(classes)
    text = MANIFEST + "".join(
        SEGMENT.format(number=number, name=name, code=code) for number, (name, code) in enumerate(STRUCTURES, 1)
    )
    values = {"name": name, "classes": classes, "units": 2 if classes == CLASSES else 0}  # or minutes go into the last
    described = parse_manifest(text.format(**values, sha256="0" * 64), "bench").networks["unet"]
    torch.manual_seed(SEED)
    network = NETWORKS[described.name](**described.arguments)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    home = place.models / name
    home.mkdir(parents=True)
    (home / "weights.safetensors").write_bytes(weights)
    manifest = text.format(**values, sha256=hashlib.sha256(weights).hexdigest())
    (home / "manifest.toml").write_text(manifest, encoding="utf-8")


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
