"""What one instance says about itself before its pixels: identity, planes, rescaling, where the pixels lie.

Owns the reading of headers. Nothing here decides whether a series is usable; the gate does.
"""

import hashlib
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from dicomnode.assembly.elements import Elements
from dicomnode.assembly.layout import PixelLayout, locate_pixels, named_if_unavailable
from dicomnode.assembly.syntaxes import EXPLICIT_BIG_ENDIAN, SUPPORTED_SYNTAXES
from dicomnode.imaging import Finding, Instance, SliceSource

Vector = tuple[float, float, float]

_KEYWORDS = (
    *("ImageType", "SOPClassUID", "SOPInstanceUID", "Modality"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate"),
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_TAGS = [tag for tag in map(tag_for_keyword, _KEYWORDS) if tag is not None]

# What pydicom raises on damaged data sets (found by flipping bytes in real files); none of it is promised.
_DAMAGE = (
    *(EOFError, struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(NotImplementedError, OverflowError, RecursionError, AssertionError, MemoryError, OSError, BytesLengthException),
)


class HeaderProblem(Exception):
    """The instance cannot be taken into account; carries the finding and an operator's sentence."""

    def __init__(self, finding: Finding, sentence: str) -> None:
        super().__init__(sentence)
        self.finding = finding
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a slice is: Image Position, the row and column cosines (PS3.3 C.7.6.2.1.1), Pixel Spacing."""

    position_mm: Vector  # LPS, centre of the first voxel
    row_direction: Vector  # the direction in which the column index grows
    column_direction: Vector  # the direction in which the row index grows
    row_spacing_mm: float  # between rows: the FIRST value of Pixel Spacing (PS3.3 10.7.1.3)
    column_spacing_mm: float


@dataclass(frozen=True, slots=True)
class Rescale:
    """Stored value -> real value: `stored * slope + intercept`, in units of `type` (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float
    type: str
    is_declared: bool  # False: the instance says nothing, 1 and 0 are our assumption


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: a single-frame instance, or one frame of an enhanced multi-frame one."""

    instance: Instance
    sop_class_uid: str
    frame_number: int | None  # from 1; None for single-frame instances
    plane: Plane
    rescale: Rescale
    layout: PixelLayout

    @property
    def source(self) -> SliceSource:
        """The slice's origin as results reference it."""
        return SliceSource(self.instance.sop_instance_uid, self.sop_class_uid, self.frame_number)


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What one instance says about itself; `missing` names the attributes its slices would need."""

    instance: Instance
    sop_class_uid: str
    modality: str
    image_type: tuple[str, ...]
    patient_digest: str  # SHA-256 of who the patient is: can be compared, cannot be read
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    photometric: str
    layout: PixelLayout
    dataset_offset: int  # where the data set begins behind the file meta information
    slices: tuple[SliceHeader, ...]
    missing: tuple[str, ...]


def read_header(instance: Instance) -> InstanceHeader:
    """Read everything but the pixels of one instance.

    Raises:
        HeaderProblem: the file is not DICOM, is damaged, or is in a transfer syntax that is not read.
        Unavailable: the file cannot be opened now.
    """
    with problems_named(instance.path):
        syntax = read_supported_syntax(instance.path)
        with instance.path.open("rb") as file:
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _header(instance, dataset, file, syntax)


@contextmanager
def problems_named(path: Path) -> Generator[None]:
    """Translate what reading a DICOM file may raise.

    Raises:
        HeaderProblem: the file is not DICOM or is damaged.
        Unavailable: the file cannot be opened now.
    """
    try:
        with named_if_unavailable(path):
            yield
    except InvalidDicomError as error:
        sentence = "expected a DICOM file (PS3.10), found no 'DICM' at byte 128"
        raise HeaderProblem(Finding.NOT_DICOM, sentence) from error
    except _DAMAGE as error:
        sentence = f"expected a readable header, found damage: {type(error).__name__}"
        raise HeaderProblem(Finding.UNREADABLE_HEADER, sentence) from error


def read_supported_syntax(path: Path) -> str:
    """The file's transfer syntax.

    Looked at before the data set is touched: pydicom inflates a whole deflated one to read its first byte.

    Raises:
        HeaderProblem: it is missing, or not one that is read.
    """
    syntax = Elements(read_file_meta_info(path)).text("TransferSyntaxUID")
    if not syntax:
        raise HeaderProblem(Finding.UNREADABLE_HEADER, "expected a Transfer Syntax UID in the file, found none")
    if syntax not in SUPPORTED_SYNTAXES:
        sentence = f"expected uncompressed, RLE or lossless JPEG, JPEG-LS or JPEG 2000 pixels, found {UID(syntax).name}"
        raise HeaderProblem(Finding.UNSUPPORTED_TRANSFER_SYNTAX, sentence)
    return syntax


def _header(instance: Instance, dataset: FileDataset, file: BufferedReader, syntax: str) -> InstanceHeader:
    elements = Elements(dataset, little_endian=syntax != EXPLICIT_BIG_ENDIAN)
    layout = locate_pixels(file, elements, syntax, implicit=bool(dataset.original_encoding[0]))
    _check_is_indexed_one(instance, elements)
    slices, missing = _slices(instance, elements, layout)
    return InstanceHeader(
        instance=instance,
        sop_class_uid=elements.text("SOPClassUID"),
        modality=elements.text("Modality"),
        image_type=elements.words("ImageType"),
        patient_digest=_patient_digest(elements),
        study_instance_uid=elements.text("StudyInstanceUID"),
        series_instance_uid=elements.text("SeriesInstanceUID"),
        frame_of_reference_uid=elements.text("FrameOfReferenceUID"),
        photometric=elements.text("PhotometricInterpretation"),
        layout=layout,
        dataset_offset=_dataset_offset(dataset),
        slices=slices,
        missing=missing,
    )


def _check_is_indexed_one(instance: Instance, elements: Elements) -> None:
    found = elements.text("SOPInstanceUID")
    if found != instance.sop_instance_uid:
        sentence = f"expected instance {instance.sop_instance_uid} in the file, found {found[:64] or 'no UID'}"
        raise HeaderProblem(Finding.UNREADABLE_HEADER, sentence)


def _dataset_offset(dataset: FileDataset) -> int:
    group_length = Elements(dataset.file_meta).long("FileMetaInformationGroupLength")
    return 132 + 12 + group_length  # preamble and prefix, the group length element itself (PS3.10 7.1)


def _patient_digest(elements: Elements) -> str:
    """Who the patient is, as a digest: case, padding and empty trailing name components do not count."""
    keywords = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate")
    words = [elements.text(keyword).casefold().rstrip("^= ") for keyword in keywords]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _slices(
    instance: Instance, elements: Elements, layout: PixelLayout
) -> tuple[tuple[SliceHeader, ...], tuple[str, ...]]:
    per_frame = elements.items("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        groups = [(None, _Groups((elements,)))]
    else:
        shared = elements.items("SharedFunctionalGroupsSequence")
        groups = [(number, _Groups((frame, *shared))) for number, frame in enumerate(per_frame, 1)]
    missing = sorted({keyword for _, group in groups for keyword in group.missing()})
    if len(groups) != layout.frames:
        missing.append(f"functional groups of {layout.frames - len(groups)} of {layout.frames} frames")
    if missing:
        return (), tuple(missing)
    sop_class = elements.text("SOPClassUID")
    return tuple(
        SliceHeader(instance, sop_class, number, group.plane(), group.rescale(), layout) for number, group in groups
    ), ()


class _Groups:
    """Where a slice's planes stand: in the data set, or in a frame's functional groups before the shared ones."""

    def __init__(self, candidates: Sequence[Elements]) -> None:
        self._candidates = candidates

    def missing(self) -> list[str]:
        """Which attributes a slice needs and does not have with enough values."""
        return [keyword for keyword, (_, count) in _NEEDED.items() if len(self._numbers(keyword)) != count]

    def plane(self) -> Plane:
        position, cosines = self._numbers("ImagePositionPatient"), self._numbers("ImageOrientationPatient")
        row_spacing, column_spacing = self._numbers("PixelSpacing")
        return Plane(
            position_mm=(position[0], position[1], position[2]),
            row_direction=(cosines[0], cosines[1], cosines[2]),
            column_direction=(cosines[3], cosines[4], cosines[5]),
            row_spacing_mm=row_spacing,
            column_spacing_mm=column_spacing,
        )

    def rescale(self) -> Rescale:
        group = self._group("PixelValueTransformationSequence", "RescaleSlope")
        return Rescale(
            slope=group.number("RescaleSlope", 1.0),
            intercept=group.number("RescaleIntercept", 0.0),
            type=group.text("RescaleType"),
            is_declared=bool(group.words("RescaleSlope") and group.words("RescaleIntercept")),
        )

    def _numbers(self, keyword: str) -> tuple[float, ...]:
        return self._group(_NEEDED[keyword][0], keyword).numbers(keyword)

    def _group(self, sequence: str, keyword: str) -> Elements:
        """The item (or the data set itself) that holds the attribute; the first candidate if none does."""
        for candidate in self._candidates:
            for group in (*candidate.items(sequence), candidate):
                if group.text(keyword):
                    return group
        return self._candidates[0]


# Attribute -> its functional group (PS3.3 C.7.6.16.2) and how many values it must have.
_NEEDED = {
    "ImagePositionPatient": ("PlanePositionSequence", 3),
    "ImageOrientationPatient": ("PlaneOrientationSequence", 6),
    "PixelSpacing": ("PixelMeasuresSequence", 2),
}
