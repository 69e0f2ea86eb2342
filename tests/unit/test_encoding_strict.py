"""The check's own reading of the frames' groups: what a result holds is read, everything else is refused."""

import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicomnode.encoding import encode_seg, strict
from dicomnode.encoding.decoded import opened_seg
from dicomnode.encoding.frame_groups import PER_FRAME_GROUPS, frame_by_pydicom, read_frames
from dicomnode.encoding.strict import Malformed
from tests.encoding_cases import build_case

FIELDS = {0x00200032: b"DS", 0x00209157: b"UL"}


def short(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value) if length is None else length) + value


def long(tag: int, vr: bytes, value: bytes, length: int | None = None, reserved: int = 0) -> bytes:
    stated = len(value) if length is None else length
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, reserved, stated) + value


def item(value: bytes, length: int | None = None, tag: int = 0xFFFEE000) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


GOOD = short(0x00200032, b"DS", b"1.5\\-2\\3e0") + short(0x00209157, b"UL", b"\1\0\0\0\2\0\0\0")


def test_elements_that_were_asked_for_are_read() -> None:
    found = strict.fields(GOOD, FIELDS)
    assert strict.decimals(found[0x00200032], 3) == (1.5, -2.0, 3.0)
    assert strict.unsigned(found[0x00209157], 4) == (1, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "expected", id="nothing"),
        pytest.param(GOOD[:-1], "even length", id="a value cut short"),
        pytest.param(GOOD + b"\0\0", "at least 8 bytes", id="bytes behind the last element"),
        pytest.param(short(0x00200032, b"DS", b"1 "), "found only", id="an element missing"),
        pytest.param(GOOD + short(0x00400001, b"LO", b"x "), "expected only", id="an element more"),
        pytest.param(GOOD[-16:] + GOOD[:-16], "rising order", id="tags that do not rise"),
        pytest.param(GOOD[:-16] + GOOD, "rising order", id="an element twice"),
        pytest.param(GOOD.replace(b"DS", b"LO"), "of VR", id="another VR"),
        pytest.param(GOOD.replace(b"DS", b"\0\0"), "of VR", id="no VR"),
        pytest.param(GOOD.replace(b"UL", b"OB"), "two zero bytes", id="a VR of a long length in the place of a short"),
        pytest.param(short(0x00200032, b"DS", b"1 ", 0xFFFF), "even length", id="a length that lies, odd"),
        pytest.param(short(0x00200032, b"DS", b"1 ", 0xFFFE), "even length", id="a length that lies, even"),
    ],
)
def test_an_item_that_holds_anything_else_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        strict.fields(content, FIELDS)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(long(0x00089124, b"SQ", item(GOOD), 0xFFFFFFFF), id="undefined length"),
        pytest.param(long(0x00089124, b"SQ", item(GOOD), 0xFFFFFFFE), id="a length of 4 GiB"),
        pytest.param(long(0x00089124, b"SQ", item(GOOD), reserved=1), id="something in the two reserved bytes"),
        pytest.param(long(0x00089124, b"SQ", b"")[:-2], id="a length cut short"),
    ],
)
def test_a_sequence_whose_length_is_not_plain_is_refused(content: bytes) -> None:
    with pytest.raises(Malformed):
        strict.fields(content, {0x00089124: b"SQ"})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="no item"),
        pytest.param(item(GOOD) * 2, id="two items"),
        pytest.param(item(GOOD, 0xFFFFFFFF) + item(b"", tag=0xFFFEE00D), id="an item of undefined length"),
        pytest.param(item(GOOD, len(GOOD) + 2), id="an item longer than the sequence"),
        pytest.param(item(GOOD, len(GOOD) - 2), id="an item that ends early"),
        pytest.param(item(GOOD)[:6], id="a header cut short"),
        pytest.param(item(b"", tag=0xFFFEE0DD), id="a delimiter"),
        pytest.param(GOOD, id="elements without an item"),
    ],
)
def test_a_sequence_without_exactly_one_plain_item_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.sole_item(value)


@pytest.mark.parametrize(
    "value", [b"1\\2", b"1\\2\\3\\4", b"1\\nan\\3", b"1\\inf\\3", b"1\\\\3", b"1_0\\2\\3", b"1\\2\\3\0"]
)
def test_positions_are_three_finite_numbers(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.decimals(value, 3)


@pytest.mark.parametrize("value", [b"", b"1.2\0\0", b"1..2", b"1.2 ", b"a.b", b"1." * 40, b"1.2\\1.3"])
def test_what_is_no_uid_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.uid(value)


@pytest.mark.parametrize("value", [b"", b"  ", b"YES\0", b"Y\\N ", b"\xc4 "])
def test_what_is_no_word_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.code_string(value)


@pytest.mark.parametrize("value", [b"", b"1.0 ", b"1\\2 ", b"0x1 "])
def test_what_is_no_integer_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.integer(value)


@pytest.mark.parametrize("value", [b"", b"\1", b"\1\0\0"])
def test_numbers_that_end_early_are_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        strict.unsigned(value, 2)


@pytest.fixture(scope="module")
def frames_value(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("strict")
    case = build_case(folder / "ct")
    with opened_seg(encode_seg(case.segmentation, case.sources, case.request, folder / "seg.dcm").path) as seg:
        return seg.sequence_bytes(PER_FRAME_GROUPS)


def test_every_frame_of_a_result_is_read_as_pydicom_reads_it(frames_value: bytes) -> None:
    frames = read_frames(frames_value)
    assert len(frames) > 10
    assert frames == [frame_by_pydicom(content) for content in strict.items(frames_value)]


def test_groups_that_pydicom_wrote_are_read(frames_value: bytes) -> None:
    """The reader does not lean on the writer: pydicom writes the same groups, with a plane of the frame's own."""
    first = next(iter(strict.items(frames_value)))
    groups = dataset_of(first)
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [Dataset()], [Dataset()]
    groups.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    groups.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]
    source = groups.DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedFrameNumber = 7
    [frame] = read_frames(item(bytes_of(groups)))
    assert (frame.orientation, frame.pixel_spacing_mm) == ((1, 0, 0, 0, 1, 0), (0.5, 0.25))
    assert frame.origin.slice == (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID, 7)


def test_an_element_too_many_anywhere_in_a_frame_is_refused(frames_value: bytes) -> None:
    first = next(iter(strict.items(frames_value)))
    for path in every_item(dataset_of(first)):
        groups = dataset_of(first)
        inner = groups
        for keyword in path:
            inner = inner[keyword].value[0]
        inner.add_new(0x00091001, "LO", "more")
        with pytest.raises(Malformed):
            read_frames(item(bytes_of(groups)))


def every_item(dataset: Dataset, *path: str) -> list[tuple[str, ...]]:
    """The path of keywords to each nested item, the outermost one included."""
    found = [path]
    for element in dataset:
        if element.VR == "SQ":
            found += every_item(element.value[0], *path, element.keyword)
    return found


def dataset_of(content: bytes) -> Dataset:
    return read_dataset(BytesIO(content), is_implicit_VR=False, is_little_endian=True)


def bytes_of(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def test_a_sequence_that_is_not_there_or_not_plain_is_refused(tmp_path: Path) -> None:
    case = build_case(tmp_path / "ct")
    path = encode_seg(case.segmentation, case.sources, case.request, tmp_path / "seg.dcm").path
    seg = dcmread(path)
    seg["SourceImageSequence"].is_undefined_length = True
    seg.save_as(tmp_path / "undefined.dcm")
    with opened_seg(tmp_path / "undefined.dcm") as opened:
        for tag in (0x00082112, 0x00081199, 0x00080016):
            with pytest.raises(Malformed, match="sequence of defined length"):
                opened.sequence_bytes(tag)
