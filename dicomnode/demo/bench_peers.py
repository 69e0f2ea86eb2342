"""The same work by the libraries as anyone would call them: what the node's own steps are measured against."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everyone calls it
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from dicomnode.imaging import CodedConcept, Segment, Segmentation


def read_with_simpleitk(folder: Path) -> tuple[int, ...]:
    """Read a series by SimpleITK's reader, GDCM sorting the files; the shape `[slice, row, column]`."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return tuple(sitk.GetArrayViewFromImage(reader.Execute()).shape)


def encode_with_highdicom(segmentation: Segmentation, sources: Sequence[Path], path: Path) -> None:
    """Write a BINARY SEG of the label map from the source files, empty frames omitted, by highdicom alone."""
    seg = hd.seg.Segmentation(
        source_images=[dcmread(source, stop_before_pixels=True) for source in sources],
        pixel_array=np.asarray(segmentation.labels),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment) for segment in segmentation.segments],
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="highdicom",
        manufacturer_model_name="called plainly",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)


def _description(segment: Segment) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="bench", family=codes.DCM.ArtificialIntelligence, version="1"
        ),
    )


def _code(concept: CodedConcept) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)
