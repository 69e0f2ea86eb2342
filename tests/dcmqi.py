"""Read a SEG with dcmqi, the reader that shares no code with ours, and put its answer on the source grid."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.utils import pack_bits

from dicomnode.imaging import Geometry
from tests.peers import program

MAX_OFF_GRID_MM = 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """What dcmqi made of a SEG: an ITK image per segment number (none if it refused), and what it said."""

    images: Mapping[int, SimpleITK.Image]
    said: str


def ask_dcmqi(seg: Path, folder: Path) -> Answer:
    """Run dcmqi's reader; it exits with 0 also when it refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [program("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    files = {int(path.stem.split("-")[-1].split(".")[0]): path for path in folder.glob("*.nrrd")}
    return Answer({number: SimpleITK.ReadImage(str(path)) for number, path in sorted(files.items())}, said)


def dcmqi_masks(seg: Path, folder: Path, geometry: Geometry) -> Mapping[int, NDArray[np.bool_]]:
    """Each segment's voxels `[slice, row, column]` on the source grid, by segment number."""
    return {number: _on_grid(image, geometry) for number, image in ask_dcmqi(seg, folder).images.items()}


def dcmqi_masks_frame_by_frame(seg: Path, folder: Path, geometry: Geometry) -> Mapping[int, NDArray[np.bool_]]:
    """The same of a sheared grid: an ITK image can be no parallelepiped, so each frame is read as a SEG of its own."""
    masks: dict[int, NDArray[np.bool_]] = {}
    for frame in _cut_into_frames(seg, folder):
        for number, found in dcmqi_masks(frame, frame.with_suffix(""), geometry).items():
            masks[number] = masks.get(number, np.zeros(geometry.shape, np.bool_)) | found
    return masks


def _cut_into_frames(seg: Path, folder: Path) -> Iterator[Path]:
    """Each frame in a SEG of one frame; its groups and the header stay as they are in the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    ds = dcmread(seg)
    planes = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    for index, groups in enumerate(list(ds.PerFrameFunctionalGroupsSequence)):
        ds.NumberOfFrames, ds.PerFrameFunctionalGroupsSequence = 1, [groups]
        ds.PixelData = pack_bits(planes[index].ravel())
        ds.save_as(folder / f"{index}.dcm")
        yield folder / f"{index}.dcm"


def _on_grid(image: SimpleITK.Image, geometry: Geometry) -> NDArray[np.bool_]:
    """Place an ITK image's set voxels by their position in the patient (LPS mm) and by nothing else."""
    found = SimpleITK.GetArrayFromImage(image)  # [z, y, x] of the image's own axes
    indices = geometry.to_indices(positions_mm(image, np.argwhere(found)))
    nearest = np.rint(indices).astype(int)
    off_mm = np.abs((indices - nearest) * np.array(geometry.spacing_mm)).max(initial=0.0)
    assert off_mm <= MAX_OFF_GRID_MM, f"dcmqi's voxels lie {off_mm:.4f} mm off the source grid"
    assert ((nearest >= 0) & (nearest < geometry.shape)).all(), "dcmqi's voxels lie outside the source grid"
    mask = np.zeros(geometry.shape, np.bool_)
    mask[tuple(nearest.T)] = True
    return mask


def positions_mm(image: SimpleITK.Image, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 3) indices (z, y, x) of an ITK image -> (n, 3) LPS millimetres."""
    directions = np.array(image.GetDirection(), dtype=np.float64).reshape(3, 3) * np.array(image.GetSpacing())
    return indices[:, ::-1] @ directions.T + np.array(image.GetOrigin())
