"""The source files of a result as the writer needs them: the first header in full, of the others their planes.

pydicom needs half a millisecond for a header of 130 elements. The five that count are found twenty times faster by
stepping from tag to tag. Where a file is not written plainly, pydicom reads it; and the check reads every file with
pydicom, so what were misread here would be blocked there.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.encoding.sources import SourcePlane, decimal_strings, plane_of, read_header
from dicomnode.imaging import SliceSource

HEAD_BYTES = 16384  # as a rule the plane is described in the first 4 KiB
_CLASS, _INSTANCE, _POSITION, _ORIENTATION, _SPACING = 0x00080016, 0x00080018, 0x00200032, 0x00200037, 0x00280030
_LAST = 0x0028FFFF
_WANTED = frozenset({_CLASS, _INSTANCE, _POSITION, _ORIENTATION, _SPACING})
_IMPLICIT, _EXPLICIT, _RLE = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.5"
_JPEG = b"1.2.840.10008.1.2.4."  # its many forms
_META_AT, _UNDEFINED = 132, 0xFFFFFFFF  # PS3.10 7.1: preamble and "DICM"
_ITEM, _ITEM_END, _SEQUENCE_END, _NO_VR = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, b"\xfe\xff"
_ENDS = (_ITEM_END, _SEQUENCE_END)
_SHORT, _LONG = struct.Struct("<HH2sH"), struct.Struct("<HHL")
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)

Reference = tuple[str, str]  # SOP class, SOP instance


@dataclass(frozen=True, slots=True, eq=False)
class SourceOutline:
    """The planes of a segmentation's slices in slice order, its instances, and the header of the first of them."""

    planes: tuple[SourcePlane, ...]
    references: tuple[Reference, ...]  # in the order of first use
    first: Dataset  # patient, study and equipment are copied from it


def read_outline(sources: Sequence[SliceSource], paths: Mapping[str, Path]) -> SourceOutline:
    """Read what the writer needs of every source slice, each file once.

    Raises:
        Unavailable: a file is not there or cannot be read.
        ResultMismatch: a source has no file, or its file is not that instance or has no plane.
    """
    headers = {sources[0].sop_instance_uid: read_header(sources[0].sop_instance_uid, paths, whole=True)}
    classes: dict[str, str] = {}
    planes: list[SourcePlane] = []
    for source in sources:
        uid = source.sop_instance_uid
        plain = None if uid in headers or uid not in paths else _plain_plane(paths[uid], source)
        if plain is None:
            if uid not in headers:
                headers[uid] = read_header(uid, paths, whole=False)
            plain = plane_of(headers[uid], source), str(headers[uid].SOPClassUID)
        planes.append(plain[0])
        classes.setdefault(uid, plain[1])
    first = headers[sources[0].sop_instance_uid]
    return SourceOutline(tuple(planes), tuple((name, uid) for uid, name in classes.items()), first)


def _plain_plane(path: Path, source: SliceSource) -> tuple[SourcePlane, str] | None:
    """The plane and SOP class of a single-frame instance that is written plainly."""
    if source.frame_number is not None:
        return None
    found = leading_elements(path)
    if found is None or _uid(found[_INSTANCE]) != source.sop_instance_uid:
        return None
    position, orientation = decimal_strings(found[_POSITION], 3), decimal_strings(found[_ORIENTATION], 6)
    spacing, sop_class_uid = decimal_strings(found[_SPACING], 2), _uid(found[_CLASS])
    if not (position and orientation and spacing and sop_class_uid):
        return None
    plane = SourcePlane(source.sop_class_uid, source.sop_instance_uid, None, position, orientation, spacing)
    return plane, sop_class_uid


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("latin-1")
    return text if text.replace(".", "").isdecimal() and text.isascii() else ""


def leading_elements(path: Path) -> Mapping[int, bytes] | None:
    """SOP class and instance, position, orientation and spacing of a file; None when only a full reader will do.

    Plain is: Part 10 with a group length, little endian and not deflated, tags that rise, all of it in the first
    16 KiB.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        syntax, start = _file_meta(head)
        if not (syntax in (_IMPLICIT, _EXPLICIT, _RLE) or syntax.startswith(_JPEG)):
            return None
        return _walk(head, start, explicit=syntax != _IMPLICIT)
    except (OSError, struct.error, KeyError, _NotPlain):
        return None


class _NotPlain(Exception):
    """The bytes leave room for more than one reading."""


def _file_meta(head: bytes) -> tuple[bytes, int]:
    """The transfer syntax, and where the data set begins; the group's length and its elements must agree (PS3.10 7.1).

    Raises:
        KeyError, struct.error: an element is not there, or not within what was read.
        _NotPlain: it is no Part 10 file, or the two do not agree.
    """
    values: dict[int, bytes] = {}
    start, end, last_tag = _META_AT, _META_AT + 12, 0x0001FFFF
    while start < end:
        tag, begin, length = _element(head, start, explicit=True)
        start = begin + length
        if not last_tag < tag <= 0x0002FFFF or start > len(head):
            raise _NotPlain
        values[tag], last_tag = head[begin:start], tag
        end = _META_AT + 12 + int.from_bytes(values[0x00020000], "little")
    if start != end or head[_META_AT - 4 : _META_AT] != b"DICM":
        raise _NotPlain
    return values[0x00020010].rstrip(b"\0 "), start


def _walk(head: bytes, start: int, *, explicit: bool) -> dict[int, bytes]:
    """The values of the wanted elements, stepping over the others to the end of group 0028.

    Raises:
        struct.error: the group does not end within what was read.
        _NotPlain: one is not there, a tag does not rise, a VR is unknown, a sequence ends where it must not.
    """
    found: dict[int, bytes] = {}
    tag, begin, length = _element(head, start, explicit=explicit)
    while tag <= _LAST:
        start = _behind_sequence(head, begin, explicit=explicit) if length == _UNDEFINED else begin + length
        if tag in _WANTED:
            if length == _UNDEFINED:
                raise _NotPlain
            found[tag] = head[begin:start]
        last_tag = tag
        tag, begin, length = _element(head, start, explicit=explicit)
        if tag <= last_tag:
            raise _NotPlain
    if len(found) != len(_WANTED):
        raise _NotPlain
    return found


def _element(head: bytes, start: int, *, explicit: bool) -> tuple[int, int, int]:
    """Tag, begin and length of the value of the element at `start` (PS3.5 7.1)."""
    if not explicit or head[start : start + 2] == _NO_VR:
        group, number, length = _LONG.unpack_from(head, start)
        return group << 16 | number, start + 8, length
    group, number, vr, length = _SHORT.unpack_from(head, start)
    if vr in _SHORT_VRS:
        return group << 16 | number, start + 8, length
    length = int.from_bytes(head[start + 8 : start + 12], "little")
    if vr not in _LONG_VRS or (vr == b"UN" and length == _UNDEFINED):  # such a one is in implicit VR
        raise _NotPlain
    return group << 16 | number, start + 12, length


def _behind_sequence(head: bytes, start: int, *, explicit: bool) -> int:
    """Where a sequence of undefined length ends whose first item is at `start` (PS3.5 7.5.2).

    Raises:
        struct.error: not within what was read.
        _NotPlain: items and sequences do not close as they opened.
    """
    ends = [_SEQUENCE_END]  # of what is open
    while ends:
        tag, begin, length = _element(head, start, explicit=explicit)
        start = begin if tag in _ENDS or length == _UNDEFINED else begin + length
        if tag in _ENDS:
            if ends.pop() != tag or length:
                raise _NotPlain
        elif (tag == _ITEM) != (ends[-1] == _SEQUENCE_END):  # in a sequence there are items and nothing else
            raise _NotPlain
        elif length == _UNDEFINED:
            ends.append(_ITEM_END if tag == _ITEM else _SEQUENCE_END)
    return start
