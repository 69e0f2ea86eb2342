"""The oracle cases hold what the tests of the importers count on."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from tests.oracles import CASES, MONAI_CASES, NNUNET_CASES, oracle_case, read_image, write_case_series

every_case = pytest.mark.parametrize("name", [*NNUNET_CASES, *MONAI_CASES])
AS_SERIES = ("nnunet-ct-fullres", "nnunet-transpose", "nnunet-orientation", "monai-spleen", "monai-wholebody")


def test_the_cases_made_are_the_cases_that_tests_know():
    oracle_case(NNUNET_CASES[0])
    assert {folder.name for folder in CASES.glob("[!.]*")} == {*NNUNET_CASES, *MONAI_CASES}


@every_case
def test_labels_lie_on_the_grid_of_the_image_and_are_more_than_one(name: str):
    case = oracle_case(name)
    labels, image = read_image(case.labels), read_image(case.input[0])
    assert labels.voxels.shape == image.voxels.shape
    assert np.allclose(labels.affine, image.affine, atol=1e-3)
    assert len(np.unique(labels.voxels)) > 1


@every_case
def test_the_channels_of_an_image_share_one_grid_and_a_model_stands_beside_them(name: str):
    case = oracle_case(name)
    first = read_image(case.input[0])
    for path in case.input[1:]:
        assert np.array_equal(read_image(path).affine, first.affine)
    assert case.model.is_dir()
    assert case.about


def test_many_labels_need_more_than_eight_bits():
    labels = read_image(oracle_case("nnunet-300-labels").labels).voxels
    assert labels.dtype == np.uint16
    assert labels.max() > 255


def test_a_cascade_has_the_labels_of_both_its_networks():
    lowres, fullres = oracle_case("nnunet-cascade").stages
    assert (lowres.configuration, fullres.configuration) == ("3d_lowres", "3d_cascade_fullres")
    assert not np.array_equal(read_image(lowres.labels).voxels, read_image(fullres.labels).voxels)


@pytest.mark.parametrize("name", ["nnunet-ct-fullres", "nnunet-regions"])
def test_probabilities_are_one_volume_for_each_output(name: str):
    case = oracle_case(name)
    assert case.probabilities is not None
    probabilities = np.load(case.probabilities)["probabilities"]
    assert probabilities.shape[1:] == read_image(case.labels).voxels.shape
    assert 0 <= probabilities.min() < 0.1 < 0.9 < probabilities.max() <= 1


@pytest.mark.parametrize("name", AS_SERIES)
def test_an_image_written_as_a_series_is_the_same_image(name: str, tmp_path: Path):
    case = oracle_case(name)
    image = read_image(case.input[0])
    paths = write_case_series(case, tmp_path)
    series = SimpleITK.ReadImage([str(path) for path in paths])
    assert np.array_equal(SimpleITK.GetArrayFromImage(series), image.voxels)
    assert np.allclose(series.TransformIndexToPhysicalPoint((3, 4, 5)), image.affine[:3] @ (5, 4, 3, 1), atol=1e-3)


def test_a_left_handed_grid_is_no_series(tmp_path: Path):
    with pytest.raises(ValueError, match="slices along the acquisition normal"):
        write_case_series(oracle_case("nnunet-reorient"), tmp_path)
