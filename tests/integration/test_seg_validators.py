"""dicom3tools find no error in a result, neither in the object nor between it and its source series."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.encoding import check_seg, encode_seg
from dicomnode.imaging import Segmentation
from tests.chaos_liver import chaos_liver_case
from tests.encoding_cases import STRUCTURES, Case, affine, axial, blobs, build_case, oblique, tilted
from tests.peers import program


def complaints(*command: str) -> list[str]:
    """The lines in which a dicom3tools program reports an error."""
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    return [line for line in said if "Error" in line or "error" in line.lower().split(" - ")[0]]


def assert_valid(case: Case, folder: Path) -> None:
    seg = encode_seg(case.segmentation, case.sources, case.request, folder / "seg.dcm")
    assert complaints("dciodvfy", "-new", str(seg.path)) == []
    assert complaints("dcentvfy", str(seg.path), *map(str, case.sources.values())) == []


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        pytest.param(axial(), (10, 12, 8), id="axial"),
        pytest.param(affine(oblique()), (10, 12, 8), id="oblique"),
        pytest.param(affine(tilted()), (10, 12, 8), id="tilted gantry"),
        pytest.param(axial((3.0, 0.5, 1.25)), (10, 7, 9), id="frames that end in the middle of a byte"),
    ],
)
def test_a_result_is_valid(grid: NDArray[np.float64], shape: tuple[int, int, int], tmp_path: Path) -> None:
    assert_valid(build_case(tmp_path / "ct", grid, blobs(shape)), tmp_path)


def test_a_result_with_a_single_segment_is_valid(tmp_path: Path) -> None:
    liver = (replace(STRUCTURES[1], number=1),)
    labels = np.where(blobs() == 2, 2, 0).astype(np.uint8)
    assert_valid(build_case(tmp_path / "ct", labels=labels, segments=liver), tmp_path)


def test_a_result_with_texts_at_their_limits_is_valid(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct", segments=(replace(STRUCTURES[0], name="N" * 64), *STRUCTURES[1:]))
    old = case.segmentation
    model = replace(old.model, title="A very long title " * 6, version="1.0.0+" + "build" * 20)
    segmentation = Segmentation(old.labels, old.geometry, old.sources, old.segments, model)
    assert_valid(Case(segmentation, case.sources, case.request), tmp_path)


def test_the_validator_notices_an_object_that_is_not_valid(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    broken = seg.path.read_bytes().replace(b"BINARY", b"BANANA")
    seg.path.write_bytes(broken)
    assert complaints("dciodvfy", "-new", str(seg.path)) != []


def test_a_result_on_a_real_series_is_valid_and_passes_the_gate(tmp_path: Path) -> None:
    case = chaos_liver_case()
    assert_valid(case, tmp_path)
    check_seg(tmp_path / "seg.dcm", case.segmentation, case.sources, case.request)
