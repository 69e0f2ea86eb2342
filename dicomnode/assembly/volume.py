"""Slices on disk -> one volume in memory: read in place, made signed, padded with air, rescaled.

Uncompressed slices are read straight into their place in one array; compressed ones are decoded into it by
other processes. Values stay int16 where that is exact, which a CT in HU nearly always is.
"""

import mmap
import os
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomnode.assembly.decode_pool import CodedSlice, decode_slices
from dicomnode.assembly.gate import Inspection
from dicomnode.assembly.headers import Rescale, SliceHeader
from dicomnode.assembly.layout import PixelLayout, named_if_unavailable
from dicomnode.assembly.prepared import PreparedSlices
from dicomnode.assembly.syntaxes import NATIVE
from dicomnode.errors import Unavailable, UnusableSeries
from dicomnode.imaging import Finding, Policy, Verdict, Volume
from dicomnode.imaging.volume import Voxels

# Padding is "not imaged" (PS3.3 C.7.5.1.1.2). In CT it becomes -1024 HU: as empty as air, what most scanners write
# outside their field of view (stored 0, intercept -1024), and where models cut their input off anyway.
CT_PADDING_HU = -1024
MR_PADDING = 0  # no signal

Words = NDArray[np.uint16]  # [slice, row, column] or [row, column], stored values as 16-bit patterns
Plane = NDArray[np.int16] | NDArray[np.uint16]  # [row, column]
Mask = NDArray[np.bool_]  # [row, column]

_INT16 = np.iinfo(np.int16)


def assemble(inspection: Inspection, prepared: PreparedSlices | None = None) -> Volume:
    """Read the pixels of a usable series into one volume, HU for CT, slices along the acquisition normal.

    Compressed slices that were decoded ahead are taken from `prepared`; the volume is the same without it.

    Raises:
        UnusableSeries: pixels are missing or cannot be decoded; the verdict names the instances.
        Unavailable: a file cannot be read now.
    """
    words = _words(inspection.slices, inspection.geometry.shape, prepared)
    padding = CT_PADDING_HU if inspection.modality == "CT" else MR_PADDING
    voxels = _rescaled(words, inspection.slices, padding)
    return Volume(voxels, inspection.geometry, inspection.sources)


def _words(slices: Sequence[SliceHeader], shape: tuple[int, int, int], prepared: PreparedSlices | None) -> Words:
    """`[slice, row, column]`: every compressed slice decoded, room for the others."""
    compressed = [index for index, header in enumerate(slices) if header.layout.transfer_syntax_uid not in NATIVE]
    if not compressed:
        return np.empty(shape, np.uint16)
    size = 2 * shape[0] * shape[1] * shape[2]
    output = os.memfd_create("decoded-slices")
    try:
        os.ftruncate(output, size)
        words = np.frombuffer(mmap.mmap(output, size), np.uint16).reshape(shape)
        missing = compressed if prepared is None else _without_prepared(compressed, slices, words, prepared)
        decode_slices([CodedSlice(slices[index], index * words[0].nbytes) for index in missing], output)
    except OSError as error:
        raise Unavailable(f"expected {size} bytes of memory for decoded slices: {error.strerror}") from error
    finally:
        os.close(output)
    return words


def _without_prepared(
    indices: Sequence[int], slices: Sequence[SliceHeader], words: Words, prepared: PreparedSlices
) -> list[int]:
    """Fill in what was decoded ahead; the indices of the slices that were not."""
    with prepared.at_rest():
        return [index for index in indices if not prepared.read_into(slices[index], words[index])]


def _rescaled(words: Words, slices: Sequence[SliceHeader], padding: int) -> Voxels:
    """Real values, in the memory of `words` as long as every slice so far is exact in int16, else float32."""
    exact = words.view(np.int16)
    real: NDArray[np.float32] | None = None
    for index, header in enumerate(slices):
        if header.layout.transfer_syntax_uid in NATIVE:
            _read_plane(header, words[index])
        stored, padded = _stored_values(words[index], header.layout)
        if real is None and not _is_exact(stored, header):
            real = np.empty(words.shape, np.float32)
            real[:index] = exact[:index]
        if real is None:
            _rescale_in_place(words[index], header.rescale)
        else:
            np.multiply(stored, header.rescale.slope, out=real[index], casting="unsafe")
            real[index] += header.rescale.intercept
        if padded is not None:
            (exact if real is None else real)[index][padded] = padding
    return exact if real is None else real


def _read_plane(header: SliceHeader, plane: Words) -> None:
    """Fill `plane` `[row, column]` with the slice's stored words."""
    layout = header.layout
    target: Words | NDArray[np.uint8] = plane if layout.bits_allocated == 16 else np.empty(plane.shape, np.uint8)
    (start, length) = layout.extents((header.frame_number or 1) - 1)[0]
    path = header.instance.path
    with named_if_unavailable(path), path.open("rb") as file:
        file.seek(start)
        found = file.readinto(target.data.cast("B"))
    if found != length:  # the gate has seen them all: the file was cut since
        uid = header.instance.sop_instance_uid
        sentence = f"instance {uid}: expected {length} bytes of pixels, found {found}"
        raise UnusableSeries([Verdict(Finding.TRUNCATED_PIXELS, Policy.REFUSE, sentence, (uid,))])
    if target is not plane:
        plane[...] = target
    elif layout.little_endian != (sys.byteorder == "little"):
        plane.byteswap(inplace=True)


def _stored_values(plane: Words, layout: PixelLayout) -> tuple[Plane, Mask | None]:
    """The stored values, in the memory of `plane`, and which pixels are padding (these are set to 0).

    Only Bits Stored bits up to High Bit count (PS3.5 8.1.1): what is above may be an old overlay, or a sign that
    was not extended.
    """
    stored: Plane = plane.view(np.int16) if layout.signed else plane
    padding = _padding_range(layout)
    lowest, highest = _value_range(layout)
    fits = padding is not None and lowest <= padding[0] and padding[1] <= highest
    padded = _within(stored, padding) if padding is not None and not fits else None
    if layout.bits_stored < 16:
        np.left_shift(stored, 15 - layout.high_bit, out=stored)
        np.right_shift(stored, 16 - layout.bits_stored, out=stored)
    if padding is not None and fits:
        padded = _within(stored, padding)
    if padded is not None:
        stored[padded] = 0
    return stored, padded


def _within(stored: Plane, limits: tuple[int, int]) -> Mask | None:
    mask = stored == limits[0] if limits[0] == limits[1] else (stored >= limits[0]) & (stored <= limits[1])
    return mask if mask.any() else None


def _padding_range(layout: PixelLayout) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding; scanners write -2000 also as the word 63536."""
    if layout.padding_words is None:
        return None
    dtype = np.int16 if layout.signed else np.uint16
    limits = np.array(layout.padding_words, np.uint16).view(dtype)
    return int(limits.min()), int(limits.max())


def _value_range(layout: PixelLayout) -> tuple[int, int]:
    """What Bits Stored can hold."""
    half = 1 << (layout.bits_stored - 1)
    return (-half, half - 1) if layout.signed else (0, 2 * half - 1)


def _is_exact(stored: Plane, header: SliceHeader) -> bool:
    """Whether every rescaled value of the slice is an integer that int16 can hold."""
    slope, intercept = header.rescale.slope, header.rescale.intercept
    if not (slope.is_integer() and intercept.is_integer()):
        return False
    if _fit_int16(_value_range(header.layout), slope, intercept):
        return True
    return _fit_int16((int(stored.min()), int(stored.max())), slope, intercept)


def _fit_int16(stored_range: tuple[int, int], slope: float, intercept: float) -> bool:
    ends = [value * slope + intercept for value in stored_range]
    return _INT16.min <= min(ends) and max(ends) <= _INT16.max


def _rescale_in_place(plane: Words, rescale: Rescale) -> None:
    """Rescale modulo 2^16, which is exact where the result fits 16 bits, signed or not."""
    if rescale.slope != 1:
        np.multiply(plane, np.uint16(int(rescale.slope) & 0xFFFF), out=plane)
    if rescale.intercept != 0:
        np.add(plane, np.uint16(int(rescale.intercept) & 0xFFFF), out=plane)
