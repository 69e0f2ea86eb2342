"""The source files of a result: where each source plane is, and whose it is. For the check, read with pydicom.

Reads files, never pixels. Positions, orientation and spacing are kept as the scanner wrote them, because a
viewer that matches result and source compares exactly those strings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from dicomnode.encoding.damage import UNPARSEABLE
from dicomnode.errors import ResultMismatch, Unavailable
from dicomnode.imaging import SliceSource

MAX_DECIMAL_STRING = 16  # DS, PS3.5 table 6.2-1
# What is looked at in every instance; of the first one all is read.
KEYWORDS = (
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "PatientID"),
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_TAG_OF = {keyword: Tag(keyword) for keyword in KEYWORDS}
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class SourcePlane:
    """One source slice: the instance (and 1-based frame), and its plane as decimal strings of the header."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position: tuple[str, ...]  # Image Position (Patient): x, y, z in LPS mm
    orientation: tuple[str, ...]  # Image Orientation (Patient): row direction, column direction
    pixel_spacing: tuple[str, ...]  # between rows, between columns, in mm

    @property
    def slice(self) -> tuple[str, str, int | None]:
        """SOP class, SOP instance and frame, as a frame refers to it."""
        return self.sop_class_uid, self.sop_instance_uid, self.frame_number


@dataclass(frozen=True, eq=False)
class SourceHeaders:
    """The planes of a segmentation's slices in slice order, and the header of each instance by its UID."""

    planes: tuple[SourcePlane, ...]
    headers: Mapping[str, Dataset]  # in the order of first use; `KEYWORDS` of each, all of the first

    @property
    def first(self) -> Dataset:
        """The header that patient, study and equipment are copied from."""
        return next(iter(self.headers.values()))

    @cached_property
    def positions_mm(self) -> NDArray[np.float64]:
        """Image Position (Patient) of each plane, LPS mm, `[slice, xyz]`."""
        return np.array([plane.position for plane in self.planes], dtype=np.float64)

    def texts(self, keyword: str) -> tuple[str, ...]:
        """A text attribute of each instance, `""` where it is absent, in the order of `headers`.

        Each distinct value is decoded once: pydicom needs longer for that than for finding it.
        """
        decoded: dict[tuple[str, bytes | None], str] = {}
        texts: list[str] = []
        for header in self.headers.values():
            written = text_of(header, "SpecificCharacterSet"), raw_value(header, keyword)
            if written[1] is None or written not in decoded:
                decoded[written] = text_of(header, keyword)
            texts.append(decoded[written])
        return tuple(texts)


def text_of(header: Dataset, keyword: str) -> str:
    """A text attribute's value, `""` where it is absent or empty."""
    value = header.get(keyword)
    return "" if value is None else str(value)


def read_source_headers(sources: Sequence[SliceSource], paths: Mapping[str, Path]) -> SourceHeaders:
    """Read the header of every source slice, each file once.

    Raises:
        Unavailable: a file is not there or cannot be read.
        ResultMismatch: a source has no file, or its file is not that instance or has no plane.
    """
    headers: dict[str, Dataset] = {}
    for source in sources:
        if source.sop_instance_uid not in headers:
            headers[source.sop_instance_uid] = read_header(source.sop_instance_uid, paths, whole=not headers)
    return SourceHeaders(tuple(plane_of(headers[s.sop_instance_uid], s) for s in sources), headers)


def read_header(sop_instance_uid: str, paths: Mapping[str, Path], *, whole: bool) -> Dataset:
    """The header of one instance by pydicom, or what `KEYWORDS` name of it.

    Raises:
        Unavailable: the file is not there or cannot be read.
        ResultMismatch: there is no file, or it is not that instance.
    """
    path = paths.get(sop_instance_uid)
    if path is None:
        raise ResultMismatch(f"expected a file for each source instance, found none for {sop_instance_uid}")
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=None if whole else list(_TAG_OF.values()))
    except (OSError, InvalidDicomError) as problem:
        raise Unavailable(f"source instance {sop_instance_uid} cannot be read: {type(problem).__name__}") from problem
    except UNPARSEABLE as problem:
        found = f"found damage: {type(problem).__name__}"
        raise ResultMismatch(f"expected a readable header of source instance {sop_instance_uid}, {found}") from problem
    found = _uid_of(header)
    if found != sop_instance_uid:
        raise ResultMismatch(f"expected source instance {sop_instance_uid} in its file, found {found or 'none'}")
    return header


def _uid_of(header: Dataset) -> str:
    """The SOP Instance UID, from the bytes where they are still at hand: converting it takes pydicom 30 us."""
    value = raw_value(header, "SOPInstanceUID")
    return text_of(header, "SOPInstanceUID") if value is None else value.rstrip(b"\0 ").decode("latin-1")


def plane_of(header: Dataset, source: SliceSource) -> SourcePlane:
    """The plane of a slice from its instance's header.

    Raises:
        ResultMismatch: the header has no such frame or no plane.
    """
    groups = (header,) if source.frame_number is None else _frame_groups(header, source.frame_number)
    return SourcePlane(
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=source.sop_instance_uid,
        frame_number=source.frame_number,
        position=_decimals(groups, "ImagePositionPatient", 3),
        orientation=_decimals(groups, "ImageOrientationPatient", 6),
        pixel_spacing=_decimals(groups, "PixelSpacing", 2),
    )


def _frame_groups(header: Dataset, frame_number: int) -> tuple[Dataset, ...]:
    """The plane's functional groups of one frame: its own first, then the shared ones (PS3.3 C.7.6.16)."""
    per_frame: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or []
    if not 1 <= frame_number <= len(per_frame):
        raise ResultMismatch(f"expected source frame {frame_number}, found an object of {len(per_frame)} frames")
    shared: Sequence[Dataset] = header.get("SharedFunctionalGroupsSequence") or []
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    items = (group[name] for group in (per_frame[frame_number - 1], *shared) for name in names if name in group)
    return tuple(item for sequence in items for item in sequence.value)


def _decimals(groups: Sequence[Dataset], keyword: str, count: int) -> tuple[str, ...]:
    for group in groups:
        written = decimal_strings(raw_value(group, keyword) or b"", count) or decimal_strings(
            _converted(group, keyword), count
        )
        if written is not None:
            return written
    raise ResultMismatch(f"expected {count} values of {keyword} in the header of each source slice, found none")


def _converted(group: Dataset, keyword: str) -> bytes:
    """The value as pydicom understands it; empty where it cannot."""
    try:
        values = group.get(keyword)
    except ValueError:
        return b""
    return "\\".join(map(str, values)).encode("latin-1", "replace") if isinstance(values, MultiValue) else b""


def raw_value(header: Dataset, keyword: str) -> bytes | None:
    """The bytes of a value as pydicom found them; empty where it is absent, None where it was converted already."""
    tag = _TAG_OF[keyword]
    if tag not in header:
        return b""
    element = header.get_item(tag)
    return element.value or b"" if isinstance(element, RawDataElement) else None


def decimal_strings(value: bytes, count: int) -> tuple[str, ...] | None:
    """A DS value as `count` legal decimal strings; None when it is anything else."""
    words = [word.strip(" ") for word in value.decode("latin-1").split("\\")]
    if len(words) != count or not all(map(_DECIMAL.fullmatch, words)):
        return None
    return tuple(map(_decimal, words))


def _decimal(text: str) -> str:
    """The decimal string as written, if it is a legal one; else the nearest that is."""
    return text if len(text) <= MAX_DECIMAL_STRING else format_number_as_ds(float(text))
