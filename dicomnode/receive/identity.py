"""Which instance of which series a data set is: its four UIDs, read from its first bytes only."""

from dataclasses import dataclass

from dicomnode.imaging import is_acceptable_uid
from dicomnode.receive.elements import UnreadableDataSet, elements, encoding_of

PREFIX_BYTES = 1 << 18  # the UIDs stand before the pixel data and the large private blocks (tag order)
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = {
    _SOP_CLASS: "SOP Class UID",
    _SOP_INSTANCE: "SOP Instance UID",
    _STUDY: "Study Instance UID",
    _SERIES: "Series Instance UID",
}


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """The UIDs of one instance as its data set states them; each is acceptable."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


def read_identity(prefix: memoryview, transfer_syntax_uid: str) -> InstanceIdentity:
    """The identity in the first bytes of a data set.

    Raises:
        UnreadableDataSet: it is no data set in that transfer syntax, or a UID is missing or malformed.
    """
    found: dict[int, str] = {}
    for tag, value in elements(prefix, encoding_of(transfer_syntax_uid)):
        if tag in _WANTED:
            found[tag] = parse_uid(value, _WANTED[tag])
        if tag >= _SERIES:
            break
    missing = [name for tag, name in _WANTED.items() if tag not in found]
    if missing:
        raise UnreadableDataSet(f"expected {', '.join(missing)} in the first {len(prefix)} bytes, found none")
    return InstanceIdentity(found[_SOP_CLASS], found[_SOP_INSTANCE], found[_STUDY], found[_SERIES])


def parse_uid(value: memoryview, name: str) -> str:
    """The UID in an element's value, without its padding.

    Raises:
        UnreadableDataSet: it is not digits and dots, or too long.
    """
    uid = bytes(value[:128]).rstrip(b"\0 ").decode("ascii", "replace")
    if not is_acceptable_uid(uid):
        raise UnreadableDataSet(f"expected digits and dots in {name}, found {len(value)} other bytes")
    return uid
