"""Which instances of a series are slices of its volume: dose pages, localizers and strangers are told apart."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from dicomnode.assembly.headers import InstanceHeader, Plane, Rescale, SliceHeader
from dicomnode.assembly.policies import VerdictBook
from dicomnode.imaging import Finding, Policy

# SOP classes whose images are slices in the patient (PS3.4 B.5), and the modality each belongs to.
SLICE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # enhanced
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",  # legacy converted enhanced
}
# Rescale Types of CT values that are not HU: spectral maps that look like a CT (PS3.3 C.11.1.1.2).
_NOT_HU = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})
_LOCALIZER_TYPES = frozenset({"LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM"})

# Cosines of one series differ by rounding only; 0.001 (0.06 degrees) moves a voxel 250 mm away by 0.25 mm.
_SAME_DIRECTION = 1e-3
# Pixel spacings may differ by what moves the last voxel of 512 by less than 0.01 mm.
_SAME_SPACING_MM = 2e-5
# Slices across the others' planes, and few of them: an unmarked localizer that was filed with its series.
_LOCALIZER_MIN_DEGREES = 30.0
_LOCALIZER_MAX_SHARE = 0.1


def select_slices(headers: Sequence[InstanceHeader], book: VerdictBook) -> list[SliceHeader]:
    """The slices of the volume: of one orientation, matrix and pixel spacing; verdicts on all others."""
    headers = _without(
        _is_not_a_slice, headers, book, Finding.NOT_A_SLICE, "no slices of the patient (pages, RGB, captures)"
    )
    headers = _without(_is_localizer, headers, book, Finding.LOCALIZER, "localizers")
    headers = _without(_is_of_wrong_modality, headers, book, Finding.WRONG_MODALITY, "not CT (in HU) or MR images")
    slices = _placed(headers, book)
    slices = _of_one_orientation(slices, book)
    slices = _alike(slices, _matrix, Finding.MIXED_MATRIX, "matrix", book)
    return _alike(slices, _pixel_spacing, Finding.MIXED_PIXEL_SPACING, "pixel spacing", book)


def modality_of(slices: Sequence[SliceHeader]) -> str:
    """The modality that the slices' SOP class belongs to."""
    return SLICE_CLASSES[slices[0].sop_class_uid] if slices else ""


def _without(
    is_odd: Callable[[InstanceHeader], str],
    headers: Sequence[InstanceHeader],
    book: VerdictBook,
    finding: Finding,
    noun: str,
) -> list[InstanceHeader]:
    """Set aside what `is_odd` gives a reason for, unless the site wants it used as it stands."""
    reasons = {header.instance.sop_instance_uid: is_odd(header) for header in headers}
    odd = [uid for uid, reason in reasons.items() if reason]
    if not odd:
        return list(headers)
    found = ", ".join(sorted({reason for reason in reasons.values() if reason}))
    policy = book.add(finding, f"{len(odd)} of {len(headers)} instances are {noun}: found {found}", odd)
    if policy is Policy.WARN:
        return list(headers)
    return [header for header in headers if not reasons[header.instance.sop_instance_uid]]


def _is_not_a_slice(header: InstanceHeader) -> str:
    if header.sop_class_uid not in SLICE_CLASSES:
        return f"SOP class {header.sop_class_uid or '(none)'}"
    if header.layout.samples != 1:
        return f"{header.layout.samples} samples per pixel"
    return (
        "" if header.photometric in ("MONOCHROME1", "MONOCHROME2") else f"photometric {header.photometric or '(none)'}"
    )


def _is_localizer(header: InstanceHeader) -> str:
    return next((f"image type {word}" for word in header.image_type if word in _LOCALIZER_TYPES), "")


def _is_of_wrong_modality(header: InstanceHeader) -> str:
    expected = SLICE_CLASSES[header.sop_class_uid]
    if header.modality != expected:
        return f"modality {header.modality or '(none)'} in a {expected} SOP class"
    reasons = (_rescale_problem(slice_.rescale, expected) for slice_ in header.slices)
    return next((reason for reason in reasons if reason), "")


def _rescale_problem(rescale: Rescale, modality: str) -> str:
    """Why stored values do not become HU (CT) or arbitrary units (MR)."""
    if not np.isfinite([rescale.slope, rescale.intercept]).all() or rescale.slope == 0:
        return f"a rescale slope of {rescale.slope:g} and intercept of {rescale.intercept:g}"
    if modality != "CT":
        return ""
    if not rescale.is_declared:
        return "CT values without rescale slope and intercept"
    return f"values in {rescale.type}" if rescale.type in _NOT_HU else ""


def _placed(headers: Sequence[InstanceHeader], book: VerdictBook) -> list[SliceHeader]:
    """The slices whose place in the patient is known."""
    placed: list[SliceHeader] = []
    problems: dict[str, list[str]] = {}
    for header in headers:
        problem = _placement_problem(header)
        if problem:
            problems.setdefault(problem, []).append(header.instance.sop_instance_uid)
        else:
            placed.extend(header.slices)
    for problem, uids in problems.items():
        book.add(Finding.MISSING_GEOMETRY, f"{len(uids)} of {len(headers)} instances {problem}", uids)
    return placed


def _placement_problem(header: InstanceHeader) -> str:
    if header.missing:
        return f"lack {', '.join(header.missing)}"
    if header.layout.rows < 1 or header.layout.columns < 1:
        return f"have a matrix of {header.layout.rows} x {header.layout.columns}"
    return next((problem for s in header.slices if (problem := _plane_problem(s.plane))), "")


def _plane_problem(plane: Plane) -> str:
    spacing = (plane.row_spacing_mm, plane.column_spacing_mm)
    if not np.isfinite([*plane.position_mm, *plane.row_direction, *plane.column_direction, *spacing]).all():
        return "have positions or directions that are not finite"
    if min(spacing) <= 0:
        return f"have a pixel spacing of {spacing[0]:g} x {spacing[1]:g} mm"
    row, column = np.array(plane.row_direction), np.array(plane.column_direction)
    products = np.array([row @ row, column @ column, row @ column])
    if np.abs(products - (1, 1, 0)).max() > _SAME_DIRECTION:
        return "have row and column directions that are not perpendicular unit vectors (Image Orientation)"
    return ""


def _of_one_orientation(slices: Sequence[SliceHeader], book: VerdictBook) -> list[SliceHeader]:
    groups = _orientation_groups(slices)
    if len(groups) < 2:
        return list(slices)
    for group in groups[1:]:
        degrees = _degrees_between(groups[0][0].plane, group[0].plane)
        uids = [header.instance.sop_instance_uid for header in group]
        sentence = f"{len(group)} of {len(slices)} slices lie across the others, at {degrees:.1f} degrees"
        if degrees >= _LOCALIZER_MIN_DEGREES and len(group) <= _LOCALIZER_MAX_SHARE * len(slices):
            book.add(Finding.LOCALIZER, sentence, uids)
        else:
            _recorder(groups[0], slices, book)(Finding.MIXED_ORIENTATION, sentence, uids)
    return groups[0]


def _orientation_groups(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices by orientation, the largest group first."""
    groups: list[list[SliceHeader]] = []
    for header in slices:
        alike = (group for group in groups if _same_orientation(group[0].plane, header.plane))
        group = next(alike, None)
        if group is None:
            groups.append([header])
        else:
            group.append(header)
    return sorted(groups, key=len, reverse=True)


def _same_orientation(first: Plane, second: Plane) -> bool:
    pairs = zip(
        (*first.row_direction, *first.column_direction), (*second.row_direction, *second.column_direction), strict=True
    )
    return all(abs(a - b) <= _SAME_DIRECTION for a, b in pairs)


def _degrees_between(first: Plane, second: Plane) -> float:
    """The angle between two planes' normals, or between their rows where the planes are parallel."""
    normals = [np.cross(plane.row_direction, plane.column_direction) for plane in (first, second)]
    between_normals = np.degrees(np.arccos(np.clip(abs(normals[0] @ normals[1]), 0, 1)))
    between_rows = np.degrees(np.arccos(np.clip(np.dot(first.row_direction, second.row_direction), -1, 1)))
    return float(between_normals if between_normals > 1 else between_rows)


def _matrix(header: SliceHeader) -> str:
    return f"{header.layout.rows} x {header.layout.columns}"


def _pixel_spacing(header: SliceHeader) -> str:
    # Rounded to the tolerance: spacings of one series are one text, so the edges of the rounding do not matter.
    spacing = (header.plane.row_spacing_mm, header.plane.column_spacing_mm)
    return " x ".join(f"{round(mm / _SAME_SPACING_MM) * _SAME_SPACING_MM:.5f} mm" for mm in spacing)


def _alike(
    slices: Sequence[SliceHeader],
    trait: Callable[[SliceHeader], Hashable],
    finding: Finding,
    noun: str,
    book: VerdictBook,
) -> list[SliceHeader]:
    """The slices with the commonest value of a trait; a verdict on the others."""
    counts = Counter(trait(header) for header in slices)
    if len(counts) < 2:
        return list(slices)
    common = counts.most_common(1)[0][0]
    kept = [header for header in slices if trait(header) == common]
    others = [header.instance.sop_instance_uid for header in slices if trait(header) != common]
    found = ", ".join(f"{number} of {value}" for value, number in counts.most_common(4))
    _recorder(kept, slices, book)(finding, f"expected one {noun}, found {found}", others)
    return kept


def _recorder(
    kept: Sequence[SliceHeader], slices: Sequence[SliceHeader], book: VerdictBook
) -> Callable[[Finding, str, Sequence[str]], object]:
    """Repairing by keeping the majority needs one: with half or less in `kept` the series is refused."""
    return book.add if 2 * len(kept) > len(slices) else book.refuse
