"""Each step behind the network on answers that can be checked by eye."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms.post.array import FillHoles as MonaiFillHoles
from numpy.typing import NDArray
from pydantic import TypeAdapter

from dicomnode.assembly.resample import resample
from dicomnode.errors import ModelError
from dicomnode.inference import after
from dicomnode.inference.after import Answer, Found, Scores
from dicomnode.inference.scene import Scene
from dicomnode.models.after import AfterStep
from tests.toy_models import upright_geometry, volume_on

SHAPE = (6, 16, 16)
SPACING_MM = (2.0, 1.0, 1.0)
Step = dict[str, Any]
Labels = NDArray[np.uint8]
_STEPS: TypeAdapter[Any] = TypeAdapter(AfterStep)


def scene() -> Scene:
    return Scene(volume_on(upright_geometry(SHAPE, SPACING_MM)), resample, torch.device("cpu"), 1)


def done(answer: Answer, *steps: Step) -> Answer:
    for step in steps:
        answer = after.apply(_STEPS.validate_python(step), answer, scene())
    return answer


def labels_after(labels: Labels, *steps: Step) -> NDArray[np.generic]:
    found = done(Found(labels, (), SPACING_MM), *steps)
    assert isinstance(found, Found)
    return found.labels


def scores(values: list[list[float]]) -> Scores:
    """`[class][voxel]` in a row."""
    return Scores(torch.tensor(values).reshape(len(values), 1, 1, -1), (), SPACING_MM)


def row(answer: Answer) -> list[int]:
    assert isinstance(answer, Found)
    return [int(label) for label in answer.labels.ravel()]


def islands() -> Labels:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 2:8, 2:8] = 1
    labels[0, 12:14, 12:14] = labels[5, 15, 15] = 1
    labels[2:4, 10:12, 2:5], labels[3, 0, 0] = 2, 2
    return labels


def test_the_highest_score_wins_and_of_equals_the_first() -> None:
    given = scores([[0.0, 5.0, 1.0, -9.0], [1.0, 5.0, 0.5, -9.5], [0.5, 5.0, 1.5, -8.0]])
    assert row(done(given, {"step": "decide"})) == [1, 0, 2, 2]


def test_later_regions_are_written_over_earlier_ones() -> None:
    given = scores([[0.9, 0.9, 0.1, 0.5], [0.1, 0.8, 0.7, 0.2]])
    assert row(done(given, {"step": "decide", "rule": "regions", "values": [3, 1]})) == [3, 1, 1, 0]


def test_overlapping_regions_are_the_bits_of_a_label() -> None:
    given = scores([[0.9, 0.9, 0.1, 0.5], [0.1, 0.8, 0.7, 0.2], [0.6, 0.6, 0.1, 0.1]])
    assert row(done(given, {"step": "decide", "rule": "overlapping"})) == [0b101, 0b111, 0b010, 0]


@pytest.mark.parametrize("rule", [{"rule": "regions", "values": [1, 2]}, {"rule": "overlapping"}])
@pytest.mark.parametrize("before_back", [True, False])
def test_regions_are_thresholded_after_the_sigmoid_on_either_side_of_the_way_back(
    rule: Step, before_back: bool
) -> None:
    given = scores([[1e-3, -1e-3, 8.0, -8.0], [-4.0, 4.0, -4.0, 0.0]])
    activate, back = {"step": "activate", "function": "sigmoid"}, {"step": "back"}
    order = [activate, back] if before_back else [back, activate]
    assert row(done(given, *order, {"step": "decide", **rule})) == [1, 2, 1, 0]


def test_a_softmax_changes_no_winner() -> None:
    values = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    plain = done(Scores(values.clone(), (), SPACING_MM), {"step": "decide"})
    activated = done(Scores(values, (), SPACING_MM), {"step": "activate", "function": "softmax"}, {"step": "decide"})
    assert row(plain) == row(activated)


@pytest.mark.parametrize(("keep", "gone"), [(1, (2, 1)), (2, (1, 0)), (3, (0, 0))])
def test_so_many_of_the_largest_components_stay(keep: int, gone: tuple[int, int]) -> None:
    found = labels_after(islands(), {"step": "largest-components", "keep": {"1": keep, "2": keep}})
    expected = islands()
    expected[5, 15, 15] = 1 if gone[0] == 0 else 0
    expected[0, 12:14, 12:14] = 1 if gone[0] < 2 else 0
    expected[3, 0, 0] = 2 if gone[1] == 0 else 0
    np.testing.assert_array_equal(found, expected)


def test_a_label_that_is_not_named_keeps_its_islands() -> None:
    found = labels_after(islands(), {"step": "largest-components", "keep": {"2": 1}})
    np.testing.assert_array_equal(found == 1, islands() == 1)
    assert found[3, 0, 0] == 0


def test_the_largest_component_of_all_labels_is_one_of_any_labels() -> None:
    touching = islands()
    touching[1:5, 8, 2:8] = 2
    found = labels_after(touching, {"step": "largest-of-all"})
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:5, 2:8, 2:8], expected[1:5, 8, 2:8] = 1, 2
    np.testing.assert_array_equal(found, expected)


def test_holes_are_filled_as_monai_does() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[0:6, 1:9, 1:9], labels[2:4, 3:5, 3:5], labels[2, 6, 6], labels[3:6, 12:15, 12:15] = 1, 0, 2, 2
    labels[4, 13, 13] = 0
    found = labels_after(labels, {"step": "fill-holes", "labels": [1]})
    np.testing.assert_array_equal(found, np.asarray(MonaiFillHoles([1])(torch.from_numpy(labels)[None]))[0])
    assert (found[2, 3, 3], found[2, 6, 6], found[4, 13, 13]) == (1, 1, 0)


def test_what_is_smaller_than_its_volume_goes() -> None:
    # A voxel is 2 cubic millimetres: the components of label 1 have 0.288, 0.008 and 0.002 ml.
    found = labels_after(islands(), {"step": "minimum-volume", "volume_ml": {"1": 0.008}})
    assert int((found == 1).sum()) == 4 * 36 + 4
    assert found[5, 15, 15] == 0


def test_labels_are_exchanged_and_what_is_not_named_stays() -> None:
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert labels_after(labels, {"step": "relabel", "labels": {"1": 300, "2": 0, "9": 4}}).ravel().tolist() == [
        0,
        300,
        0,
        3,
    ]


def test_what_is_given_is_not_changed() -> None:
    labels = islands()
    steps: list[Step] = [
        {"step": "largest-components", "keep": {"1": 1}},
        {"step": "largest-of-all"},
        {"step": "fill-holes", "labels": [1]},
        {"step": "minimum-volume", "volume_ml": {"1": 1.0}},
    ]
    for step in steps:
        labels_after(labels, step)
    np.testing.assert_array_equal(labels, islands())


WRONG: dict[str, tuple[list[Step], str]] = {
    "labels before the decision": ([{"step": "largest-of-all"}], "'largest-of-all' expected labels, found scores"),
    "scores behind the decision": (
        [{"step": "decide"}, {"step": "activate", "function": "softmax"}],
        "'activate' expected scores, found labels",
    ),
    "two activations": ([{"step": "activate", "function": "sigmoid"}] * 2, "one step 'activate', found two"),
    "two ways back": ([{"step": "back"}, {"step": "back"}], "one step 'back', found two"),
    "a runner-up without probabilities": (
        [{"step": "largest-components", "keep": {"1": 1}, "rest": "runner-up"}],
        r"between 'activate' \(softmax\) and 'back'",
    ),
    "values that are not the regions'": (
        [{"step": "decide", "rule": "regions", "values": [1]}],
        "one for each of 2 regions, found 1",
    ),
    "regions of a softmax behind the way back": (
        [{"step": "back"}, {"step": "activate", "function": "softmax"}, {"step": "decide", "rule": "overlapping"}],
        "expected softmax before 'back'",
    ),
}


@pytest.mark.parametrize(("steps", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_steps_that_do_not_fit_each_other_are_refused(steps: list[Step], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        done(scores([[0.0, 1.0], [1.0, 0.0]]), *steps)


def test_more_overlapping_regions_than_a_label_has_bits_are_refused() -> None:
    with pytest.raises(ModelError, match="up to 15 overlapping regions, found 16"):
        done(scores([[1.0]] * 16), {"step": "decide", "rule": "overlapping"})
