"""Reads what evaluations are measured on: CT series and the label maps that come with public data sets.

The node's own way from DICOM to a volume is in assembly/, with its gate; here the files are known to be sound.
"""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.imaging import Geometry

_UNKNOWN_FRAME = "1.2.826.0.1.3680043.8.498.1"  # NIfTI and NRRD name no frame of reference
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_NRRD_TYPES = {"short": "i2", "unsigned short": "u2", "unsigned char": "u1", "int": "i4", "float": "f4"}


@dataclass(frozen=True, slots=True, eq=False)
class GridImage:
    """Voxels `[slice, row, column]` (HU or labels) and where they are in the patient."""

    voxels: NDArray[np.generic]
    geometry: Geometry


def read_image(path: Path) -> GridImage:
    """Read a folder of one CT series, a NIfTI-1 file (.nii, .nii.gz) or an NRRD file."""
    if path.is_dir():
        return _read_series(path)
    return _read_nrrd(path) if path.suffix == ".nrrd" else _read_nifti(path)


def bring_labels_to(labels: GridImage, geometry: Geometry) -> NDArray[np.generic]:
    """Give the label nearest to the centre of every voxel of another grid; 0 outside the labelled one."""
    to_labels = np.linalg.solve(labels.geometry.affine, geometry.affine)
    return ndimage.affine_transform(
        labels.voxels,
        to_labels[:3, :3],
        offset=to_labels[:3, 3],  # pyright: ignore[reportArgumentType]  scipy takes one offset for each axis
        output_shape=geometry.shape,
        order=0,
        cval=0,
    )


def _read_series(folder: Path) -> GridImage:
    """Stack single-frame CT instances along their normal (PS3.3 C.7.6.2.1.1)."""
    datasets = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    row_direction, column_direction = np.array(datasets[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row_direction, column_direction)
    datasets.sort(key=lambda dataset: float(np.dot(normal, dataset.ImagePositionPatient)))
    first, last = (np.array(datasets[index].ImagePositionPatient, float) for index in (0, -1))
    between_rows, between_columns = (float(value) for value in datasets[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(datasets) - 1)
    affine[:3, 1], affine[:3, 2] = column_direction * between_rows, row_direction * between_columns
    affine[:3, 3] = first
    planes = [
        dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept) for dataset in datasets
    ]
    voxels = np.stack(planes).astype(np.float32)
    return _grid_image(voxels, affine)


def _read_nifti(path: Path) -> GridImage:
    """Read a NIfTI-1 file with an sform or a qform-free header: nifti1.h of the NIfTI data format group."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    order = "<" if struct.unpack("<i", content[:4])[0] == 348 else ">"
    columns, rows, slices = struct.unpack(f"{order}3h", content[42:48])
    (kind,) = struct.unpack(f"{order}h", content[70:72])
    offset, slope, intercept = struct.unpack(f"{order}3f", content[108:120])
    (sform_code,) = struct.unpack(f"{order}h", content[254:256])
    if sform_code <= 0:
        raise ValueError(f"{path}: expected an sform, found sform_code {sform_code}")
    rows_of_affine = np.array(struct.unpack(f"{order}12f", content[280:328])).reshape(3, 4)
    count = columns * rows * slices
    voxels = np.frombuffer(content, np.dtype(_NIFTI_TYPES[kind]).newbyteorder(order), count, int(offset))
    voxels = voxels.reshape(slices, rows, columns)
    if slope not in (0.0, 1.0) or intercept != 0.0:
        voxels = voxels.astype(np.float32) * np.float32(slope or 1.0) + np.float32(intercept)
    affine = np.eye(4)
    affine[:3] = rows_of_affine[:, [2, 1, 0, 3]]  # from (i, j, k) to (slice, row, column)
    affine[:2] *= -1.0  # from RAS to LPS
    return _grid_image(voxels, affine)


def _read_nrrd(path: Path) -> GridImage:
    """Read an attached-header NRRD file in LPS space: teem.sourceforge.net/nrrd/format.html."""
    header, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line and line[0] != "#")
    if fields["space"] != "left-posterior-superior":
        raise ValueError(f"{path}: expected space left-posterior-superior, found {fields['space']}")
    columns, rows, slices = (int(size) for size in fields["sizes"].split())
    if fields["encoding"] in ("gzip", "gz"):
        content = gzip.decompress(content)
    kind = np.dtype(_NRRD_TYPES[fields["type"]]).newbyteorder("<" if fields["endian"] == "little" else ">")
    vectors = [_vector(text) for text in fields["space directions"].split()]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = reversed(vectors)
    affine[:3, 3] = _vector(fields["space origin"])
    return _grid_image(np.frombuffer(content, kind, columns * rows * slices).reshape(slices, rows, columns), affine)


def _vector(text: str) -> list[float]:
    return [float(number) for number in text.strip("()").split(",")]


def _grid_image(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> GridImage:
    """Turn the slices round where they run against the acquisition normal, as `Geometry` wants them."""
    if np.linalg.det(affine[:3, :3]) > 0:
        affine[:3, 3] += affine[:3, 0] * (len(voxels) - 1)
        affine[:3, 0] *= -1.0
        voxels = voxels[::-1]
    native = np.ascontiguousarray(voxels.astype(voxels.dtype.newbyteorder("=")))
    slices, rows, columns = native.shape
    return GridImage(native, Geometry(affine, (slices, rows, columns), _UNKNOWN_FRAME))
