"""The headers a result refers to: where each source plane is, and whose it is.

Reads files, never pixels. Positions, orientation and spacing are kept as the scanner wrote them, because a
viewer that matches result and source compares exactly those strings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import format_number_as_ds

from dicomnode.errors import ResultMismatch, Unavailable
from dicomnode.imaging import SliceSource

MAX_DECIMAL_STRING = 16  # DS, PS3.5 table 6.2-1


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
    def position_mm(self) -> NDArray[np.float64]:
        """Image Position (Patient), LPS mm."""
        return np.array(self.position, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class SourceHeaders:
    """The planes of a segmentation's slices in slice order, and the header of each instance by its UID."""

    planes: tuple[SourcePlane, ...]
    headers: Mapping[str, Dataset]  # in the order of first use

    @property
    def first(self) -> Dataset:
        """The header that patient, study and equipment are copied from."""
        return next(iter(self.headers.values()))


def read_source_headers(sources: Sequence[SliceSource], paths: Mapping[str, Path]) -> SourceHeaders:
    """Read the header of every source slice, each file once.

    Raises:
        Unavailable: a file is not there or cannot be read.
        ResultMismatch: a source has no file, or its file is not that instance or has no plane.
    """
    headers: dict[str, Dataset] = {}
    for source in sources:
        if source.sop_instance_uid not in headers:
            headers[source.sop_instance_uid] = _read_header(source.sop_instance_uid, paths)
    return SourceHeaders(tuple(_plane(headers[s.sop_instance_uid], s) for s in sources), headers)


def _read_header(sop_instance_uid: str, paths: Mapping[str, Path]) -> Dataset:
    path = paths.get(sop_instance_uid)
    if path is None:
        raise ResultMismatch(f"expected a file for each source instance, found none for {sop_instance_uid}")
    try:
        header = dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as problem:
        raise Unavailable(f"source instance {sop_instance_uid} cannot be read: {type(problem).__name__}") from problem
    if header.get("SOPInstanceUID") != sop_instance_uid:
        found = header.get("SOPInstanceUID", "none")
        raise ResultMismatch(f"expected source instance {sop_instance_uid} in its file, found {found}")
    return header


def _plane(header: Dataset, source: SliceSource) -> SourcePlane:
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
        values = group.get(keyword)
        if values is not None and len(values) == count:
            return tuple(_decimal(value) for value in values)
    raise ResultMismatch(f"expected {count} values of {keyword} in the header of each source slice, found none")


def _decimal(value: object) -> str:
    """The decimal string as written, if it is a legal one; else the nearest that is."""
    text = str(value).strip()
    return text if len(text) <= MAX_DECIMAL_STRING else format_number_as_ds(float(text))
