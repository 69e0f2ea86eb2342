"""A bounded walk over the elements of a data set that nobody has checked yet (PS3.5 section 7).

It reads tags and lengths only, recurses nowhere, and every step moves forward, so hostile bytes cost at most
one pass over them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicomnode.errors import NodeError
from dicomnode.receive.services import EXPLICIT_BIG, IMPLICIT_LITTLE

UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 32  # of sequences of undefined length; real objects stay below ten
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


class UnreadableDataSet(NodeError):
    """The bytes are not a data set in the transfer syntax that was agreed."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written: byte order and whether the value representation stands in the bytes."""

    explicit: bool
    big_endian: bool = False

    @property
    def words(self) -> struct.Struct:
        """Group and element number."""
        return _BIG_WORDS if self.big_endian else _LITTLE_WORDS


_LITTLE_WORDS, _BIG_WORDS = struct.Struct("<HH"), struct.Struct(">HH")
IMPLICIT = Encoding(explicit=False)


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, and where its value lies. `length` may be UNDEFINED."""

    tag: int
    vr: bytes  # empty in implicit VR
    start: int
    length: int


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How a data set in that transfer syntax is written; every encapsulated one is explicit little endian."""
    if transfer_syntax_uid == IMPLICIT_LITTLE:
        return IMPLICIT
    return Encoding(explicit=True, big_endian=transfer_syntax_uid == EXPLICIT_BIG)


def elements(view: memoryview, encoding: Encoding) -> Iterator[tuple[int, memoryview]]:
    """Tag and value of each element of one data set or item, in order; sequences are one value.

    Lazy: a reader who has found what it wants never comes to where a prefix ends.

    Raises:
        UnreadableDataSet: tags do not rise, nesting is too deep, or an element is cut.
    """
    start, last_tag = 0, -1
    while start < len(view):
        element = read_element(view, start, encoding)
        if element.tag <= last_tag:
            raise UnreadableDataSet(f"expected rising tags, found {element.tag:08x} after {last_tag:08x}")
        last_tag = element.tag
        start = end_of_value(view, element, encoding)
        yield element.tag, view[element.start : start]


def items(value: memoryview, encoding: Encoding) -> Iterator[memoryview]:
    """The items of a sequence's value, each as the bytes of a data set of its own.

    Raises:
        UnreadableDataSet: something else than items is found.
    """
    start = 0
    while start < len(value):
        item = read_element(value, start, encoding)
        if item.tag == _SEQUENCE_END:
            return
        if item.tag != _ITEM:
            raise UnreadableDataSet(f"expected an item, found {item.tag:08x}")
        start = end_of_value(value, item, encoding)
        delimited = item.length == UNDEFINED
        yield value[item.start : start - 8 if delimited else start]


def read_element(view: memoryview, start: int, encoding: Encoding) -> Element:
    """The header of the element at `start` (PS3.5 section 7.1).

    Raises:
        UnreadableDataSet: the header is cut or has no value representation.
    """
    if start + 8 > len(view):
        raise UnreadableDataSet(f"expected an element header of 8 bytes, found {len(view) - start}")
    group, number = encoding.words.unpack_from(view, start)
    order = "big" if encoding.big_endian else "little"
    if not encoding.explicit or group == 0xFFFE:  # items and delimiters never have a VR
        return Element(group << 16 | number, b"", start + 8, int.from_bytes(view[start + 4 : start + 8], order))
    vr = bytes(view[start + 4 : start + 6])
    if not (vr.isalpha() and vr.isupper()):
        raise UnreadableDataSet(f"expected a value representation, found {vr!r} at byte {start + 4}")
    if vr not in _LONG_VRS:
        return Element(group << 16 | number, vr, start + 8, int.from_bytes(view[start + 6 : start + 8], order))
    if start + 12 > len(view):
        raise UnreadableDataSet(f"expected an element header of 12 bytes, found {len(view) - start}")
    return Element(group << 16 | number, vr, start + 12, int.from_bytes(view[start + 8 : start + 12], order))


def end_of_value(view: memoryview, element: Element, encoding: Encoding) -> int:
    """Where the element's value ends, its delimiter included.

    Raises:
        UnreadableDataSet: the value is cut, or one of undefined length is nested too deep or closed wrongly.
    """
    if element.length != UNDEFINED:
        return _end_within(view, element)
    start = element.start
    # Each open value of undefined length, and how its content is written. CP-246: UN of undefined length is implicit.
    open_values = [(element.tag, IMPLICIT if element.vr == b"UN" else encoding)]
    while open_values:
        tag, written = open_values[-1]
        inner = read_element(view, start, written)
        if inner.tag in (_ITEM_END, _SEQUENCE_END):
            _require_closes(inner.tag, tag)
            open_values.pop()
            start = inner.start
        elif inner.length == UNDEFINED:
            open_values.append((inner.tag, IMPLICIT if inner.vr == b"UN" else written))
            start = inner.start
        else:
            start = _end_within(view, inner)
        if len(open_values) > MAX_DEPTH:
            raise UnreadableDataSet(f"expected at most {MAX_DEPTH} nested sequences, found more")
    return start


def _end_within(view: memoryview, element: Element) -> int:
    end = element.start + element.length
    if end > len(view):
        raise UnreadableDataSet(
            f"expected {element.length} bytes in {element.tag:08x}, found {len(view) - element.start}"
        )
    return end


def _require_closes(delimiter: int, tag: int) -> None:
    expected = _ITEM_END if tag == _ITEM else _SEQUENCE_END
    if delimiter != expected:
        raise UnreadableDataSet(f"expected delimiter {expected:08x}, found {delimiter:08x}")
