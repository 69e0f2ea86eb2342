"""OpenVINO in place of torch on a CPU: the same labels, and torch again where it does not do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.inference import Engine, Precision, openvino_cpu
from dicomnode.inference.networks import NETWORKS
from dicomnode.inference.openvino_cpu import OPENVINO, TORCH, OpenVinoNetwork
from dicomnode.models import ModelPackage
from tests.toy_models import Document, toy_engine, toy_manifest, toy_stage, upright_geometry, volume_on, write_package

ARGUMENTS: Document = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [8, 16, 32],
    "strides": [2, 2],
    "num_res_units": 2,
    "norm": "instance",
}
SHAPE = (64, 64, 64)
VOXELS = np.random.default_rng(3).integers(-900, 900, SHAPE).astype(np.int16)


def needs_openvino() -> None:
    if openvino_cpu.library() is None:
        pytest.skip("OpenVINO is not installed: pip install 'dicomnode[openvino]'")


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return NETWORKS["UNet"](**ARGUMENTS).eval()


def windowed(folder: Path, patch: int = 32) -> ModelPackage:
    """A network of three classes in windows of the volume's own voxels."""
    before = [{"step": "orient", "axes": "SPL"}, {"step": "scale", "source": [-1000.0, 1000.0], "to": [-1.0, 1.0]}]
    stage = {**toy_stage(), "before": before, "windows": {"patch": [patch] * 3, "overlap": 0.25}}
    table = {"name": "UNet", "arguments": ARGUMENTS, "in_channels": 1, "out_channels": 3}
    document = {**toy_manifest(), "networks": {"toy": table}, "stages": [stage]}
    return write_package(folder, document, network().state_dict())


def engine() -> Engine:
    """As the node makes one: no precision is asked for, and the toy is verified in none."""
    return toy_engine(precision=None)


def said(used: Engine, package: ModelPackage) -> tuple[np.ndarray, str]:
    found = used.segment(package, volume_on(upright_geometry(SHAPE, (2.0, 2.0, 2.0)), VOXELS))
    return found.labels, found.stages[0].backend


def test_without_openvino_torch_computes_and_the_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert said(engine(), windowed(tmp_path))[1] == TORCH


def test_with_openvino_the_labels_are_those_of_torch_and_the_same_twice(tmp_path: Path):
    needs_openvino()
    package, used = windowed(tmp_path), engine()
    exact, backend = said(toy_engine(precision=Precision.FP32), package)
    assert backend == TORCH
    found, backend = said(used, package)
    assert backend == OPENVINO
    assert np.count_nonzero(found != exact) <= 1e-4 * exact.size
    assert len(np.unique(exact)) > 1
    np.testing.assert_array_equal(said(used, package)[0], found)
    np.testing.assert_array_equal(said(engine(), package)[0], found)


def test_openvino_is_not_bothered_for_a_few_windows(tmp_path: Path):
    needs_openvino()
    assert said(engine(), windowed(tmp_path, patch=64))[1] == TORCH


def test_openvino_does_not_report_to_its_makers():
    needs_openvino()
    assert sys.modules["openvino_telemetry"] is None


class Unconvertible(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x[..., :2, :2]).real.sum() + x


class Fickle(torch.nn.Module):
    """What is traced is not what it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        return x * (2.0 if is_traced else 1.0)


@pytest.mark.parametrize("module", [Unconvertible, Fickle])
def test_what_openvino_cannot_say_alike_is_computed_by_torch(module: type[torch.nn.Module]):
    needs_openvino()
    used, window = OpenVinoNetwork(module().eval()), torch.linspace(-1, 1, 64).reshape(1, 1, 4, 4, 4)
    for _ in range(2):
        torch.testing.assert_close(used(window), module()(window))
    assert used.backend == TORCH


def test_windows_of_several_shapes_are_each_computed_right():
    needs_openvino()
    exact = network()
    used = OpenVinoNetwork(network())
    with torch.inference_mode():
        for side in (8, 12, 16, 20, 24, 8):
            window = torch.randn(1, 1, side, side, side, generator=torch.Generator().manual_seed(side))
            torch.testing.assert_close(used(window), exact(window), atol=1e-3, rtol=1e-3)
    assert used.backend == OPENVINO
