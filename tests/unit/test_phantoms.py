"""The torsos that models are trained and demonstrated on."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.training.phantoms import Target, Tissue, build_anatomy, build_target_labels, build_torso_ct
from dicomnode.training.phantoms.canvas import Canvas

SEEDS = (3, 4)  # people who have all the organs: about one in twenty lacks a kidney or the spleen
Torso = tuple[NDArray[np.int16], NDArray[np.uint8]]


@pytest.fixture(scope="module", params=SEEDS)
def torso(request: pytest.FixtureRequest) -> Torso:
    return build_torso_ct(request.param)


def middle(labels: NDArray[np.uint8], target: Target) -> NDArray[np.float64]:
    """Centre of mass of a class as (slice, row, column)."""
    return np.argwhere(labels == target).mean(axis=0)


def test_the_same_seed_gives_the_same_voxels_and_labels() -> None:
    first, second = build_torso_ct(3, (6.0, 4.0, 4.0)), build_torso_ct(3, (6.0, 4.0, 4.0))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_another_seed_gives_another_person() -> None:
    assert (build_anatomy(3) != build_anatomy(4)).mean() > 0.05


def test_a_torso_is_int16_hu_with_uint8_labels_on_one_grid(torso: Torso) -> None:
    image, labels = torso
    assert image.dtype == np.int16
    assert labels.dtype == np.uint8
    assert image.shape == labels.shape
    assert image.min() >= -1024


def test_a_torso_has_every_class_and_no_other(torso: Torso) -> None:
    assert set(np.unique(torso[1])) == {int(target) for target in Target}


@pytest.mark.parametrize(
    ("right", "left"),
    [
        (Target.LIVER, Target.SPLEEN),
        (Target.RIGHT_LUNG, Target.LEFT_LUNG),
        (Target.RIGHT_KIDNEY, Target.LEFT_KIDNEY),
    ],
)
def test_columns_increase_towards_the_patients_left(torso: Torso, right: Target, left: Target) -> None:
    labels = torso[1]
    half = labels.shape[2] / 2
    assert middle(labels, right)[2] < half < middle(labels, left)[2]


def test_slices_increase_towards_the_head(torso: Torso) -> None:
    labels = torso[1]
    kidney, liver, lung = (
        middle(labels, target)[0] for target in (Target.RIGHT_KIDNEY, Target.LIVER, Target.RIGHT_LUNG)
    )
    assert kidney < liver < lung


def test_rows_increase_towards_the_back(torso: Torso) -> None:
    labels = torso[1]
    assert middle(labels, Target.LIVER)[1] < middle(labels, Target.RIGHT_KIDNEY)[1]


@pytest.mark.parametrize(
    ("target", "low", "high"),
    [
        (Target.BACKGROUND, -1024, -900),
        (Target.RIGHT_LUNG, -990, -500),
        (Target.LEFT_LUNG, -990, -500),
        (Target.BONE, 90, 1200),
        (Target.LIVER, -40, 180),
        (Target.SPLEEN, 0, 220),
    ],
)
def test_tissues_have_the_attenuation_of_their_kind(torso: Torso, target: Target, low: int, high: int) -> None:
    image, labels = torso
    assert low <= np.median(image[labels == target]) <= high


@pytest.mark.parametrize(
    ("target", "low_ml", "high_ml"),
    [
        (Target.LIVER, 700, 3500),
        (Target.SPLEEN, 40, 700),
        (Target.LEFT_KIDNEY, 60, 450),
        (Target.RIGHT_LUNG, 1000, 5000),
    ],
)
def test_organs_have_a_persons_volume(torso: Torso, target: Target, low_ml: float, high_ml: float) -> None:
    assert low_ml <= (torso[1] == target).sum() * 27 / 1000 <= high_ml


def test_a_finer_grid_shows_the_same_person() -> None:
    coarse = build_torso_ct(3)[1]
    fine = build_torso_ct(3, (3.0, 1.5, 1.5))[1]
    assert fine.shape == (coarse.shape[0], 2 * coarse.shape[1], 2 * coarse.shape[2])
    assert (fine[:, ::2, ::2] == coarse).mean() > 0.99


def test_the_table_is_background_and_gas_in_the_bowel_is_body() -> None:
    tissues = np.array([Tissue.TABLE, Tissue.GAS, Tissue.AIRWAY, Tissue.HEPATIC_VESSEL], np.uint8)
    labels = build_target_labels(tissues)
    assert labels.tolist() == [Target.BACKGROUND, Target.BODY, Target.BODY, Target.LIVER]


def test_a_blob_is_painted_where_its_millimetres_say() -> None:
    canvas = Canvas.blank()
    canvas.paint(canvas.blob((30.0, -60.0, 90.0), (9.0, 9.0, 9.0)), Tissue.LIVER)
    found = np.argwhere(canvas.tissues == Tissue.LIVER).mean(axis=0)
    np.testing.assert_allclose(
        found, (np.array(canvas.tissues.shape) - 1) / 2 + np.array((30.0, -60.0, 90.0)) / 3.0, atol=0.01
    )


def test_a_blob_turned_about_the_posterior_axis_leans_to_the_patients_left_at_its_top() -> None:
    canvas = Canvas.blank()
    canvas.paint(canvas.blob((0.0, 0.0, 0.0), (60.0, 9.0, 9.0), (0.0, 30.0, 0.0)), Tissue.SPLEEN)
    points = np.argwhere(canvas.tissues == Tissue.SPLEEN)
    top = points[points[:, 0] > points[:, 0].mean() + 8]
    assert top[:, 2].mean() > points[:, 2].mean() + 3
