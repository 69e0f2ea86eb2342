"""Networks that stay loaded on their device, within a budget of bytes; the least recently used goes first."""

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch

from dicomnode.inference.device import Precision, autocast
from dicomnode.inference.forwarding import of_slices
from dicomnode.inference.memory import measured_bytes_per_voxel
from dicomnode.inference.openvino_cpu import OPENVINO, TORCH, OpenVinoNetwork
from dicomnode.inference.prepared import prepare
from dicomnode.inference.runners import RUNNERS
from dicomnode.inference.runners.onnx import OnnxProgram
from dicomnode.models import ModelPackage
from dicomnode.models.stages import Stage

_PROGRAMS = ("torchscript", "onnx")  # of the runners


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network runs and how."""

    device: torch.device
    precision: Precision
    backend: str = TORCH


@dataclass(frozen=True, slots=True, eq=False)
class WarmNetwork:
    """A network of a package, ready to run."""

    module: torch.nn.Module
    place: Place
    weight_bytes: int

    @property
    def backend(self) -> str:
        """What computed its last answer."""
        return self.module.backend if isinstance(self.module, OpenVinoNetwork | OnnxProgram) else TORCH

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """A window `[n, channel, ...]` -> its logits."""
        with autocast(self.place.device, self.place.precision):
            return self.module(window)


class WarmNetworks:
    """Networks by package, name and place."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._networks: OrderedDict[tuple[str, str, Place], WarmNetwork] = OrderedDict()
        self._bytes_per_voxel: dict[tuple[str, str], float] = {}

    @property
    def count(self) -> int:
        """How many are loaded."""
        return len(self._networks)

    def network(self, package: ModelPackage, name: str, place: Place) -> WarmNetwork:
        """A network of a package at a place, loaded where it is not there yet.

        Raises:
            ModelError: the package is altered or wrong.
        """
        key = (f"{package.folder} {package.manifest.model_dump_json()}", name, place)
        if key not in self._networks:
            plain = self._networks.pop((*key[:2], replace(place, backend=TORCH)), None)  # not loaded twice
            loaded = _load(package, name, place, plain)
            self._make_room(loaded.weight_bytes)
            self._networks[key] = loaded
        self._networks.move_to_end(key)
        return self._networks[key]

    def bytes_per_voxel(self, package: ModelPackage, stage: Stage, place: Place) -> float:
        """What one forward takes per voxel of its window: as the package says, else measured once.

        0 for a program of which the package says nothing: it shows no layers, and its windows are of a given size.
        """
        if package.manifest.memory:
            return package.manifest.memory.bytes_per_voxel
        name = stage.networks[0]
        if package.manifest.networks[name].runner in _PROGRAMS:
            return 0.0
        key = (package.manifest.digest, name)
        if key not in self._bytes_per_voxel:
            network, warm = package.manifest.networks[name], self.network(package, name, place)
            probed = warm.module if network.dimensions == 3 else _OfSlices(warm.module)
            with autocast(place.device, place.precision):
                measured = measured_bytes_per_voxel(probed, network.in_channels, stage.windows)
            self._bytes_per_voxel[key] = measured
        return self._bytes_per_voxel[key]

    def _make_room(self, wanted: int) -> None:
        while self._networks and wanted + sum(n.weight_bytes for n in self._networks.values()) > self._most_bytes:
            self._networks.popitem(last=False)


class _OfSlices(torch.nn.Module):
    """A network of two dimensions that is shown volumes."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """`[1, channel, slice, row, column]` -> logits of the same layout."""
        return of_slices(self.module)(window)


def _load(package: ModelPackage, name: str, place: Place, plain: WarmNetwork | None) -> WarmNetwork:
    if plain is not None and place.backend == OPENVINO:
        return replace(plain, module=OpenVinoNetwork(plain.module), place=place)
    module = RUNNERS[package.manifest.networks[name].runner](package, name).to(place.device)
    if place.precision is not Precision.FP32:  # in FP32 the order of sums is that of the software it comes from
        module = prepare(module, place.device, place.precision)
    if place.backend == OPENVINO:
        module = OpenVinoNetwork(module)
    tensors = [*module.parameters(), *module.buffers()]
    return WarmNetwork(module, place, sum(tensor.numel() * tensor.element_size() for tensor in tensors))
