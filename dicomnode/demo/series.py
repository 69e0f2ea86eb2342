"""Write a CT series as a scanner would: one CT Image Storage file per slice, from voxels and a geometry.

The demo sends such a series, and the tests build theirs with it: any orientation, tilt, spacing or offset
that a `Geometry` can express.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicomnode.imaging import Geometry, derived_uid


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """Whose series it is and what it is called; the UIDs follow from `seed`."""

    seed: str
    patient_id: str = "PHANTOM-1"
    patient_name: str = "Phantom^Torso"
    description: str = "Phantom torso"
    body_part: str = "ABDOMEN"
    patient_position: str = "HFS"
    modality: str = "CT"

    @property
    def study_instance_uid(self) -> str:
        """The study's UID."""
        return derived_uid(self.seed, "study")

    @property
    def series_instance_uid(self) -> str:
        """The series' UID."""
        return derived_uid(self.seed, "series")

    @property
    def frame_of_reference_uid(self) -> str:
        """The frame of reference's UID."""
        return derived_uid(self.seed, "frame of reference")


def build_ct_slices(
    voxels_hu: NDArray[np.int16],
    geometry: Geometry,
    identity: SeriesIdentity,
    rescale_intercept: int = -1024,
) -> list[FileDataset]:
    """Voxels `[slice, row, column]` in HU -> one CT Image data set per slice (PS3.3 A.3), in slice order."""
    spacing = geometry.spacing_mm
    cosines = [*geometry.directions[:, 2], *geometry.directions[:, 1]]  # row direction first (C.7.6.2.1.1)
    thickness = float(abs(geometry.affine[:3, 0] @ geometry.normal))
    slices: list[FileDataset] = []
    for index, plane in enumerate(voxels_hu):
        slices.append(_general(identity, index))
        ds = slices[-1]
        ds.ImagePositionPatient = [_decimal(v) for v in geometry.position_mm(index)]
        ds.ImageOrientationPatient = [_decimal(v) for v in cosines]
        ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
        ds.SliceThickness = _decimal(thickness)
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(rescale_intercept), "1", "HU"
        stored = plane.astype(np.int32) - rescale_intercept
        ds.PixelData = stored.astype("<i2").tobytes()
    return slices


def write_series(slices: Sequence[FileDataset], folder: Path) -> list[Path]:
    """Write each data set as `slice-0001.dcm`, ... under `folder`; returns the paths in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number, ds in enumerate(slices, 1):
        paths.append(folder / f"slice-{number:04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def _general(identity: SeriesIdentity, index: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(derived_uid(identity.seed, "instance", str(index)))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "080000"
    ds.AccessionNumber, ds.StudyID = "PHANTOM", "1"
    ds.Modality = identity.modality
    ds.Manufacturer, ds.ManufacturerModelName = "dicomnode", "procedural phantom"
    ds.ReferringPhysicianName = ""
    ds.SeriesDescription, ds.StudyDescription = identity.description, identity.description
    ds.PatientName, ds.PatientID = identity.patient_name, identity.patient_id
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.BodyPartExamined, ds.PatientPosition = identity.body_part, identity.patient_position
    ds.KVP = "120"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = identity.study_instance_uid, identity.series_instance_uid
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = identity.frame_of_reference_uid, ""
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "1", str(index + 1)
    return ds


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2), as exact as that allows."""
    text = repr(round(float(value), 10) + 0.0)
    return text if len(text) <= 16 else f"{float(value):.9g}"
