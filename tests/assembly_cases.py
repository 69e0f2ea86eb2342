"""CT series that differ from a good one in a single respect, for everything that is said about assembly."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedCTImageStorage

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import Inspection, inspect
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Finding, Geometry, Policy, Series, Verdict, derived_uid
from tests.encoding_cases import axial

SHAPE = (6, 5, 4)  # slices, rows, columns: all different, so that a swapped axis shows
IDENTITY = SeriesIdentity("assembly")

Change = Callable[[FileDataset], None]


def speckle(shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> NDArray[np.int16]:
    """HU without any symmetry."""
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)


def grid(affine_mm: NDArray[np.float64] | None = None, shape: tuple[int, int, int] = SHAPE) -> Geometry:
    """A grid in the phantom's frame of reference; plain axial unless said otherwise."""
    return Geometry(axial() if affine_mm is None else affine_mm, shape, IDENTITY.frame_of_reference_uid)


def ct_slices(
    affine_mm: NDArray[np.float64] | None = None, voxels: NDArray[np.int16] | None = None
) -> list[FileDataset]:
    """One data set per slice of a good series."""
    voxels = speckle() if voxels is None else voxels
    slices, rows, columns = voxels.shape
    return build_ct_slices(voxels, grid(affine_mm, (slices, rows, columns)), IDENTITY)


def changed(change: Change, *numbers: int, slices: Sequence[FileDataset] | None = None) -> list[FileDataset]:
    """A good series in which some slices (counted from 0; all if none is named) were changed."""
    found = list(ct_slices() if slices is None else slices)
    for number in numbers or range(len(found)):
        change(found[number])
    return found


def renamed(ds: FileDataset, name: str) -> FileDataset:
    """The data set under another SOP Instance UID."""
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(derived_uid("assembly", name))
    return ds


def series_in(folder: Path) -> Series:
    """The only series in a folder in which every file is an instance."""
    found = series_from_paths([folder])
    assert found.rejected == ()
    assert len(found.series) == 1
    return found.series[0]


def series_of(slices: Sequence[FileDataset], folder: Path) -> Series:
    """Write the slices and find them again."""
    write_series(slices, folder)
    return series_in(folder)


def inspected(slices: Sequence[FileDataset], folder: Path) -> Inspection:
    """What the gate says of a series it lets pass."""
    return inspect(series_of(slices, folder))


def refusal(series: Series, policies: Mapping[Finding, Policy] | None = None) -> Mapping[Finding, Verdict]:
    """The verdicts on a series that the gate refuses, by finding."""
    with pytest.raises(UnusableSeries) as caught:
        inspect(series, policies)
    verdicts = [verdict for verdict in caught.value.verdicts if isinstance(verdict, Verdict)]
    assert verdicts[0].policy is Policy.REFUSE
    return {verdict.finding: verdict for verdict in verdicts}


def stepwise(positions_mm: Sequence[float]) -> list[FileDataset]:
    """An axial series with its slices at these positions along z."""
    slices = ct_slices(voxels=speckle((len(positions_mm), 5, 4)))
    for ds, position in zip(slices, positions_mm, strict=True):
        ds.ImagePositionPatient = [-101.25, -87.5, position]
    return slices


def enhanced(slices: Sequence[FileDataset], order: Sequence[int]) -> FileDataset:
    """The slices as one Enhanced CT instance whose frames come in that order (PS3.3 A.38)."""
    whole = slices[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.NumberOfFrames = str(len(order))
    whole.SharedFunctionalGroupsSequence = Items([_shared_groups(whole)])
    whole.PerFrameFunctionalGroupsSequence = Items([_frame_groups(slices[number]) for number in order])
    whole.PixelData = b"".join(slices[number].PixelData for number in order)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(whole, keyword)
    return whole


def _shared_groups(ds: FileDataset) -> Dataset:
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    rescale.RescaleSlope, rescale.RescaleIntercept = ds.RescaleSlope, ds.RescaleIntercept
    rescale.RescaleType = ds.RescaleType
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([orientation])
    shared.PixelValueTransformationSequence = Items([rescale])
    return shared


def _frame_groups(ds: FileDataset) -> Dataset:
    frame, position = Dataset(), Dataset()
    position.ImagePositionPatient = ds.ImagePositionPatient
    frame.PlanePositionSequence = Items([position])
    return frame
