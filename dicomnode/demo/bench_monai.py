"""The peer of the whole inference: the same network and steps by MONAI's transforms, as MONAI Deploy chains them."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import CropForegroundd, SpatialPadd
from monai.transforms.intensity.dictionary import ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from dicomnode.demo.bench_place import MODEL, Detail, Place, Stopwatch
from dicomnode.inference.device import choose_threads
from dicomnode.inference.runners import RUNNERS
from dicomnode.models import ModelStore

_IMAGE, _SAID = "image", "said"
_WINDOW, _SPACING_MM, _BODY_HU = (96, 96, 96), (1.5, 1.5, 1.5), -500.0


def measure_monai(place: Place, watch: Stopwatch) -> Detail:
    """Files to labels on the scanner's grid, in FP32; processor seconds of each part."""
    network = RUNNERS["monai"](ModelStore([place.models]).package(MODEL), "unet")
    torch.set_num_threads(choose_threads(0))
    parts: dict[str, float] = {}
    before = _before()
    with watch, torch.inference_mode():
        with _timed("read", parts):
            shown: dict[str, Any] = LoadImaged(_IMAGE, reader="PydicomReader")({_IMAGE: str(place.series_folder)})
        with _timed("prepare", parts):
            shown = before(shown)  # pyright: ignore[reportAssignmentType]
        with _timed("windows", parts):
            batch: Any = sliding_window_inference(shown[_IMAGE][None], _WINDOW, 1, network, 0.25, "gaussian")
            shown[_SAID] = batch[0]
        with _timed("back", parts):
            shown = _behind(before)(shown)  # pyright: ignore[reportAssignmentType]
    return {"cpu_phases": parts, "shape": list(shown[_SAID].shape[1:]), "threads": torch.get_num_threads()}


def _before() -> Compose:
    """The steps of the model's manifest."""
    return Compose(
        [
            EnsureChannelFirstd(_IMAGE),
            Orientationd(_IMAGE, "SPL"),
            CropForegroundd(_IMAGE, _IMAGE, select_fn=_is_body, margin=8, allow_smaller=True),
            Spacingd(_IMAGE, _SPACING_MM, mode="bilinear"),
            ScaleIntensityRanged(_IMAGE, -1000, 1000, -1, 1, clip=True),
            SpatialPadd(_IMAGE, _WINDOW),
        ]
    )


def _behind(before: Compose) -> Compose:
    return Compose(
        [
            Activationsd(_SAID, softmax=True),
            Invertd(_SAID, before, _IMAGE, nearest_interp=False, to_tensor=True),
            AsDiscreted(_SAID, argmax=True),
        ]
    )


def _is_body(voxels: torch.Tensor) -> torch.Tensor:
    return voxels > _BODY_HU


@contextmanager
def _timed(part: str, parts: dict[str, float]) -> Generator[None]:
    start = time.process_time()
    yield
    parts[part] = round(time.process_time() - start, 3)
