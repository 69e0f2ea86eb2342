"""Programs (TorchScript, ONNX) are tried when they are imported: what cannot answer is never installed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported
from dicomnode.inference.device import errors_of_the_device
from dicomnode.inference.forwarding import of_slices
from dicomnode.inference.runners.onnx import read_onnx
from dicomnode.inference.runners.torchscript import read_torchscript
from dicomnode.models.manifest import Memory
from dicomnode.models.stages import Network, Windows

_READERS: Mapping[str, Callable[[bytes, Network, str], torch.nn.Module]] = {
    "torchscript": read_torchscript,
    "onnx": read_onnx,
}
_PROBE_VOXELS = 64  # along each axis, where the manifest gives no window
_PROC = Path("/proc/self")


def tried(imported: Imported, source: str) -> Imported:
    """The same after each program of it answered a window of zeros; with the memory that took, where nothing says it.

    Args:
        imported: a package, of whatever networks.
        source: what it was imported from, for errors.

    Raises:
        ModelError: a program cannot be loaded, or does not answer as the manifest says.
    """
    manifest = imported.manifest
    largest = 0.0
    for stage in manifest.stages:
        for name in stage.networks:
            network = manifest.networks[name]
            if network.runner in _READERS:
                content, where = imported.files[network.file], f"{source}: networks.{name}"
                largest = max(largest, _try(content, network, stage.windows, where))
    if largest and manifest.memory is None:
        manifest = manifest.model_copy(update={"memory": Memory(bytes_per_voxel=largest)})
    return replace(imported, manifest=manifest)


@torch.inference_mode()
def _try(content: bytes, network: Network, windows: Windows, where: str) -> float:
    """Bytes per voxel of the window that were taken at the highest, beside the weights; 0 where none were seen."""
    program = _READERS[network.runner](content, network, where)
    forward = program if network.dimensions == 3 else of_slices(program)
    shape = _probe(network, windows)
    window = torch.zeros((1, network.in_channels, *shape))
    before = _peak_bytes(anew=True)
    try:
        with errors_of_the_device("a trial"):
            _require_finite(forward(window))
    except ModelError as error:
        raise ModelError(f"{where}.file {network.file!r}: {error}") from error
    return max(0, _peak_bytes(anew=False) - before) / math.prod(shape)


def _require_finite(logits: torch.Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise ModelError("expected finite logits for a window of zeros, found NaN or infinity")


def _probe(network: Network, windows: Windows) -> tuple[int, ...]:
    if not isinstance(windows.patch, str):
        return windows.patch if network.dimensions == 3 else (1, *windows.patch)
    side = windows.multiple * -(-_PROBE_VOXELS // windows.multiple)
    return (side, side, side) if network.dimensions == 3 else (1, side, side)


def _peak_bytes(*, anew: bool) -> int:
    """The most memory that this process had resident; `anew`: from now on, and it is what it has now."""
    try:
        if anew:
            (_PROC / "clear_refs").write_text("5")  # resets the peak (Linux, proc(5))
        lines = (_PROC / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
