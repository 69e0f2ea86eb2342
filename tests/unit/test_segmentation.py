"""A segmentation counts its voxels once and tells everybody the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomnode.imaging import CodedConcept, Geometry, Segment, Segmentation, SliceSource
from tests.encoding_cases import ANATOMY, MODEL, axial

Labels = NDArray[np.uint8] | NDArray[np.uint16]


def structures(*labels: tuple[int, ...]) -> tuple[Segment, ...]:
    code = CodedConcept("1", "SCT", "Structure")
    return tuple(Segment(n, f"Structure {n}", own, ANATOMY, code, None, (1, 2, 3)) for n, own in enumerate(labels, 1))


def segmentation(labels: Labels, segments: tuple[Segment, ...]) -> Segmentation:
    slices, rows, columns = labels.shape
    sources = tuple(SliceSource(f"1.2.{index}", "1.2") for index in range(slices))
    return Segmentation(labels, Geometry(axial(), (slices, rows, columns), "1.2.3"), sources, segments, MODEL)


@settings(deadline=None)
@given(st.sampled_from((3, 40)), st.booleans(), st.integers(0, 2**32 - 1))
def test_voxels_are_counted_as_they_stand_whatever_the_number_of_labels(highest: int, wide: bool, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, highest + 1, (3, 4, 5))
    labels = drawn.astype(np.uint16) if wide else drawn.astype(np.uint8)
    singles = tuple((label,) for label in range(1, highest + 1))
    found = segmentation(labels, structures(*singles, (1, 3), (2, 2)))
    for segment in found.segments:
        inside = np.isin(labels, segment.labels)
        assert found.voxels_by_slice(segment).tolist() == inside.sum(axis=(1, 2)).tolist()
        assert found.volumes_ml()[segment.name] == pytest.approx(inside.sum() * found.geometry.voxel_volume_ml)
    values, counts = np.unique(labels, return_counts=True)
    assert found.label_counts() == dict(zip(values.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("stranger", [7, 200])
@pytest.mark.parametrize("declared", [3, 40])
def test_a_label_that_no_segment_has_is_refused_and_named(stranger: int, declared: int) -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[1, 2, 3] = stranger
    singles = tuple((label,) for label in range(1, declared + 1) if label != stranger)
    with pytest.raises(ValueError, match=rf"found also \[{stranger}\]"):
        segmentation(labels, structures(*singles))


def test_a_label_beyond_what_the_array_can_hold_has_no_voxel() -> None:
    found = segmentation(np.ones((2, 3, 4), np.uint8), structures((1,), (300,)))
    assert found.voxels_by_slice(found.segments[1]).tolist() == [0, 0]


def test_its_labels_cannot_be_written() -> None:
    found = segmentation(np.zeros((2, 3, 4), np.uint8), structures((1,)))
    with pytest.raises(ValueError, match="read-only"):
        found.labels[0, 0, 0] = 1
