"""Bytes of data elements in Explicit VR Little Endian (PS3.5 7.1.2), for the parts written in bulk.

pydicom writes a data set of thousands of frames element by element; joining ready-made bytes is a hundred
times faster. Only what the per-frame functional groups need is here.
"""

import struct
from collections.abc import Sequence

UNPADDED_WITH_NULL = (b"UI", b"OB")  # PS3.5 6.2: UIDs end in a null, text in a space


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """A data element with a 16-bit length: text, UIDs and numbers."""
    if len(value) % 2:
        value += b"\0" if vr in UNPADDED_WITH_NULL else b" "
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def numbers(tag: int, vr: bytes, values: Sequence[int]) -> bytes:
    """A US or UL element of one or more values."""
    letter = {b"US": "H", b"UL": "L"}[vr]
    return element(tag, vr, struct.pack(f"<{len(values)}{letter}", *values))


def sequence(tag: int, *items: bytes) -> bytes:
    """A sequence of defined length; each item is the bytes of its elements in ascending order of tags."""
    return long_header(tag, b"SQ", sum(len(item) + 8 for item in items)) + b"".join(map(item_of, items))


def item_of(elements: bytes) -> bytes:
    """One item of a sequence."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(elements)) + elements


def long_header(tag: int, vr: bytes, length: int) -> bytes:
    """Tag, VR and 32-bit length of an SQ, OB or OW element whose value follows."""
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


def code(value: str, scheme: str, meaning: str) -> bytes:
    """The elements of one coded concept (PS3.3 table 8.8-1)."""
    return (
        element(0x00080100, b"SH", value.encode("ascii"))
        + element(0x00080102, b"SH", scheme.encode("ascii"))
        + element(0x00080104, b"LO", meaning.encode("ascii"))
    )
