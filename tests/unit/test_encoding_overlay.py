"""The picture of a result shows the patient the way radiologists look, whatever way the scanner stored the slices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicomnode.encoding.overlay import draw_overlay, lay_out, write_overlay
from dicomnode.encoding.views import Letters, View, three_views
from dicomnode.errors import Unavailable
from dicomnode.imaging import Geometry, Segmentation, SliceSource, Volume
from tests.encoding_cases import MODEL, STRUCTURES, affine, axial, image_orientations, tilted

LIVER = (replace(STRUCTURES[1], number=1, colour_rgb=(255, 0, 255)),)


def picture_of(
    grid: NDArray[np.float64], shape: tuple[int, int, int], place: tuple[float, float, float]
) -> tuple[Volume, Segmentation]:
    """A volume of soft tissue with one liver voxel block at a place given as fractions towards L, P and S."""
    geometry = Geometry(grid, shape, "1.2.3")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T.astype(float)
    lowest, highest = (f(geometry.to_patient_mm(corners), axis=0) for f in (np.min, np.max))
    centre = geometry.to_indices(np.array([lowest + (highest - lowest) * np.array(place)]))[0]
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(max(0, round(c) - 1), round(c) + 2) for c in centre)] = 2
    sources = tuple(SliceSource(f"1.2.{index}", "1.2") for index in range(shape[0]))
    voxels = np.full(shape, 40, np.int16)
    voxels[:, 0] = -1000
    return Volume(voxels, geometry, sources), Segmentation(labels, geometry, sources, LIVER, MODEL)


def centre_of(view: View) -> tuple[float, float]:
    """Where the labels are: fraction of the height from the top, of the width from the left."""
    rows, columns = np.nonzero(view.labels)
    height, width = view.labels.shape
    return float(rows.mean() + 0.5) / height, float(columns.mean() + 0.5) / width


@pytest.mark.parametrize("name", image_orientations())
def test_a_structure_high_right_and_in_front_is_drawn_there_in_every_orientation(name: str) -> None:
    grid = affine(image_orientations()[name], (1.5, 0.9, 0.9))
    right_front_head = picture_of(grid, (24, 20, 28), (0.2, 0.3, 0.9))
    axial_view, coronal, sagittal = three_views(*right_front_head)
    for view, (down, across) in ((axial_view, (0.3, 0.2)), (coronal, (0.1, 0.2)), (sagittal, (0.1, 0.3))):
        found = centre_of(view)
        assert found == (pytest.approx(down, abs=0.08), pytest.approx(across, abs=0.08)), view.name
    assert axial_view.letters == Letters("R", "L", "A", "P")
    assert coronal.letters == Letters("R", "L", "H", "F")
    assert sagittal.letters == Letters("A", "P", "H", "F")


@pytest.mark.parametrize("name", image_orientations())
def test_the_marks_of_the_other_planes_go_through_the_structure(name: str) -> None:
    views = three_views(*picture_of(affine(image_orientations()[name]), (24, 20, 28), (0.2, 0.3, 0.9)))
    for view in views:
        assert view.lines == (pytest.approx(centre_of(view)[0], abs=0.08), pytest.approx(centre_of(view)[1], abs=0.08))


def test_millimetres_are_true_in_all_three_planes() -> None:
    volume, segmentation = picture_of(axial((5.0, 0.5, 2.0)), (12, 60, 20), (0.5, 0.5, 0.5))
    views = three_views(volume, segmentation)
    assert [view.size_mm for view in views] == [(30.0, 40.0), (60.0, 40.0), (60.0, 30.0)]
    boxes = lay_out(views).panels
    scales = [
        (box[3] - box[1]) / height for box, (height, _) in zip(boxes, (view.size_mm for view in views), strict=True)
    ]
    scales += [
        (box[2] - box[0]) / width for box, (_, width) in zip(boxes, (view.size_mm for view in views), strict=True)
    ]
    assert max(scales) / min(scales) == pytest.approx(1, abs=0.02)


def test_a_tilted_gantry_is_drawn_with_the_distance_between_its_planes() -> None:
    volume, segmentation = picture_of(affine(tilted(20.0), (3.0, 1.0, 1.0)), (10, 16, 16), (0.5, 0.5, 0.5))
    _, coronal, _ = three_views(volume, segmentation)
    assert coronal.pixel_mm[0] == pytest.approx(3.0 * np.cos(np.radians(20.0)))


def test_the_planes_go_through_what_was_found_not_through_the_middle() -> None:
    volume, segmentation = picture_of(axial(), (24, 20, 28), (0.9, 0.9, 0.1))
    assert all(view.labels.any() for view in three_views(volume, segmentation))


def test_the_structure_is_drawn_in_its_colour_where_it_lies() -> None:
    volume, segmentation = picture_of(axial(), (24, 20, 28), (0.2, 0.3, 0.9))
    picture = np.asarray(draw_overlay(volume, segmentation)).astype(int)
    left, top, right, bottom = (edge // 2 for edge in lay_out(three_views(volume, segmentation)).panels[0])
    panel = picture[top:bottom, left:right]
    rows, columns = np.nonzero((panel[..., 0] > 180) & (panel[..., 1] < 90) & (panel[..., 2] > 180))
    assert rows.mean() / panel.shape[0] == pytest.approx(0.3, abs=0.08)
    assert columns.mean() / panel.shape[1] == pytest.approx(0.2, abs=0.08)


def test_the_banner_warns_unless_the_model_is_cleared_for_diagnosis() -> None:
    volume, segmentation = picture_of(axial(), (12, 20, 28), (0.5, 0.5, 0.5))
    cleared = Segmentation(
        segmentation.labels, segmentation.geometry, segmentation.sources, LIVER, replace(MODEL, diagnostic=True)
    )
    warning, none = (np.asarray(draw_overlay(volume, s))[2:40].astype(int) for s in (segmentation, cleared))
    amber = (255, 190, 60)
    assert (warning == amber).all(axis=-1).mean() > 0.8
    assert not (none == amber).all(axis=-1).any()


@pytest.mark.parametrize("shape", [(1, 40, 50), (2, 3, 4), (300, 9, 9), (40, 1, 30)])
def test_a_volume_of_any_shape_gives_a_picture_of_bounded_size(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write_overlay(tmp_path / "picture.png", *picture_of(axial(), shape, (0.5, 0.5, 0.5)))
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 1700
        assert picture.height <= 1600


def test_nothing_found_still_gives_a_picture(tmp_path: Path) -> None:
    volume, segmentation = picture_of(axial(), (12, 20, 28), (0.5, 0.5, 0.5))
    empty = Segmentation(
        np.zeros_like(segmentation.labels), segmentation.geometry, segmentation.sources, STRUCTURES, MODEL
    )
    write_overlay(tmp_path / "picture.png", volume, empty)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_may_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable):
        write_overlay(tmp_path / "file" / "picture.png", *picture_of(axial(), (4, 5, 6), (0.5, 0.5, 0.5)))
