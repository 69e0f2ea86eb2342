"""Zooming as scipy does, to the last bit."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dicomnode.inference.picture import Shape
from dicomnode.inference.zooming import zoom_linear, zoom_on_device

sizes = st.tuples(*[st.integers(1, 24)] * 3)


@settings(max_examples=60, deadline=None)
@given(old=sizes, new=sizes, seed=st.integers(0, 999), even=st.booleans())
def test_every_voxel_equals_scipys_in_fp64_on_the_processor_and_by_tensor_operations(
    old: Shape, new: Shape, seed: int, *, even: bool
) -> None:
    generator = np.random.default_rng(seed)
    voxels = generator.integers(-1024, 2000, (2, *old)).astype(np.int16)
    if even:
        voxels[:] = generator.integers(-1024, 2000)
    zoom = [n / o for o, n in zip(old, new, strict=True)]
    expected = np.empty((2, *new))
    for channel, wanted in zip(voxels.astype(np.float64), expected, strict=True):
        ndimage.zoom(channel, zoom, output=wanted, order=1, mode="nearest")
    for found in (zoom_linear(torch.from_numpy(voxels), new), zoom_on_device(torch.from_numpy(voxels), new)):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_even_tissue_cut_to_whole_numbers_loses_a_unit_where_scipy_does() -> None:
    even = np.full((1, 30, 30, 30), 37, np.int16)
    found = zoom_linear(torch.from_numpy(even), (41, 23, 57)).trunc().numpy()
    assert set(np.unique(found)) == {36, 37}
