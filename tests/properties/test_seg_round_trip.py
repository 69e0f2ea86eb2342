"""Whatever the labels, the segments and the matrix: what is written is what is read, and nothing else passes."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from dicomnode.encoding import check_seg, encode_seg, has_findings, result_uids
from dicomnode.encoding.decoded import opened_seg
from dicomnode.encoding.frames import packed_bits
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import Segment, is_valid_uid
from tests.encoding_cases import ANATOMY, MODEL, STRUCTURES, Case, build_case

few = settings(max_examples=25, deadline=None)
text = st.text(st.characters(exclude_categories=("Cs",)))
Labels = NDArray[np.uint8]


@st.composite
def label_maps(draw: st.DrawFn) -> Labels:
    slices, rows, columns = draw(st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)))
    values = draw(st.binary(min_size=slices * rows * columns, max_size=slices * rows * columns))
    return (np.frombuffer(values, np.uint8) % 5).reshape(slices, rows, columns)


@st.composite
def structures(draw: st.DrawFn) -> tuple[Segment, ...]:
    """One to five segments, each the union of any of the labels 1 to 4, that together name them all."""
    unions = draw(st.lists(st.sets(st.integers(1, 4), min_size=1), min_size=0, max_size=4))
    drawn = [tuple(sorted(union)) for union in unions] + [(1, 2, 3, 4)]
    return tuple(
        Segment(number, f"Structure {number}", labels, ANATOMY, STRUCTURES[1].type, None, (200, 100, 50))
        for number, labels in enumerate(drawn, 1)
    )


@contextmanager
def encoded(labels: Labels, segments: tuple[Segment, ...]) -> Generator[tuple[Case, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        case = build_case(Path(folder) / "ct", labels=labels, segments=segments)
        assume(has_findings(case.segmentation))
        seg = encode_seg(case.segmentation, case.sources, case.request, Path(folder) / "seg.dcm")
        yield case, seg.path


@few
@given(label_maps(), structures())
def test_highdicom_reads_every_voxel_that_was_written(labels: Labels, segments: tuple[Segment, ...]) -> None:
    with encoded(labels, segments) as (case, path):
        check_seg(path, case.segmentation, case.sources, case.request)
        seg = hd.seg.segread(path)
        uids = [source.sop_instance_uid for source in case.segmentation.sources]
        found = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        names = [item.SegmentLabel for item in seg.SegmentSequence]
        for segment in segments:
            mask = case.segmentation.mask(segment)
            assert (segment.name in names) == mask.any()
            if mask.any():
                assert np.array_equal(found[..., names.index(segment.name)], mask)


@few
@given(label_maps(), structures(), st.data())
def test_any_one_pixel_altered_in_the_file_is_noticed(
    labels: Labels, segments: tuple[Segment, ...], data: st.DataObject
) -> None:
    with encoded(labels, segments) as (case, path):
        with opened_seg(path) as seg:
            pixels_at, bits = seg.pixels_at, int(seg.header.NumberOfFrames) * labels[0].size
        bit = data.draw(st.integers(0, bits - 1))
        content = bytearray(path.read_bytes())
        content[pixels_at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(ResultMismatch, match=r"voxels: .* found 1 others"):
            check_seg(path, case.segmentation, case.sources, case.request)


@settings(max_examples=60, deadline=None, phases=[Phase.generate])  # smaller damage would say no more
@given(st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_is_blocked_or_harmless_but_never_brings_the_check_down(data: st.DataObject) -> None:
    labels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5) % 5
    with encoded(labels, STRUCTURES) as (case, path):
        pixels = dcmread(path).pixel_array
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            check_seg(path, case.segmentation, case.sources, case.request)
        except ResultMismatch:
            return
        assert np.array_equal(dcmread(path).pixel_array, pixels)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=40), min_size=1, max_size=6))
def test_frames_of_any_size_are_packed_without_a_gap(frames: list[list[bool]]) -> None:
    packed = b"".join(packed_bits(np.array([frame]) for frame in frames))
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    flat = [bit for frame in frames for bit in frame]
    assert bits[: len(flat)].astype(bool).tolist() == flat
    assert not bits[len(flat) :].any()
    assert len(packed) == -(-len(flat) // 8)


@given(text, text, text)
def test_result_uids_are_valid_and_unlike(content: str, options: str, version: str) -> None:
    model = replace(MODEL, version=version)
    uids = result_uids(content, model, options, "seg")
    assert is_valid_uid(uids.series_uid)
    assert is_valid_uid(uids.instance_uid)
    assert uids.series_uid != uids.instance_uid
    assert uids == result_uids(content, model, options, "seg")
