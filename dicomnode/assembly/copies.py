"""The same slice twice, and two slices in one place: equals are dropped and recorded, others contradict."""

import hashlib
from collections.abc import Sequence
from io import BufferedReader

import numpy as np

from dicomnode.assembly.headers import InstanceHeader, SliceHeader
from dicomnode.assembly.layout import Extent, named_if_unavailable
from dicomnode.assembly.policies import VerdictBook
from dicomnode.assembly.stacking import SAME_POSITION_MM, Vector
from dicomnode.imaging import Finding

_CHUNK_BYTES = 1 << 20


def without_copies(headers: Sequence[InstanceHeader], book: VerdictBook) -> list[InstanceHeader]:
    """One header per SOP Instance UID; a verdict on each UID that came with the same or with other content."""
    by_uid: dict[str, list[InstanceHeader]] = {}
    for header in headers:
        by_uid.setdefault(header.instance.sop_instance_uid, []).append(header)
    repeated = {uid: found for uid, found in by_uid.items() if len(found) > 1}
    equal = [uid for uid, found in repeated.items() if all(_same_dataset(found[0], other) for other in found[1:])]
    different = sorted(set(repeated) - set(equal))
    if equal:
        sentence = f"{len(equal)} instances came more than once, each time with the same content"
        book.add(Finding.DUPLICATE_INSTANCE, sentence, equal)
    if different:
        sentence = f"{len(different)} SOP Instance UIDs came with more than one content, the first is {different[0]}"
        book.add(Finding.CONFLICTING_INSTANCE, sentence, different)
    return [found[0] for found in by_uid.values()]


def without_repeated_positions(ordered: Sequence[SliceHeader], normal: Vector, book: VerdictBook) -> list[SliceHeader]:
    """One slice per position along the normal, of slices in that order; equal pixels are dropped, others contradict."""
    kept = list(ordered[:1])
    copies: list[str] = []
    rivals: list[tuple[SliceHeader, SliceHeader]] = []
    for header in ordered[1:]:
        if _distance_mm(kept[-1], header, normal) > SAME_POSITION_MM:
            kept.append(header)
        elif _same_slice(kept[-1], header):
            copies.append(header.instance.sop_instance_uid)
        else:
            rivals.append((kept[-1], header))
    if copies:
        sentence = f"{len(copies)} slices have the position and the pixels of another one"
        book.add(Finding.DUPLICATE_INSTANCE, sentence, copies)
    if rivals:
        places = len({id(first) for first, _ in rivals})
        uids = [header.instance.sop_instance_uid for pair in rivals for header in pair]
        sentence = f"{len(rivals) + places} slices with different content share {places} positions"
        book.add(Finding.DUPLICATE_POSITION, sentence, uids)
    return kept


def _distance_mm(first: SliceHeader, second: SliceHeader, normal: Vector) -> float:
    return float((np.array(second.plane.position_mm) - first.plane.position_mm) @ normal)


def _same_dataset(first: InstanceHeader, second: InstanceHeader) -> bool:
    """Whether two files differ in nothing but their file meta information, which every sender writes anew."""
    if first.instance.sha256 == second.instance.sha256:
        return True
    if first.layout.transfer_syntax_uid != second.layout.transfer_syntax_uid:
        return False
    return _digest_from(first) == _digest_from(second)


def _digest_from(header: InstanceHeader) -> str:
    digest = hashlib.sha256()
    path = header.instance.path
    with named_if_unavailable(path), path.open("rb") as file:
        file.seek(header.dataset_offset)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _same_slice(first: SliceHeader, second: SliceHeader) -> bool:
    """Whether two slices have the same plane, rescaling and stored pixel bytes."""
    if (first.plane, first.rescale) != (second.plane, second.rescale):
        return False
    if first.layout.transfer_syntax_uid != second.layout.transfer_syntax_uid:
        return False
    return _pixel_bytes(first) == _pixel_bytes(second)


def _pixel_bytes(header: SliceHeader) -> bytes:
    frame = (header.frame_number or 1) - 1
    path = header.instance.path
    with named_if_unavailable(path), path.open("rb") as file:
        return b"".join(_read_extent(file, extent) for extent in header.layout.extents(frame))


def _read_extent(file: BufferedReader, extent: Extent) -> bytes:
    file.seek(extent[0])
    return file.read(extent[1])
