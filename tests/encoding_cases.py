"""Phantom series with a label map on their grid, for everything that is said about result objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.encoding import EncodingRequest, result_uids
from dicomnode.imaging import CodedConcept, Geometry, ModelIdentity, Segment, Segmentation, SliceSource, derived_uid

ANATOMY = CodedConcept("91723000", "SCT", "Anatomical Structure")
LEFT = CodedConcept("7771000", "SCT", "Left")
RIGHT = CodedConcept("24028007", "SCT", "Right")
MODEL = ModelIdentity("torso", "1.0.0", "Torso structures", "5e" * 32, diagnostic=False)
SHAPE = (10, 12, 8)  # slices, rows, columns: all different, so that a swapped axis shows

STRUCTURES = (
    Segment(1, "Body", (1, 2, 3, 4), ANATOMY, CodedConcept("38266002", "SCT", "Entire body"), None, (177, 122, 101)),
    Segment(2, "Liver", (2,), ANATOMY, CodedConcept("10200004", "SCT", "Liver"), None, (221, 130, 101)),
    Segment(3, "Left kidney", (3,), ANATOMY, CodedConcept("64033007", "SCT", "Kidney"), LEFT, (185, 102, 83)),
    Segment(4, "Right kidney", (4,), ANATOMY, CodedConcept("64033007", "SCT", "Kidney"), RIGHT, (205, 82, 103)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A segmentation, the files of its source series by SOP Instance UID, and a request to encode it."""

    segmentation: Segmentation
    sources: Mapping[str, Path]
    request: EncodingRequest


def axial(spacing_mm: tuple[float, float, float] = (2.5, 0.8, 0.8)) -> NDArray[np.float64]:
    """The affine of a plain axial series: slices to S, rows to P, columns to L."""
    return affine(np.eye(3)[:, ::-1], spacing_mm)


def affine(
    directions: NDArray[np.float64],
    spacing_mm: tuple[float, float, float] = (2.5, 0.8, 0.8),
    origin_mm: tuple[float, float, float] = (-101.25, -87.5, 33.125),
) -> NDArray[np.float64]:
    """Unit vectors of slice, row, column as columns; spacing and origin -> affine."""
    result = np.eye(4)
    result[:3, :3] = directions * np.array(spacing_mm)
    result[:3, 3] = origin_mm
    return result


def image_orientations() -> dict[str, NDArray[np.float64]]:
    """All 24 ways to lay the two image axes along the patient's; slices follow from the normal."""
    found: dict[str, NDArray[np.float64]] = {}
    axes = [sign * np.eye(3)[axis] for axis, sign in product(range(3), (1.0, -1.0))]
    letters = "LRPASI"
    for (r, row_step), (c, column_step) in product(enumerate(axes), repeat=2):
        if r // 2 != c // 2:
            found[letters[r] + letters[c]] = np.column_stack((np.cross(column_step, row_step), row_step, column_step))
    return found


def oblique(degrees: tuple[float, float, float] = (12.0, -7.0, 31.0)) -> NDArray[np.float64]:
    """Axial directions turned about x, y and z."""
    directions = np.eye(3)[:, ::-1]
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        directions = turn @ directions
    return directions


def tilted(degrees: float = 18.5, upright: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """A gantry tilt: planes lean about their own rows, the table still moves as in the upright (axial) stack.

    From slice to slice along the normal, the planes slide towards their last row, or with a negative tilt their first.
    """
    along_table, row_step, column_step = (np.eye(3)[:, ::-1] if upright is None else upright).T
    angle = np.radians(degrees)
    return np.column_stack((along_table, np.cos(angle) * row_step + np.sin(angle) * along_table, column_step))


def blobs(shape: tuple[int, int, int] = SHAPE, seed: int = 7) -> NDArray[np.uint8]:
    """Labels 0 to 4 without any symmetry, and with empty slices at one end."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    slices, rows, columns = shape
    labels[1 : slices - 2, 1 : rows - 2, 1:] = 1
    labels[2 : slices // 2 + 1, 2 : rows // 2 + 1, 1 : columns // 2] = 2
    labels[slices // 2 :, rows // 2 + 2 :, columns // 2 :] = 3
    labels[3:5, 1:3, columns - 2 :] = 4
    labels[(generator.random(shape) < 0.1) & (labels > 0)] = 2
    labels[slices - 2 :] = 0
    return labels


def build_case(
    folder: Path,
    grid: NDArray[np.float64] | None = None,
    labels: NDArray[np.uint8] | None = None,
    segments: Sequence[Segment] = STRUCTURES,
    identity: SeriesIdentity | None = None,
    *,
    last_slice_first: bool = False,
) -> Case:
    """Write the source series of a label map under `folder`, acquired along the normal or against it."""
    identity = identity or SeriesIdentity("encoding")
    labels = blobs() if labels is None else labels
    slices, rows, columns = labels.shape
    geometry = Geometry(axial() if grid is None else grid, (slices, rows, columns), identity.frame_of_reference_uid)
    voxels = np.where(labels > 0, 60, -1000).astype(np.int16)
    planes = build_ct_slices(voxels, geometry, identity)
    if last_slice_first:
        for number, ds in enumerate(reversed(planes), 1):
            ds.InstanceNumber, ds.SOPInstanceUID = str(number), UID(derived_uid(identity.seed, "reversed", str(number)))
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return case_of(planes, folder, geometry, labels, segments)


def case_of(
    slices: Sequence[FileDataset],
    folder: Path,
    geometry: Geometry,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment] = STRUCTURES,
) -> Case:
    """Write these slices as the source series of a label map."""
    sources = tuple(SliceSource(str(ds.SOPInstanceUID), str(ds.SOPClassUID)) for ds in slices)
    paths = write_series(slices, folder)
    files = {source.sop_instance_uid: path for source, path in zip(sources, paths, strict=True)}
    return Case(Segmentation(labels, geometry, sources, tuple(segments), MODEL), files, build_request())


def build_request(content: str = "content", kind: str = "seg") -> EncodingRequest:
    """A request at a fixed time."""
    uids = result_uids(content, MODEL, "", kind)
    return EncodingRequest(uids.series_uid, uids.instance_uid, datetime(2026, 3, 4, 5, 6, 7), "0.1.0")  # noqa: DTZ001
