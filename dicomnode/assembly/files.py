"""Files and folders -> series, for the offline command: what is DICOM is grouped, what is not is named."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from dicomnode.assembly.elements import Elements
from dicomnode.assembly.headers import HeaderProblem, problems_named, read_supported_syntax
from dicomnode.errors import Unavailable
from dicomnode.imaging import Finding, Instance, Series, is_acceptable_uid

_UIDS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that belongs to no series, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """All series found, by their UID, and the files that belong to none."""

    series: tuple[Series, ...]
    rejected: tuple[RejectedFile, ...]


def series_from_paths(paths: Sequence[Path]) -> FoundSeries:
    """Look through files and whole folders; every file ends up in a series or among the rejected."""
    instances: dict[str, list[Instance]] = {}
    rejected: list[RejectedFile] = []
    for path in dict.fromkeys(file for start in paths for file in _files(start)):
        try:
            instance = read_instance(path)
        except HeaderProblem as problem:
            rejected.append(RejectedFile(path, problem.sentence))
        except Unavailable as error:
            rejected.append(RejectedFile(path, str(error)))
        else:
            instances.setdefault(instance.series_instance_uid, []).append(instance)
    series = tuple(Series(uid, tuple(found)) for uid, found in sorted(instances.items()))
    return FoundSeries(series, tuple(rejected))


def read_instance(path: Path) -> Instance:
    """Identify one file by its UIDs and its digest.

    Raises:
        HeaderProblem: it is not a DICOM instance, is damaged, or is in a transfer syntax that is not read.
        Unavailable: it cannot be opened now.
    """
    with problems_named(path):
        syntax = read_supported_syntax(path)
        elements = Elements(dcmread(path, stop_before_pixels=True, specific_tags=_UIDS))
        uids = {keyword: elements.text(keyword) for keyword in _UIDS}
        for keyword in _UIDS[1:]:
            if not is_acceptable_uid(uids[keyword]):
                sentence = f"expected a valid {keyword} in the file, found {uids[keyword][:64] or 'none'}"
                raise HeaderProblem(Finding.UNREADABLE_HEADER, sentence)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Instance(
            sop_instance_uid=uids["SOPInstanceUID"],
            sop_class_uid=uids["SOPClassUID"],
            series_instance_uid=uids["SeriesInstanceUID"],
            study_instance_uid=uids["StudyInstanceUID"],
            transfer_syntax_uid=syntax,
            path=path,
            sha256=digest,
            size_bytes=path.stat().st_size,
        )


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path
