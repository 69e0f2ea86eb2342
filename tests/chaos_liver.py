"""The real series chaos-liver with its radiologist's liver mask, as a segmentation to encode."""

from pathlib import Path

import nibabel
import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset

from dicomnode.imaging import Geometry, Segmentation, SliceSource
from tests.encoding_cases import MODEL, STRUCTURES, Case, build_request
from tests.peers import shared_data


def chaos_liver_case() -> Case:
    """The mask on the series' own slices, matched by their positions in the patient."""
    folder = shared_data("series/chaos-liver")
    headers = {path: dcmread(path, stop_before_pixels=True) for path in sorted((folder / "DICOM_anon").glob("*.dcm"))}
    slices = sorted(headers.items(), key=lambda entry: float(entry[1].ImagePositionPatient[2]))
    geometry = _geometry([header for _, header in slices])
    sources = tuple(SliceSource(str(header.SOPInstanceUID), str(header.SOPClassUID)) for _, header in slices)
    mask = nibabel.Nifti1Image.from_filename(folder / "liver_label.nii.gz")
    labels = _on_grid(np.asarray(mask.dataobj), np.asarray(mask.affine), geometry)
    labels[(labels == 0) & _in_slab(geometry)] = 1
    files: dict[str, Path] = {str(header.SOPInstanceUID): path for path, header in slices}
    return Case(Segmentation(labels, geometry, sources, STRUCTURES, MODEL), files, build_request("chaos"))


def _geometry(slices: list[FileDataset]) -> Geometry:
    first, last = (np.array(slices[index].ImagePositionPatient, dtype=np.float64) for index in (0, -1))
    assert list(slices[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(slices) - 1)
    affine[:3, 1] = (0, float(slices[0].PixelSpacing[0]), 0)
    affine[:3, 2] = (float(slices[0].PixelSpacing[1]), 0, 0)
    affine[:3, 3] = first
    shape = (len(slices), int(slices[0].Rows), int(slices[0].Columns))
    return Geometry(affine, shape, str(slices[0].FrameOfReferenceUID))


def _on_grid(mask: np.ndarray, affine_ras: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A NIfTI mask [i, j, k] in RAS -> labels on the series' grid, by position; every voxel must hit a centre."""
    voxels = np.argwhere(mask > 0).astype(np.float64)
    points_lps = (voxels @ affine_ras[:3, :3].T + affine_ras[:3, 3]) * (-1, -1, 1)
    indices = geometry.to_indices(points_lps)
    assert np.abs(indices - np.rint(indices)).max() < 0.01
    labels = np.zeros(geometry.shape, np.uint8)
    labels[tuple(np.rint(indices).astype(int).T)] = 2
    return labels


def _in_slab(geometry: Geometry) -> np.ndarray:
    """A few slices in the middle, so that the body is not a plain copy of the liver."""
    slab = np.zeros(geometry.shape, np.bool_)
    slab[30:33, 100:400, 60:450] = True
    return slab
