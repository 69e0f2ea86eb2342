"""What each frame of a result says of itself: Per-Frame Functional Groups, read strictly and all at once.

The frames of one slice repeat the same bytes for every segment, so each distinct value is read once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicomnode.encoding import strict

PER_FRAME_GROUPS = 0x52009230
_CODE: Mapping[int, bytes] = {0x00080100: b"SH", 0x00080102: b"SH", 0x00080104: b"LO"}
_GROUPS: Mapping[int, bytes] = {0x00089124: b"SQ", 0x00209111: b"SQ", 0x00209113: b"SQ", 0x0062000A: b"SQ"}
_OWN_PLANE: Mapping[int, bytes] = {0x00209116: b"SQ", 0x00289110: b"SQ"}
_DERIVATION: Mapping[int, bytes] = {0x00082112: b"SQ", 0x00089215: b"SQ"}
_SOURCE: Mapping[int, bytes] = {0x00081150: b"UI", 0x00081155: b"UI", 0x0028135A: b"CS", 0x0040A170: b"SQ"}

Code = tuple[str, str]  # value, scheme


@dataclass(frozen=True, slots=True)
class FrameOrigin:
    """The source slice that a frame says it was made from, and how."""

    class_uid: str
    instance_uid: str
    frame_number: int | None
    pixels_match: bool  # Spatial Locations Preserved
    purpose: Code
    derivation: Code

    @property
    def slice(self) -> tuple[str, str, int | None]:
        """SOP class, SOP instance and frame of the source slice."""
        return self.class_uid, self.instance_uid, self.frame_number


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """What one frame says of itself."""

    segment_number: int
    origin: FrameOrigin
    dimension_indices: tuple[int, ...]
    position_mm: tuple[float, ...]  # LPS
    orientation: tuple[float, ...] | None  # its own, where it has one
    pixel_spacing_mm: tuple[float, ...] | None  # its own, where it has one


def read_frames(value: bytes) -> list[DecodedFrame]:
    """Every frame in the order of the file, from the value of Per-Frame Functional Groups Sequence (5200,9230).

    Raises:
        Malformed: anything stands there that a result of the node does not hold.
    """
    origin, position = cache(_origin), cache(_position)
    return [
        DecodedFrame(
            segment_number=_segment_number(groups[0x0062000A]),
            origin=origin(groups[0x00089124]),
            dimension_indices=_dimension_indices(groups[0x00209111]),
            position_mm=position(groups[0x00209113]),
            orientation=_orientation(groups[0x00209116]) if 0x00209116 in groups else None,
            pixel_spacing_mm=_pixel_spacing(groups[0x00289110]) if 0x00289110 in groups else None,
        )
        for groups in (strict.fields(item, _GROUPS, _OWN_PLANE) for item in strict.items(value))
    ]


def _origin(value: bytes) -> FrameOrigin:
    """Derivation Image (PS3.3 C.7.6.16.2.6)."""
    derivation = strict.fields(strict.sole_item(value), _DERIVATION)
    source = strict.fields(strict.sole_item(derivation[0x00082112]), _SOURCE, {0x00081160: b"IS"})
    return FrameOrigin(
        class_uid=strict.uid(source[0x00081150]),
        instance_uid=strict.uid(source[0x00081155]),
        frame_number=strict.integer(source[0x00081160]) if 0x00081160 in source else None,
        pixels_match=strict.code_string(source[0x0028135A]) == "YES",
        purpose=_code(source[0x0040A170]),
        derivation=_code(derivation[0x00089215]),
    )


def _code(value: bytes) -> Code:
    code = strict.fields(strict.sole_item(value), _CODE)
    return strict.code_string(code[0x00080100]), strict.code_string(code[0x00080102])


def _position(value: bytes) -> tuple[float, ...]:
    return strict.decimals(strict.fields(strict.sole_item(value), {0x00200032: b"DS"})[0x00200032], 3)


def _orientation(value: bytes) -> tuple[float, ...]:
    return strict.decimals(strict.fields(strict.sole_item(value), {0x00200037: b"DS"})[0x00200037], 6)


def _pixel_spacing(value: bytes) -> tuple[float, ...]:
    return strict.decimals(strict.fields(strict.sole_item(value), {0x00280030: b"DS"})[0x00280030], 2)


def _dimension_indices(value: bytes) -> tuple[int, ...]:
    return strict.unsigned(strict.fields(strict.sole_item(value), {0x00209157: b"UL"})[0x00209157], 4)


def _segment_number(value: bytes) -> int:
    return strict.unsigned(strict.fields(strict.sole_item(value), {0x0062000B: b"US"})[0x0062000B], 2)[0]


def frame_by_pydicom(item: bytes) -> DecodedFrame:
    """The same from the bytes of one item, read by pydicom: two readers that share nothing must agree."""
    return frame_of(read_dataset(BytesIO(item), is_implicit_VR=False, is_little_endian=True))


def frame_of(item: Dataset) -> DecodedFrame:
    """What a frame says in an item that pydicom has read, however it was written.

    Raises:
        AttributeError, KeyError, IndexError, TypeError, ValueError: a functional group is missing or odd.
    """
    plane = item.get("PlaneOrientationSequence")
    measures = item.get("PixelMeasuresSequence")
    return DecodedFrame(
        segment_number=int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
        origin=_origin_of(item.DerivationImageSequence[0]),
        dimension_indices=tuple(int(v) for v in item.FrameContentSequence[0].DimensionIndexValues),
        position_mm=tuple(float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient),
        orientation=tuple(float(v) for v in plane[0].ImageOrientationPatient) if plane else None,
        pixel_spacing_mm=tuple(float(v) for v in measures[0].PixelSpacing) if measures else None,
    )


def _origin_of(derivation: Dataset) -> FrameOrigin:
    source = derivation.SourceImageSequence[0]
    frame_number = source.get("ReferencedFrameNumber")
    return FrameOrigin(
        class_uid=str(source.ReferencedSOPClassUID),
        instance_uid=str(source.ReferencedSOPInstanceUID),
        frame_number=None if frame_number is None else int(frame_number),
        pixels_match=source.get("SpatialLocationsPreserved") == "YES",
        purpose=_code_of(source.PurposeOfReferenceCodeSequence[0]),
        derivation=_code_of(derivation.DerivationCodeSequence[0]),
    )


def _code_of(item: Dataset) -> Code:
    return str(item.CodeValue), str(item.CodingSchemeDesignator)
