"""dcmqi, which shares no code with ours, returns exactly the label map, wherever the patient lies."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.encoding import encode_seg
from tests.chaos_liver import chaos_liver_case
from tests.dcmqi import dcmqi_masks
from tests.encoding_cases import Case, affine, axial, blobs, build_case, image_orientations, oblique


def assert_dcmqi_agrees(case: Case, folder: Path) -> None:
    seg = encode_seg(case.segmentation, case.sources, case.request, folder / "seg.dcm")
    masks = dcmqi_masks(seg.path, folder / "dcmqi", case.segmentation.geometry)
    assert_same_voxels(case, masks)


def assert_same_voxels(case: Case, masks: Mapping[int, NDArray[np.bool_]]) -> None:
    assert list(masks) == [segment.number for segment in case.segmentation.segments]
    for segment in case.segmentation.segments:
        assert np.array_equal(masks[segment.number], case.segmentation.mask(segment)), segment.name


@pytest.mark.parametrize("last_slice_first", [False, True], ids=["along the normal", "against the normal"])
@pytest.mark.parametrize("name", image_orientations())
def test_in_each_of_the_48_axis_orientations(name: str, last_slice_first: bool, tmp_path: Path) -> None:
    grid = affine(image_orientations()[name])
    assert_dcmqi_agrees(build_case(tmp_path / "ct", grid, last_slice_first=last_slice_first), tmp_path)


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        pytest.param(affine(oblique()), (10, 12, 8), id="oblique"),
        pytest.param(axial((3.0, 0.5, 1.25)), (10, 12, 8), id="pixels that are not square"),
        pytest.param(axial(), (10, 7, 9), id="frames that end in the middle of a byte"),
        pytest.param(affine(oblique(), (1.25, 0.9765625, 0.9765625)), (9, 11, 13), id="oblique, odd matrix"),
    ],
)
def test_on_awkward_grids(grid: NDArray[np.float64], shape: tuple[int, int, int], tmp_path: Path) -> None:
    assert_dcmqi_agrees(build_case(tmp_path / "ct", grid, blobs(shape)), tmp_path)


def test_on_a_real_series(tmp_path: Path) -> None:
    case = chaos_liver_case()
    seg = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm")
    assert seg.omitted_segments == ("Left kidney", "Right kidney")
    masks = dcmqi_masks(seg.path, tmp_path / "dcmqi", case.segmentation.geometry)
    body, liver = case.segmentation.segments[:2]
    assert list(masks) == [1, 2]
    assert np.array_equal(masks[1], case.segmentation.mask(body))
    assert np.array_equal(masks[2], case.segmentation.mask(liver))
