"""Real headers, as scanners and archives wrote them: the writer's quick reading finds what pydicom finds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicomnode.encoding.outline import leading_elements
from tests.peers import shared_data

PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted(shared_data(folder).rglob("*")) if path.is_file())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_found_in_real_headers_is_what_pydicom_finds() -> None:
    stepped, others = 0, 0
    for path in files("series", "reject", "codecs"):
        found = leading_elements(path)
        if found is None:
            others += 1
            continue
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(found))
        assert {tag: header.get_item(tag).value for tag in found} == found
        stepped += 1
    assert stepped > 250
    assert others > 10  # big endian, deflated, without a plane, not DICOM


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_slices_of_real_series_need_no_full_reader() -> None:
    slow = [path.name for path in files("series") if has_plane(path) and leading_elements(path) is None]
    assert slow == []


def has_plane(path: Path) -> bool:
    try:
        header = dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        return False
    return all(keyword in header for keyword in PLANE)
