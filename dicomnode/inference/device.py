"""Which device the networks run on, in which precision, and how much memory it has left."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Literal

import torch

from dicomnode.errors import DeviceLost, ModelError, Unavailable

DeviceName = Literal["auto", "cpu", "cuda"]
_WORST_ERROR = 0.05  # of a convolution in half precision, relative to its largest value


class Precision(StrEnum):
    """The number format that convolutions are computed in; weights and sums stay in FP32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def choose_device(name: DeviceName) -> torch.device:
    """The device to compute on; "auto" is CUDA where there is one.

    Raises:
        Unavailable: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise Unavailable('expected a CUDA device, found none; check the driver or set limits.device = "cpu"')
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_precision(device: torch.device) -> Precision:
    """FP16 on CUDA, BF16 on a CPU that computes with it, FP32 elsewhere and where half precision is broken."""
    if device.type == "cuda":
        candidate = Precision.FP16
    else:
        candidate = Precision.BF16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else Precision.FP32
    return candidate if _convolves_truly(device, candidate) else Precision.FP32


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a network computes in `precision`."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision is not Precision.FP32)


def choose_threads(threads: int) -> int:
    """So many threads; 0: one less than this process has cores, at least one.

    A second thread on a core that is busy costs more than it brings.
    """
    return threads or max(1, len(os.sched_getaffinity(0)) - 1)


def free_bytes(device: torch.device) -> int:
    """Memory that a computation on `device` may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def errors_of_the_device(doing: str) -> Generator[None]:
    """Translate what torch raises while `doing` something.

    Memory that is not there now may be there later: `Unavailable`, so that the job comes back. So does a CUDA
    device in a bad state, after the worker was started anew. Anything else would fail again: `ModelError`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Unavailable(f"{doing} needs more GPU memory than is free; wait, or use smaller windows") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(f"{doing} failed on the GPU: {_first_line(error)}; the worker starts anew") from error
    except MemoryError as error:
        raise Unavailable(f"{doing} needs more memory than is free; wait, or use smaller windows") from error
    except RuntimeError as error:  # torch's one class for everything else
        if "allocate memory" in str(error):  # DefaultCPUAllocator
            raise Unavailable(f"{doing} needs more memory than is free; wait, or use smaller windows") from error
        raise ModelError(f"{doing} failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def _convolves_truly(device: torch.device, precision: Precision) -> bool:
    """Whether a convolution in `precision` is near the same in FP32: some releases of torch have broken kernels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 16, 16, 16, 16, generator=generator).to(device)
    kernel = torch.randn(16, 16, 3, 3, 3, generator=generator).to(device)
    exact = torch.nn.functional.conv3d(image, kernel, padding=1)
    with autocast(device, precision):
        near = torch.nn.functional.conv3d(image, kernel, padding=1)
    return bool((near.float() - exact).abs().max() <= _WORST_ERROR * exact.abs().max())
