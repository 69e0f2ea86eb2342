"""The header of a segmentation, built by highdicom for a single row of pixels.

highdicom knows the modules of the Segmentation IOD (PS3.3 A.51); it needs a second per thousand frames.
So it makes the object for one plane of 1 x n pixels from a neutral source, and `seg` puts the real planes in
place of that one. The patient's and study's attributes are copied afterwards, as the source wrote them: the
constructor would refuse identities that scanners do write, such as a sex of "X" or a birth date of "19630231".
"""

import unicodedata
from collections.abc import Sequence
from datetime import datetime

import highdicom as hd
import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from dicomnode.encoding.outline import Reference, SourceOutline
from dicomnode.encoding.request import EncodingRequest
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import CodedConcept, Geometry, ModelIdentity, Segment, derived_uid

MAX_LONG_STRING = 64  # LO, PS3.5 table 6.2-1
NOT_DIAGNOSTIC = "not for diagnostic use"
MAKER = "dicomnode"
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "InstitutionName")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
SPATIAL = ("FrameOfReferenceUID", "PositionReferenceIndicator")


def build_template(
    segments: Sequence[Segment],
    model: ModelIdentity,
    geometry: Geometry,
    sources: SourceOutline,
    request: EncodingRequest,
) -> hd.seg.Segmentation:
    """A complete SEG of one plane of 1 x n pixels; what does not depend on the frames is final.

    Raises:
        ResultMismatch: the source has no frame of reference.
    """
    software = long_string(f"{MAKER} {request.software_version}")
    seg = hd.seg.Segmentation(
        source_images=[_neutral_source(sources, geometry, width=len(segments))],
        pixel_array=np.arange(1, len(segments) + 1, dtype=np.uint8 if len(segments) < 256 else np.uint16)[None, None],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment, model, request) for segment in segments],
        series_instance_uid=request.series_uid,
        series_number=request.series_number,
        sop_instance_uid=request.instance_uid,
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=long_string(model.title),
        software_versions=software,
        device_serial_number=long_string(request.device_serial_number),
        content_label=request.content_label,
        content_description=_labelled(f"{model.title} {model.version}", model),
        series_description=_labelled(f"AI {model.title} {model.version}", model),
    )
    seg.add(DataElement("SoftwareVersions", "LO", [software, long_string(f"{model.name} {model.version}")]))
    seg.ContentCreatorName = ""  # type 2: no person drew this
    _copy_identity(seg, sources.first)
    _set_times(seg, request.created_at)
    _set_references(seg, sources)
    organization = derived_uid(request.instance_uid, "dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return seg


def _neutral_source(sources: SourceOutline, geometry: Geometry, width: int) -> Dataset:
    """A source of one row of `width` pixels in the real study and plane, of a nameless patient."""
    first, plane = sources.first, sources.planes[0]
    if not first.get("FrameOfReferenceUID"):
        raise ResultMismatch("expected a Frame of Reference UID in the source, found none: a SEG cannot refer to it")
    source = Dataset()
    source.SOPClassUID = CTImageStorage  # a single frame, whatever the real source is; `_set_references` names that
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", *SPATIAL, *EQUIPMENT, *LOSSY):
        if keyword in first:
            source.add(first[keyword])
    source.PatientID = source.PatientName = source.PatientBirthDate = source.PatientSex = ""
    source.AccessionNumber = source.StudyID = source.StudyDate = source.StudyTime = ""
    source.Modality = "CT"
    source.Rows, source.Columns = 1, width
    source.ImagePositionPatient, source.ImageOrientationPatient = list(plane.position), list(plane.orientation)
    source.PixelSpacing = list(plane.pixel_spacing)
    # PS3.3 C.7.6.16.2.1: centre to centre along the normal; scanners often write something else.
    step = format_number_as_ds(abs(float(geometry.affine[:3, 0] @ geometry.normal)))
    source.SliceThickness, source.SpacingBetweenSlices = first.get("SliceThickness") or step, step
    return source


def _description(segment: Segment, model: ModelIdentity, request: EncodingRequest) -> hd.seg.SegmentDescription:
    described = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=long_string(segment.name),
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(model),
        tracking_uid=derived_uid(request.instance_uid, "segment", segment.name),
        tracking_id=_ascii(f"{model.name} {segment.name}"),
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour_rgb),
    )
    if segment.modifier is not None:
        item = described.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [_code(segment.modifier)]
    return described


def _algorithm(model: ModelIdentity) -> hd.AlgorithmIdentificationSequence:
    """Name, version and the digest of the weights (PS3.3 10.16): which network this was, beyond doubt."""
    return hd.AlgorithmIdentificationSequence(
        name=long_string(model.title),
        family=codes.DCM.ArtificialIntelligence,
        version=long_string(model.version),
        source=MAKER,
        parameters={"model": _ascii(model.name), "weights_sha256": model.weights_sha256},
    )


def _copy_identity(seg: hd.seg.Segmentation, source: Dataset) -> None:
    for keyword in ("SpecificCharacterSet", "TimezoneOffsetFromUTC"):
        if keyword in source:
            seg.add(source[keyword])
    seg.copy_patient_and_study_information(source)


def _set_times(seg: Dataset, created_at: datetime) -> None:
    date, time = created_at.strftime("%Y%m%d"), created_at.strftime("%H%M%S.%f")
    seg.InstanceCreationDate = seg.ContentDate = seg.SeriesDate = date
    seg.InstanceCreationTime = seg.ContentTime = seg.SeriesTime = time
    for item in seg.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            item.ContributionDateTime = date + time


def _set_references(seg: Dataset, sources: SourceOutline) -> None:
    """Every source instance, also those without a voxel of any segment: viewers open the series from here."""
    references = [_reference(reference) for reference in sources.references]
    seg.SourceImageSequence = references
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references


def _reference(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def _code(concept: CodedConcept) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _labelled(text: str, model: ModelIdentity) -> str:
    """The text, and the warning in full however long the text: a cut warning would be none."""
    warning = "" if model.diagnostic else f" - {NOT_DIAGNOSTIC}"
    return long_string(text, MAX_LONG_STRING - len(warning)) + warning


def long_string(text: str, length: int = MAX_LONG_STRING) -> str:
    """A text as an LO value: ASCII, one value, cut to its length."""
    return _ascii(text).replace("\\", "/")[:length].rstrip()


def _ascii(text: str) -> str:
    """Our own words in characters that every source's character set has (PS3.3 C.12.1.1.2)."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
