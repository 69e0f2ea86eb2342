"""The kinds of result object the node can make: one line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode.encoding.consistency import check_seg
from dicomnode.encoding.request import EncodedObject, EncodingRequest
from dicomnode.encoding.seg import encode_seg
from dicomnode.imaging import Segmentation

Encode = Callable[[Segmentation, Mapping[str, Path], EncodingRequest, Path], EncodedObject]
Check = Callable[[Path, Segmentation, Mapping[str, Path], EncodingRequest], None]


@dataclass(frozen=True, slots=True)
class ResultKind:
    """How a kind of object is written, and how its bytes are checked before they leave."""

    encode: Encode
    check: Check


KINDS: Mapping[str, ResultKind] = {
    "seg": ResultKind(encode_seg, check_seg),
}
