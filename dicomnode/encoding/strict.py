"""A strict reading of Explicit VR Little Endian (PS3.5 7.1.2), for what a result holds in bulk.

pydicom reads on where it can; thousands of small items cost it seconds. Here only what the node's own results may
hold is understood: lengths that are defined, even and end where their item ends, tags that rise, the VRs and elements
that were asked for, values of their VR's form. Everything else is refused. Nothing here knows how results are written.
"""

import re
import struct
from collections.abc import Iterator, Mapping

_SHORT, _LONG, _ITEM = struct.Struct("<HH2sH"), struct.Struct("<HH2sHL"), struct.Struct("<HHL")
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)*")  # leading zeros are forgiven: a source may have them
_DECIMAL = re.compile(rb" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *")
_INTEGER = re.compile(rb" *[+-]?[0-9]{1,10} *")

Fields = Mapping[int, bytes]  # value by tag


class Malformed(ValueError):
    """The bytes are not what a result may hold at this place."""


def fields(content: bytes, required: Mapping[int, bytes], optional: Mapping[int, bytes] | None = None) -> Fields:
    """The values of one item's elements by tag; `required` and `optional` give the VR of each tag that may stand there.

    Raises:
        Malformed: an element is missing, not asked for, of another VR, out of order or cut.
    """
    found: dict[int, bytes] = {}
    start, last_tag = 0, -1
    while start < len(content):
        tag, vr, begin, end = _bounds(content, start)
        wanted = required.get(tag) or (optional or {}).get(tag)
        if vr != wanted or tag <= last_tag:
            raise Malformed(f"expected only {_named(required)} in rising order, found ({tag:08X}) of VR {vr!r}")
        found[tag], start, last_tag = content[begin:end], end, tag
    if not required.keys() <= found.keys():
        raise Malformed(f"expected {_named(required)}, found only {_named(found)}")
    return found


def items(value: bytes) -> Iterator[bytes]:
    """The items of a sequence, each as the bytes of its elements.

    Raises:
        Malformed: something else than items of defined length stands there, or one is cut.
    """
    start = 0
    while start < len(value):
        if start + _ITEM.size > len(value):
            raise Malformed(f"expected an item of at least 8 bytes, found {len(value) - start}")
        group, number, length = _ITEM.unpack_from(value, start)
        begin = start + _ITEM.size
        if (group, number) != (0xFFFE, 0xE000) or length == _UNDEFINED or length % 2:
            raise Malformed(f"expected an item of defined, even length, found ({group:04X},{number:04X}) of {length}")
        start = begin + length
        if start > len(value):
            raise Malformed(f"expected an item of {length} bytes, found {len(value) - begin}")
        yield value[begin:start]


def sole_item(value: bytes) -> bytes:
    """The only item of a sequence.

    Raises:
        Malformed: there is none, or another.
    """
    found = list(items(value))
    if len(found) != 1:
        raise Malformed(f"expected one item, found {len(found)}")
    return found[0]


def uid(value: bytes) -> str:
    """A UI value; a single null may pad it.

    Raises:
        Malformed: it is no UID of at most 64 characters.
    """
    written = value.removesuffix(b"\0")
    if len(written) > 64 or not _UID.fullmatch(written):
        raise Malformed(f"expected a UID, found {len(value)} other bytes")
    return written.decode("ascii")


def code_string(value: bytes) -> str:
    """A CS or SH value of one ASCII word, without its padding.

    Raises:
        Malformed: it is empty, several, or not printable ASCII.
    """
    text = value.decode("latin-1").rstrip(" ")
    if not text or not text.isascii() or not text.isprintable() or "\\" in text:
        raise Malformed(f"expected one ASCII text, found {len(value)} other bytes")
    return text


def decimals(value: bytes, count: int) -> tuple[float, ...]:
    """A DS value of `count` numbers.

    Raises:
        Malformed: there are fewer or more, or one is no finite decimal number.
    """
    words = value.split(b"\\")
    if len(words) != count or not all(map(_DECIMAL.fullmatch, words)):
        raise Malformed(f"expected {count} decimal numbers, found {len(words)} words")
    return tuple(map(float, words))


def integer(value: bytes) -> int:
    """An IS value of one number.

    Raises:
        Malformed: it is no integer.
    """
    if not _INTEGER.fullmatch(value):
        raise Malformed(f"expected an integer, found {len(value)} other bytes")
    return int(value)


def unsigned(value: bytes, bytes_each: int) -> tuple[int, ...]:
    """A US (2 bytes each) or UL (4 bytes each) value of one or more numbers.

    Raises:
        Malformed: it is empty or ends within a number.
    """
    if not value or len(value) % bytes_each:
        raise Malformed(f"expected numbers of {bytes_each} bytes, found {len(value)} bytes")
    return tuple(int.from_bytes(value[at : at + bytes_each], "little") for at in range(0, len(value), bytes_each))


def _bounds(content: bytes, start: int) -> tuple[int, bytes, int, int]:
    """Tag and VR of the element at `start`, and where its value begins and ends."""
    if start + _SHORT.size > len(content):
        raise Malformed(f"expected an element of at least 8 bytes, found {len(content) - start}")
    group, number, vr, length = _SHORT.unpack_from(content, start)
    begin = start + _SHORT.size
    if vr in _LONG_VRS:
        if length or start + _LONG.size > len(content):
            raise Malformed(f"expected two zero bytes and a length behind VR {vr!r}, found others")
        length, begin = _LONG.unpack_from(content, start)[-1], start + _LONG.size
    if length % 2 or begin + length > len(content):
        raise Malformed(f"expected an even length of at most {len(content) - begin} bytes, found {length}")
    return group << 16 | number, vr, begin, begin + length


def _named(tags: Mapping[int, bytes]) -> str:
    return ", ".join(f"({tag:08X})" for tag in tags) or "nothing"
