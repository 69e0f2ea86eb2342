"""What the steps of `dicomnode bench` share: where their files are, and how a step is measured."""

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.imaging import Series, Volume
from dicomnode.workspace import Workspace

MODEL, CLASSES = "bench-unet", 5
MANY_CLASSES = (25, 118)  # of the same network, for its memory
MIB = 1 << 20
Detail = Mapping[str, Any]
ENCODINGS: Mapping[str, str] = {"jls": "1.2.840.10008.1.2.4.80", "j2k": "1.2.840.10008.1.2.4.90"}  # both lossless


@dataclass(frozen=True, slots=True)
class Size:
    """The series that is measured: so many slices of so many rows and columns."""

    slices: int
    rows: int  # and columns
    slice_mm: float
    pixel_mm: float
    waiting: int  # series in the queue while the worker's memory is looked at
    routed: int  # of these by the time it is looked at


FULL = Size(slices=300, rows=512, slice_mm=1.0, pixel_mm=0.8, waiting=10_000, routed=20)
QUICK = Size(slices=60, rows=256, slice_mm=3.0, pixel_mm=1.6, waiting=500, routed=4)
SIZES: Mapping[str, Size] = {"full": FULL, "quick": QUICK}


def model_of(classes: int) -> str:
    """The name of the random-weight model of so many classes."""
    return MODEL if classes == CLASSES else f"{MODEL}-{classes}"


@dataclass(frozen=True, slots=True)
class Place:
    """The temporary folder of one run of the benchmark."""

    folder: Path
    size: Size

    @property
    def series_folder(self) -> Path:
        """The CT series, one file per slice."""
        return self.folder / "series"

    def compressed_folder(self, encoding: str) -> Path:
        """The same series in one of `ENCODINGS`."""
        return self.folder / encoding

    @property
    def models(self) -> Path:
        """The folder of the random-weight model package."""
        return self.folder / "models"

    @property
    def workspace(self) -> Workspace:
        """Where a step finds what the one before it made."""
        return Workspace(self.folder / "work")

    @property
    def voxels_path(self) -> Path:
        """The voxels of the assembled volume."""
        return self.folder / "voxels.npy"

    def read_series(self, folder: Path | None = None) -> Series:
        """The series as the offline command finds it; the uncompressed one unless another folder is named."""
        return series_from_paths([folder or self.series_folder]).series[0]

    def read_volume(self) -> Volume:
        """The assembled volume: its grid from the headers, its voxels from `voxels_path`, in memory."""
        inspection = inspect(self.read_series())
        return Volume(np.load(self.voxels_path, allow_pickle=False), inspection.geometry, inspection.sources)


class Stopwatch:
    """Seconds on the wall and of the processor (children's too) between `with` and its end; peak memory there."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = self.peak_mib = self.cpu_before_s = 0.0

    def __enter__(self) -> Self:
        self.cpu_before_s = _cpu_s()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.wall_s = time.perf_counter() - self._began
        self.cpu_s = _cpu_s() - self.cpu_before_s
        self.peak_mib = max(peak_mib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)

    def figures(self) -> dict[str, float]:
        """What was measured, rounded; `cpu_before_s` went into starting Python, imports and reading the input."""
        return {
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_mib": round(self.peak_mib, 1),
            "cpu_before_s": round(self.cpu_before_s, 3),
        }


def peak_mib(process: int | str = "self") -> float:
    """The most memory that a process has had in use at once, in MiB.

    Linux's VmHWM: other than ru_maxrss it does not begin with what the process that started it had in use.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
