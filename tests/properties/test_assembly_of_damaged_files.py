"""Whatever bytes of a file are wrong, the gate and the assembly give a volume or a verdict, and never anything else."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from dicomnode.assembly.files import series_from_paths
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import assemble
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Series
from tests.assembly_cases import ct_slices, enhanced, series_of

LENGTHS = (0, 1, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


@st.composite
def damages(draw: st.DrawFn) -> tuple[float, bytes, int]:
    """Where (as a part of the file), what is written there, and how many bytes it replaces."""
    lengths = st.sampled_from(LENGTHS).map(lambda length: length.to_bytes(4, "little"))
    new = draw(st.one_of(st.binary(max_size=12), lengths))
    return draw(st.floats(0, 1)), new, draw(st.integers(0, 24))


def damaged(content: bytes, damage: list[tuple[float, bytes, int]]) -> bytes:
    for part, new, replaced in damage:
        at = 128 + int(part * (len(content) - 128))
        content = content[:at] + new + content[at + replaced :]
    return content


def settled(series: Series) -> str:
    """What becomes of a series."""
    try:
        return str(assemble(inspect(series, max_voxels=10_000)).voxels.shape)
    except UnusableSeries as error:
        return str(error)


@settings(max_examples=80, deadline=None)
@given(damage=st.lists(damages(), min_size=1, max_size=4))
def test_a_damaged_slice_ends_in_a_volume_or_a_verdict(damage: list[tuple[float, bytes, int]]):
    with TemporaryDirectory() as folder:
        series = series_of(ct_slices()[:3], Path(folder))
        path = series.instances[1].path
        path.write_bytes(damaged(path.read_bytes(), damage))
        assert settled(series)
        found = series_from_paths([Path(folder)])
        assert sum(len(s.instances) for s in found.series) + len(found.rejected) == 3


@settings(max_examples=50, deadline=None)
@given(damage=st.lists(damages(), min_size=1, max_size=4))
def test_a_damaged_enhanced_instance_ends_in_a_volume_or_a_verdict(damage: list[tuple[float, bytes, int]]):
    with TemporaryDirectory() as folder:
        series = series_of([enhanced(ct_slices(), range(6))], Path(folder))
        path = series.instances[0].path
        path.write_bytes(damaged(path.read_bytes(), damage))
        assert settled(series)


@pytest.mark.parametrize("where", [0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_damaged_compressed_pixels_end_in_a_volume_or_a_verdict(tmp_path: Path, where: float):
    slices = ct_slices()[:3]
    for ds in slices:
        ds.compress(RLELossless, generate_instance_uid=False)
    series = series_of(slices, tmp_path)
    path = series.instances[1].path
    path.write_bytes(damaged(path.read_bytes(), [(where, b"\xff\xff\xff\x7f", 4)]))
    assert settled(series)
