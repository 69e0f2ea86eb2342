"""Decode a written SEG again and compare it with its source and with what the network said.

The last gate before a result leaves: no validator notices a segmentation that is well formed and wrong.
Everything is compared in patient space, frame by frame, against the headers of the source files read anew.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from dicomnode.encoding.damage import UNPARSEABLE
from dicomnode.encoding.decoded import DecodedSeg, opened_seg
from dicomnode.encoding.differences import Difference, Expectation, Reason, label_presence, summary
from dicomnode.encoding.frame_differences import decoded_frames, frame_differences, matrix_differences
from dicomnode.encoding.header_differences import header_differences
from dicomnode.encoding.request import EncodingRequest
from dicomnode.encoding.sources import read_source_headers
from dicomnode.errors import ResultMismatch
from dicomnode.imaging import Segmentation


def check_seg(path: Path, segmentation: Segmentation, sources: Mapping[str, Path], request: EncodingRequest) -> None:
    """Hold the bytes at `path` against the segmentation, the source files and the request.

    Raises:
        ResultMismatch: something differs; the message names each difference by its `Reason`, with numbers.
        Unavailable: a source cannot be read now.
    """
    headers = read_source_headers(segmentation.sources, sources)
    expected = Expectation(segmentation, headers, request, label_presence(segmentation))
    with opened_seg(path) as seg:
        differences = list(_differences(seg, expected))
    if differences:
        raise ResultMismatch(summary(differences))


def _differences(seg: DecodedSeg, expected: Expectation) -> Iterator[Difference]:
    """Everything that differs; frames are looked at only when the header lets them be counted."""
    try:
        yield from header_differences(seg, expected)
        frames = decoded_frames(seg)
        matrix = list(matrix_differences(seg, expected, len(frames)))
        yield from matrix
        if not matrix:
            yield from frame_differences(seg, frames, expected)
    except UNPARSEABLE as problem:
        yield Difference(Reason.FORMAT, f"expected the attributes of a SEG, found {type(problem).__name__}")
