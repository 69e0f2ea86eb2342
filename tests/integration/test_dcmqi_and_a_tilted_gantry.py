"""A tilted gantry's planes slide against one another, and dcmqi's answer, an ITK image, cannot say so.

dcmqi (1.5.7) puts the image's origin at the first plane along the normal and looks every other plane's corner up in
the upright box that begins there (`ConverterBase::computeVolumeExtent`, `Dicom2ItkConverterBin::next16Bit`). Planes
that slide towards their last row it stacks straight, without a word; those whose corner leaves the box it refuses
(QIICR/dcmqi issue 430). Nothing but the planes themselves decides: it does so with everybody's SEG. So what the SEG
says is compared frame by frame, where the image is upright and each voxel has its place in the patient.
"""

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.encoding import encode_seg
from dicomnode.imaging import Segmentation
from tests.dcmqi import ask_dcmqi, dcmqi_masks_frame_by_frame, positions_mm
from tests.encoding_cases import (
    MODEL,
    STRUCTURES,
    Case,
    affine,
    blobs,
    build_case,
    build_request,
    image_orientations,
    oblique,
    tilted,
)
from tests.peers import shared_data

UPRIGHT = {
    "head first, supine": image_orientations()["PL"],
    "feet first, supine": image_orientations()["PR"],
    "head first, prone": image_orientations()["AR"],
    "oblique": oblique(),
}
BODY = STRUCTURES[0]


def our_seg(case: Case, folder: Path) -> Path:
    return encode_seg(case.segmentation, case.sources, case.request, folder / "ours.dcm").path


def highdicom_seg(case: Case, folder: Path) -> Path:
    """The first segment as anybody writes it who knows highdicom."""
    manual = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    seg = hd.seg.Segmentation(
        source_images=[dcmread(path) for path in case.sources.values()],
        pixel_array=case.segmentation.mask(BODY).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[hd.seg.SegmentDescription(1, BODY.name, codes.SCT.Organ, codes.SCT.Liver, manual)],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="anybody",
        manufacturer_model_name="any",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(folder / "highdicom.dcm")
    return folder / "highdicom.dcm"


by_any_author = pytest.mark.parametrize("write_seg", [our_seg, highdicom_seg], ids=["our SEG", "highdicom's SEG"])


@pytest.mark.parametrize("last_slice_first", [False, True], ids=["along the normal", "against the normal"])
@pytest.mark.parametrize("degrees", [18.5, -18.5], ids=["towards the last row", "towards the first row"])
@pytest.mark.parametrize("position", UPRIGHT)
def test_each_frame_lies_where_its_plane_was_acquired(
    position: str, degrees: float, last_slice_first: bool, tmp_path: Path
) -> None:
    grid = affine(tilted(degrees, UPRIGHT[position]))
    segments = STRUCTURES[:2]
    case = build_case(tmp_path / "ct", grid, blobs((7, 12, 8)), segments, last_slice_first=last_slice_first)
    assert_each_frame_lies_on_its_plane(case, tmp_path)


def assert_each_frame_lies_on_its_plane(case: Case, folder: Path) -> None:
    masks = dcmqi_masks_frame_by_frame(our_seg(case, folder), folder / "dcmqi", case.segmentation.geometry)
    assert list(masks) == [segment.number for segment in case.segmentation.segments]
    for segment in case.segmentation.segments:
        assert np.array_equal(masks[segment.number], case.segmentation.mask(segment)), segment.name


def test_each_frame_of_a_real_tilted_series_lies_where_its_plane_was_acquired(tmp_path: Path) -> None:
    case = philips_phantom_case()
    assert_each_frame_lies_on_its_plane(case, tmp_path)
    assert "is outside image geometry" in ask_dcmqi(our_seg(case, tmp_path), tmp_path / "whole").said


def philips_phantom_case() -> Case:
    """Boxes in the first, a middle and the last slices; 18.5 degrees, planes sliding towards their first row."""
    (series,) = series_from_paths([shared_data("series/philips-phantom-tilt/S21610/S2010")]).series
    inspection = inspect(series)
    labels = np.zeros(inspection.geometry.shape, np.uint8)
    labels[[0, 14, 28, 29], 40:300, 100:411] = 1
    labels[[14, 29], 200:260, 300:350] = 2
    files = {instance.sop_instance_uid: instance.path for instance in series.instances}
    segmentation = Segmentation(labels, inspection.geometry, inspection.sources, STRUCTURES[:2], MODEL)
    return Case(segmentation, files, build_request("philips"))


@by_any_author
def test_dcmqi_returns_the_label_map_of_a_tilt_towards_the_last_row_stacked_straight(
    write_seg: Callable[[Case, Path], Path], tmp_path: Path
) -> None:
    case = build_case(tmp_path / "ct", affine(tilted(18.5), (2.5, 0.8, 0.8)))
    geometry, mask = case.segmentation.geometry, case.segmentation.mask(BODY)
    image = ask_dcmqi(write_seg(case, tmp_path), tmp_path / "dcmqi").images[1]
    first, *_, last = np.flatnonzero(mask.any(axis=(1, 2)))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image) != 0, mask[first : last + 1])
    shown, acquired = np.array([[0, 0, 0], [last - first, 0, 0]]), np.array([[first, 0, 0], [last, 0, 0]])
    off_mm = positions_mm(image, shown) - geometry.to_patient_mm(acquired)
    slide_mm = (last - first) * 2.5 * np.sin(np.radians(18.5))
    assert off_mm == pytest.approx(np.array([np.zeros(3), -slide_mm * geometry.directions[:, 1]]), abs=1e-3)
    assert slide_mm == pytest.approx(4.76, abs=0.01)


@by_any_author
@pytest.mark.parametrize("degrees", [-18.5, -3.0, 60.0], ids=["to the first row", "a little", "beyond the last row"])
def test_dcmqi_refuses_planes_whose_corner_leaves_the_upright_box(
    degrees: float, write_seg: Callable[[Case, Path], Path], tmp_path: Path
) -> None:
    case = build_case(tmp_path / "ct", affine(tilted(degrees)))
    answer = ask_dcmqi(write_seg(case, tmp_path), tmp_path / "dcmqi")
    assert not answer.images
    assert "is outside image geometry" in answer.said
