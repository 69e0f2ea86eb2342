"""Read a SEG with dcmqi, the reader that shares no code with ours, and put its answer on the source grid."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from dicomnode.imaging import Geometry
from tests.peers import program

MAX_OFF_GRID_MM = 0.02


def dcmqi_masks(seg: Path, folder: Path, geometry: Geometry) -> Mapping[int, NDArray[np.bool_]]:
    """Each segment's voxels `[slice, row, column]` on the source grid, by segment number."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [program("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {int(path.stem.split("-")[-1].split(".")[0]): path for path in folder.glob("*.nrrd")}
    return {number: _on_grid(SimpleITK.ReadImage(str(path)), geometry) for number, path in sorted(files.items())}


def _on_grid(image: SimpleITK.Image, geometry: Geometry) -> NDArray[np.bool_]:
    """Place an ITK image's set voxels by their position in the patient (LPS mm) and by nothing else."""
    geometry = _as_stack(geometry, image.GetOrigin()) if geometry.is_sheared else geometry
    found = SimpleITK.GetArrayFromImage(image)  # [z, y, x] of the image's own axes
    points_mm = _positions_mm(image, np.argwhere(found))
    indices = geometry.to_indices(points_mm)
    nearest = np.rint(indices).astype(int)
    off_mm = np.abs((indices - nearest) * np.array(geometry.spacing_mm)).max(initial=0.0)
    assert off_mm <= MAX_OFF_GRID_MM, f"dcmqi's voxels lie {off_mm:.4f} mm off the source grid"
    mask = np.zeros(geometry.shape, np.bool_)
    mask[tuple(nearest.T)] = True
    return mask


def _as_stack(geometry: Geometry, origin_mm: tuple[float, ...]) -> Geometry:
    """What ITK can say of a sheared grid: its planes stacked straight along their normal from the first one shown."""
    first = round(float(geometry.to_indices(np.array([origin_mm]))[0, 0]))
    step = geometry.normal * (geometry.affine[:3, 0] @ geometry.normal)
    affine = geometry.affine.copy()
    affine[:3, 0], affine[:3, 3] = step, geometry.position_mm(first) - first * step
    return Geometry(affine, geometry.shape, geometry.frame_of_reference_uid)


def _positions_mm(image: SimpleITK.Image, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    directions = np.array(image.GetDirection(), dtype=np.float64).reshape(3, 3) * np.array(image.GetSpacing())
    return indices[:, ::-1] @ directions.T + np.array(image.GetOrigin())
