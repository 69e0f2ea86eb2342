"""Whose images these are: one series, one study, one patient, one frame of reference. Never repaired."""

from collections import Counter
from collections.abc import Sequence

from dicomnode.assembly.headers import InstanceHeader, SliceHeader
from dicomnode.assembly.policies import VerdictBook
from dicomnode.imaging import Finding, Series


def check_identity(series: Series, headers: Sequence[InstanceHeader], book: VerdictBook) -> None:
    """Record a verdict if the files name more than one series, study or patient (none is named in it)."""
    strangers = [h for h in headers if h.series_instance_uid != series.series_instance_uid]
    if strangers:
        sentence = f"{len(strangers)} of {len(headers)} files name another Series Instance UID than this series'"
        book.add(Finding.MIXED_SERIES, sentence, [h.instance.sop_instance_uid for h in strangers])
    studies = [h.study_instance_uid for h in headers]
    _check_single(Finding.MIXED_STUDIES, "study", headers, studies, book)
    patients = [h.patient_digest for h in headers]
    _check_single(Finding.MIXED_PATIENTS, "patient", headers, patients, book)


def check_frame_of_reference(
    headers: Sequence[InstanceHeader], slices: Sequence[SliceHeader], book: VerdictBook
) -> str:
    """The Frame of Reference UID of the slices; a verdict if there is none or more than one."""
    used = {header.instance for header in slices}
    headers = [header for header in headers if header.instance in used]
    frames = [header.frame_of_reference_uid for header in headers]
    _check_single(Finding.MIXED_FRAMES_OF_REFERENCE, "frame of reference", headers, frames, book)
    nowhere = [header.instance.sop_instance_uid for header in headers if not header.frame_of_reference_uid]
    if nowhere:
        sentence = (
            f"{len(nowhere)} of {len(headers)} slices have no Frame of Reference UID: results could not refer to it"
        )
        book.add(Finding.MISSING_GEOMETRY, sentence, nowhere)
    return frames[0] if frames else ""


def _check_single(
    finding: Finding, noun: str, headers: Sequence[InstanceHeader], identities: Sequence[str], book: VerdictBook
) -> None:
    counts = Counter(identities)
    if len(counts) < 2:
        return
    common, most = counts.most_common(1)[0]
    others = [h.instance.sop_instance_uid for h, who in zip(headers, identities, strict=True) if who != common]
    sentence = f"expected one {noun}, found {len(counts)}; {most} of {len(headers)} instances agree"
    book.add(finding, sentence, others)
