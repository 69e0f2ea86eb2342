"""The files of the spool: 128 zeros, `DICM`, a file meta group, and the data set's bytes as they came (PS3.10 7.1).

The meta group follows from class, instance and transfer syntax alone: the same object sent twice, by whomever
and whenever, makes the same file. It carries no sender, no time and no version of ours for that reason.
"""

import struct
from dataclasses import dataclass

from dicomnode.imaging import derived_uid
from dicomnode.receive.elements import Encoding, UnreadableDataSet, elements
from dicomnode.receive.identity import parse_uid

IMPLEMENTATION_CLASS_UID = derived_uid("dicomnode", "implementation class")
_PREAMBLE = bytes(128) + b"DICM"  # zeros: a preamble can make a file executable (PS3.10 7.5)
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_SHORT = struct.Struct("<HH2sH")
_VERSION = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\0\1"
_META_START = len(_PREAMBLE) + _GROUP_LENGTH.size
_CLASS, _INSTANCE, _SYNTAX = 0x00020002, 0x00020003, 0x00020010
MAX_META_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the meta group says."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def encode_file_head(meta: FileMeta) -> bytes:
    """Preamble, prefix and file meta group: everything before the data set."""
    group = _VERSION + b"".join(
        _uid_element(element, uid)
        for element, uid in (
            (0x0002, meta.sop_class_uid),
            (0x0003, meta.sop_instance_uid),
            (0x0010, meta.transfer_syntax_uid),
            (0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    return _PREAMBLE + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(group)) + group


def parse_file_head(head: memoryview) -> tuple[FileMeta, int]:
    """The first bytes of a file of the spool -> its meta group, and where its data set starts.

    Raises:
        UnreadableDataSet: it is no DICOM file, or not one of ours.
    """
    if len(head) < _META_START or bytes(head[128:132]) != b"DICM":
        raise UnreadableDataSet("expected DICM after a preamble of 128 bytes, found something else")
    group, element, vr, _, length = _GROUP_LENGTH.unpack_from(head, len(_PREAMBLE))
    end = _META_START + length
    if (group, element, vr) != (2, 0, b"UL") or length > MAX_META_BYTES or end > len(head):
        raise UnreadableDataSet("expected a file meta group with its length first, found something else")
    values = dict(elements(head[_META_START:end], Encoding(explicit=True)))
    uids = [parse_uid(values.get(tag, memoryview(b"")), f"{tag:08x}") for tag in (_CLASS, _INSTANCE, _SYNTAX)]
    return FileMeta(*uids), end


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii") + (b"\0" if len(uid) % 2 else b"")
    return _SHORT.pack(2, element, b"UI", len(value)) + value
