"""One compressed frame -> its stored values. Each codec has one decoder, chosen by measurement.

CPU ms per 512 x 512 slice of an abdomen here: JPEG-LS pyjpegls 3.7 (gdcm 6.2), JPEG lossless gdcm 5.0, JPEG 2000
openjpeg 20 (pillow 21, imagecodecs 20), RLE pydicom 2.7. A library is loaded when a frame needs it: that is most of
the process's start. Runs in the decoding process only: these are C libraries fed by strangers
(gdcm aborts the whole process on one damaged JPEG in a hundred).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.assembly.syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LS, RLE_LOSSLESS

_JPEG_FRAME_HEADERS = frozenset({0xC3, 0xF7})  # lossless Huffman; JPEG-LS

Words = NDArray[np.uint16]  # [row, column], stored values as 16-bit patterns


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """One compressed frame and what its instance says about it."""

    codestream: bytes
    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool


def decode_frame(frame: CodedFrame) -> Words:
    """Decode one frame of one sample per pixel.

    Raises:
        ValueError: the decoder gave another matrix than the instance declares.
        Exception: whatever the codec's library raises on damaged data; the caller runs in its own process.
    """
    words = _DECODERS[frame.transfer_syntax_uid](frame)
    if words.size != frame.rows * frame.columns:
        raise ValueError(f"expected {frame.rows} x {frame.columns} pixels, the codestream holds {words.size}")
    return words.reshape(frame.rows, frame.columns)


def _openjpeg(frame: CodedFrame) -> Words:
    from openjpeg.utils import decode_pixel_data, get_parameters

    parameters = get_parameters(frame.codestream)
    found = (parameters["rows"], parameters["columns"], parameters["samples_per_pixel"])
    if found != (frame.rows, frame.columns, 1):  # before openjpeg allocates what the codestream asks for
        raise ValueError(f"expected {frame.rows} x {frame.columns} x 1 pixels, the codestream declares {found}")
    pixels = bytes(decode_pixel_data(frame.codestream, version=2))
    return _as_words(np.frombuffer(pixels, np.uint8 if int(parameters["precision"]) <= 8 else np.dtype("<u2")))


def _charls(frame: CodedFrame) -> Words:
    import jpeg_ls

    pixels, found = jpeg_ls.decode_pixel_data(frame.codestream)
    if found["components"] != 1:
        raise ValueError(f"expected 1 sample per pixel, the codestream holds {found['components']}")
    return _as_words(np.frombuffer(pixels, np.uint8 if found["bits_per_sample"] <= 8 else np.dtype("<u2")))


def _jpeg(decode: Callable[[CodedFrame], Words]) -> Callable[[CodedFrame], Words]:
    def decode_declared_matrix(frame: CodedFrame) -> Words:
        found = _jpeg_matrix(frame.codestream)
        if found != (frame.rows, frame.columns):
            raise ValueError(f"expected {frame.rows} x {frame.columns} pixels, the codestream declares {found}")
        return decode(frame)

    return decode_declared_matrix


def _jpeg_matrix(codestream: bytes) -> tuple[int, int]:
    """Lines and samples per line that a JPEG or JPEG-LS frame header declares (ITU T.81 B.2.2, ISO 14495-1 C.2.2)."""
    position = 2  # behind the start of image
    while position + 9 <= len(codestream) and codestream[position] == 0xFF:
        if codestream[position + 1] in _JPEG_FRAME_HEADERS:
            rows, columns = codestream[position + 5 : position + 7], codestream[position + 7 : position + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
        position += 2 + int.from_bytes(codestream[position + 2 : position + 4], "big")
    raise ValueError("expected a frame header in the codestream, found none")


def _pydicom(plugin: str) -> Callable[[CodedFrame], Words]:
    def decode(frame: CodedFrame) -> Words:
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

        attributes: dict[str, Any] = {
            "rows": frame.rows,
            "columns": frame.columns,
            "number_of_frames": 1,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "bits_allocated": frame.bits_allocated,
            "bits_stored": frame.bits_stored,
            "pixel_representation": int(frame.signed),
            "pixel_keyword": "PixelData",
        }
        decoder, item = get_decoder(frame.transfer_syntax_uid), encapsulate([frame.codestream], has_bot=False)
        pixels, _ = next(decoder.iter_array(item, indices=[0], raw=True, decoding_plugin=plugin, **attributes))
        return _as_words(pixels)

    return decode


def _as_words(pixels: NDArray[np.generic]) -> Words:
    """Any 8 or 16-bit integers as 16-bit patterns; sign bits are sorted out later, by Bits Stored."""
    if pixels.dtype.itemsize == 1:
        return pixels.view(np.uint8).astype(np.uint16)
    if pixels.dtype.itemsize != 2:
        raise ValueError(f"expected pixels of 8 or 16 bits, the codestream holds {8 * pixels.dtype.itemsize}")
    return np.ascontiguousarray(pixels).view(np.uint16)


_DECODERS: Mapping[str, Callable[[CodedFrame], Words]] = {
    RLE_LOSSLESS: _pydicom("pydicom"),
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg(_pydicom("gdcm"))),
    **dict.fromkeys(JPEG_LS, _jpeg(_charls)),
    **dict.fromkeys(JPEG_2000, _openjpeg),
}
