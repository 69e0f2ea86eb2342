"""The engine on a CUDA device gives what it gives on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.errors import Unavailable
from dicomnode.imaging import Geometry, SampledVolume
from dicomnode.inference import Inference, Precision
from dicomnode.models import ModelPackage
from tests.toy_models import Document, toy_engine, toy_manifest, upright_geometry, volume_on, write_package

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this host has none")


def case(folder: Path, window: object) -> tuple[ModelPackage, SampledVolume, Geometry]:
    manifest: Document = {**toy_manifest(), "verified": {"fp16": 0.9995}}
    manifest["stages"][0]["windows"]["patch"] = window
    grid = upright_geometry((40, 50, 60), (3.0, 2.0, 1.5))
    voxels = np.random.default_rng(0).normal(0, 400, grid.shape).astype(np.int16)
    return (
        write_package(folder, manifest),
        SampledVolume(voxels, grid),
        upright_geometry((60, 80, 90), (2.0, 1.25, 1.0)),
    )


def run(case: tuple[ModelPackage, SampledVolume, Geometry], **options: object) -> Inference:
    package, sampled, source = case
    return toy_engine(sampled, **options).segment(package, volume_on(source))


@pytest.mark.parametrize("window", ["whole", [24, 24, 24]])
@pytest.mark.parametrize("precision", [Precision.FP32, None])
def test_labels_are_those_of_the_cpu(tmp_path: Path, window: object, precision: Precision | None) -> None:
    given = case(tmp_path, window)
    expected = run(given).labels
    found = run(given, device="auto", precision=precision)
    assert found.stages[0].device.startswith("cuda")
    assert (found.labels != expected).mean() < (0.01 if precision is None else 0.0005)


def test_the_same_input_gives_the_same_labels(tmp_path: Path) -> None:
    package, sampled, source = case(tmp_path, [24, 24, 24])
    engine = toy_engine(sampled, device="cuda")
    first, second = (engine.segment(package, volume_on(source)).labels for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_gpu_memory_that_others_hold_is_worth_another_try(tmp_path: Path) -> None:
    package, sampled, source = case(tmp_path, [24, 24, 24])
    engine = toy_engine(sampled, device="cuda")
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        torch.cuda.empty_cache()
        with pytest.raises(Unavailable, match="GPU memory"):
            engine.segment(package, volume_on(source))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.segment(package, volume_on(source)).labels.any()
