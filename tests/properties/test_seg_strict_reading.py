"""Whatever the bytes: the strict reader and the writer's quick one read them as pydicom does, or not at all."""

import tempfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.encoding import encode_seg, strict
from dicomnode.encoding.damage import UNPARSEABLE
from dicomnode.encoding.decoded import opened_seg
from dicomnode.encoding.frame_groups import PER_FRAME_GROUPS, frame_by_pydicom, read_frames
from dicomnode.encoding.outline import leading_elements, read_outline
from dicomnode.encoding.sources import read_source_headers
from dicomnode.encoding.strict import Malformed
from dicomnode.errors import NodeError
from dicomnode.imaging import SliceSource
from tests.encoding_cases import build_case

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Bytes altered, cut out, put in or repeated, at one to three places."""
    kinds = st.sampled_from(("set", "set", "set", "cut", "put", "copy"))
    some_bytes = st.one_of(st.sampled_from((b"0", b"1", b"9", b".", b" ", b"\\")), st.binary(min_size=1, max_size=12))
    steps = draw(st.lists(st.tuples(kinds, st.floats(0, 1), some_bytes), min_size=1, max_size=3))

    def damage(content: bytes) -> bytes:
        for kind, place, some in steps:
            at = int(place * len(content))
            behind = at if kind == "put" else at + len(some)
            put = {"set": some, "cut": b"", "put": some, "copy": content[at : at + len(some)] * 2}[kind]
            content = content[:at] + put + content[behind:]
        return content

    return damage


@cache
def good_frames() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        case = build_case(Path(folder) / "ct")
        path = encode_seg(case.segmentation, case.sources, case.request, Path(folder) / "seg.dcm").path
        with opened_seg(path) as seg:
            return b"".join(list(_item_bytes(seg.sequence_bytes(PER_FRAME_GROUPS)))[:3])


def _item_bytes(value: bytes) -> list[bytes]:
    return [b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item for item in strict.items(value)]


@many
@given(damages())
def test_damaged_frames_are_refused_or_read_as_pydicom_reads_them(damage: Damage) -> None:
    value = damage(good_frames())
    try:
        frames = read_frames(value)
    except Malformed:
        return
    assert frames == [frame_by_pydicom(item) for item in strict.items(value)]


@given(st.binary(max_size=80))
@example(b"\xfe\xff\x00\xe0\xff\xff\xff\xff")
@example(b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 3)
def test_arbitrary_bytes_are_refused_or_read(value: bytes) -> None:
    try:
        frames = read_frames(value)
    except Malformed:
        return
    assert (frames, value) == ([], b"")


decimal = st.one_of(
    st.floats(-3000, 3000).map(lambda v: f"{v:.6g}"),
    st.floats(-3000, 3000).map(repr),  # longer than a DS may be
    st.sampled_from(["0", "-0.0", "+1.5", " 2.50 ", "008.000000E+00", "1e2", ".5", "7.", "1,5", "", "x", "nan"]),
)


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a slice: of its plane, and some before them that make a header harder to step through."""
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    found: dict[str, Any] = {
        keyword: draw(st.lists(decimal, min_size=count, max_size=count)) for keyword, count in counts.items()
    }
    if draw(st.booleans()):
        found[draw(st.sampled_from(sorted(counts)))] = None
    found["DerivationDescription"] = draw(st.sampled_from(["", "x" * 64, "y" * 20000]))
    found["nested"] = draw(st.integers(0, 3))
    found["undefined"] = draw(st.booleans())
    return found


def write(described: dict[str, Any], path: Path, *, implicit: bool) -> None:
    described = dict(described)
    nested, undefined = described.pop("nested"), described.pop("undefined")
    seg = FileDataset(str(path), {}, preamble=b"\0" * 128)
    seg.file_meta = dcmread(BytesIO(a_slice()), stop_before_pixels=True).file_meta
    seg.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    seg.SOPClassUID = seg.file_meta.MediaStorageSOPClassUID
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    seg.DerivationDescription = described.pop("DerivationDescription")
    for keyword, words in described.items():
        if words is not None:
            value = "\\".join(words).encode("ascii")
            value += b" " * (len(value) % 2)
            seg[keyword] = RawDataElement(Tag(keyword), "DS", len(value), value, 0, implicit, True)
    if nested:
        seg.SourceImageSequence = [_decoy(nested, undefined=undefined) for _ in range(nested)]
        seg["SourceImageSequence"].is_undefined_length = undefined
    seg.save_as(path, implicit_vr=implicit, enforce_file_format=True)


def _decoy(depth: int, *, undefined: bool) -> Dataset:
    """An item that has a plane of its own, which is not the slice's."""
    item = Dataset()
    item.is_undefined_length_sequence_item = undefined
    item.ImagePositionPatient, item.ImageOrientationPatient = [9, 9, 9], [0, 1, 0, 1, 0, 0]
    item.SOPInstanceUID, item.PixelSpacing = "9.9.9", [9, 9]
    if depth > 1:
        item.SourceImageSequence = [_decoy(depth - 1, undefined=undefined)]
        item["SourceImageSequence"].is_undefined_length = undefined
    return item


@cache
def a_slice() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return next(iter(build_case(Path(folder)).sources.values())).read_bytes()


@settings(max_examples=120, deadline=None)
@given(headers(), st.booleans())
def test_a_source_is_read_alike_for_the_writer_and_for_the_check(described: dict[str, Any], implicit: bool) -> None:
    first, second = SliceSource("1.2.3.1", CT), SliceSource("1.2.3", CT)
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "odd.dcm", Path(folder) / "plain.dcm"
        write(described, path, implicit=implicit)
        ds = dcmread(BytesIO(a_slice()))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(first.sop_instance_uid)
        ds.save_as(plain)
        paths = {first.sop_instance_uid: plain, second.sop_instance_uid: path}
        outcomes = [outcome(lambda read=read: read((first, second), paths).planes) for read in READERS]
    assert outcomes[0] == outcomes[1]


CT = "1.2.840.10008.5.1.4.1.1.2"
READERS: tuple[Any, ...] = (read_outline, read_source_headers)


def outcome(read: Callable[[], object]) -> object:
    """What was read, or the sentence of the failure."""
    try:
        return read()
    except NodeError as problem:
        return str(problem)


@many
@given(damages())
def test_a_damaged_source_is_not_stepped_through_or_as_pydicom_reads_it(damage: Damage) -> None:
    whole = a_slice()[:4096]
    end = whole.index(b"\x28\x00\x10\x00US")  # Rows, behind Pixel Spacing
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        path.write_bytes(damage(whole[:end]) + whole[end:])
        found = leading_elements(path)
        if found is None:
            return
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(found))
        except UNPARSEABLE:  # the check will not take it
            return
        for tag, value in found.items():
            element: Any = header.get_item(tag)
            assert element is not None
            assert element.value == value


def test_the_reader_of_frames_raises_nothing_that_the_check_does_not_expect() -> None:
    assert issubclass(Malformed, UNPARSEABLE)
