"""The geometry gate: is this series one volume, and if so which slices, in which order, on which grid?

Every finding becomes a verdict with numbers and instances; all of them are collected before the gate says no.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dicomnode.assembly import copies, identity, selection
from dicomnode.assembly.headers import HeaderProblem, InstanceHeader, SliceHeader, read_header
from dicomnode.assembly.policies import VerdictBook
from dicomnode.assembly.stacking import MIN_TILT_DEGREES, Points, Stack, Vector, build_stack, tolerance_mm
from dicomnode.imaging import Finding, Geometry, Policy, Series, SliceSource, Verdict

DEFAULT_MAX_VOXELS = 2_000_000_000
# Two slices have one gap and nothing to compare it with: a missing slice between them would not be seen.
MIN_SLICES = 3
MIN_MATRIX = 2
MIN_STEP_MM, MAX_STEP_MM = 0.01, 100.0
_NAMED_GAPS = 5  # how many places a sentence names


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """A usable series: its slices in order along the acquisition normal, their grid, and what was odd about it."""

    series: Series
    modality: str  # "CT" or "MR"
    slices: tuple[SliceHeader, ...]
    geometry: Geometry
    verdicts: tuple[Verdict, ...]

    @property
    def sources(self) -> tuple[SliceSource, ...]:
        """Where each slice came from, in slice order."""
        return tuple(header.source for header in self.slices)


def inspect(
    series: Series, policies: Mapping[Finding, Policy] | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> Inspection:
    """Read every header of a series and find the grid that its slices make; pixels are not read.

    Raises:
        UnusableSeries: a verdict's policy is to refuse; it carries all verdicts, the refusing ones first.
        ConfigError: `policies` asks for something that cannot be done.
        Unavailable: a file cannot be opened now.
    """
    book = VerdictBook(policies or {})
    headers = copies.without_copies(_read_headers(series, book), book)
    identity.check_identity(series, headers, book)
    slices = selection.select_slices(headers, book)
    frames_of_reference = identity.check_frame_of_reference(headers, slices, book)
    _check_pixels(slices, max_voxels, book)
    geometry, ordered = _build_geometry(slices, frames_of_reference, book)
    book.raise_if_refused()
    if geometry is None:
        raise AssertionError("a series without a geometry must have been refused")
    return Inspection(series, selection.modality_of(ordered), ordered, geometry, book.verdicts)


def _read_headers(series: Series, book: VerdictBook) -> list[InstanceHeader]:
    headers: list[InstanceHeader] = []
    problems: dict[tuple[Finding, str], list[str]] = {}
    for instance in series.instances:
        try:
            headers.append(read_header(instance))
        except HeaderProblem as problem:
            problems.setdefault((problem.finding, problem.sentence), []).append(instance.sop_instance_uid)
    for (finding, sentence), uids in problems.items():
        book.add(finding, f"{_of(len(uids), len(series.instances))} cannot be read: {sentence}", uids)
    return headers


def _check_pixels(slices: Sequence[SliceHeader], max_voxels: int, book: VerdictBook) -> None:
    layouts = {header.instance: header.layout for header in slices}
    voxels = sum(layout.voxels for layout in layouts.values())
    if voxels > max_voxels:
        sentence = f"expected at most {max_voxels} voxels (limits.max_voxels), found {voxels}"
        book.add(Finding.TOO_LARGE, sentence, _uids(slices))
    for instance, layout in layouts.items():
        uid = instance.sop_instance_uid
        if (
            layout.bits_allocated not in (8, 16)
            or not 0 < layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated
        ):
            bits = f"{layout.bits_stored} of {layout.bits_allocated} bits up to bit {layout.high_bit}"
            book.add(
                Finding.UNDECODABLE_PIXELS, f"instance {uid}: expected 8 or 16 bits allocated, found {bits}", [uid]
            )
        elif shortage := layout.shortage():
            book.add(Finding.TRUNCATED_PIXELS, f"instance {uid}: {shortage}", [uid])


def _build_geometry(
    slices: Sequence[SliceHeader], frame_of_reference_uid: str, book: VerdictBook
) -> tuple[Geometry | None, tuple[SliceHeader, ...]]:
    normal = _normal(slices)
    slices = copies.without_repeated_positions(_in_order(slices, normal), normal, book)
    if len(slices) < MIN_SLICES:
        sentence = f"expected at least {MIN_SLICES} slices at different positions, found {len(slices)}"
        book.add(Finding.TOO_FEW_SLICES, sentence, _uids(slices))
        return None, ()
    stack = build_stack(_positions_mm(slices), normal)
    _report_tilt(stack, slices, book)
    if not stack.is_even:
        _report_unevenness(stack, slices, book)
        return None, ()
    if problem := _implausible(stack, slices[0]):
        book.add(Finding.IMPLAUSIBLE_GEOMETRY, problem, _uids(slices))
        return None, ()
    return _geometry(stack, slices, frame_of_reference_uid), tuple(slices)


def _implausible(stack: Stack, header: SliceHeader) -> str:
    """What no scanner measures: a unit mistaken, or nonsense that would take all memory to resample."""
    rows, columns = header.layout.rows, header.layout.columns
    if min(rows, columns) < MIN_MATRIX:
        return f"expected at least {MIN_MATRIX} x {MIN_MATRIX} pixels, found {rows} x {columns}"
    steps_mm = {
        "pixel spacing": (header.plane.row_spacing_mm, header.plane.column_spacing_mm),
        "distance of slices": (stack.spacing_mm,),
    }
    for what, found in steps_mm.items():
        for step_mm in found:
            if not MIN_STEP_MM <= step_mm <= MAX_STEP_MM:
                return f"expected a {what} of {MIN_STEP_MM:g} to {MAX_STEP_MM:g} mm, found {step_mm:g}"
    return ""


def _report_tilt(stack: Stack, slices: Sequence[SliceHeader], book: VerdictBook) -> None:
    if stack.tilt_degrees <= MIN_TILT_DEGREES:
        return
    per_slice_mm = float(np.tan(np.radians(stack.tilt_degrees))) * stack.spacing_mm
    sentence = (
        f"the slices are stacked {stack.tilt_degrees:.2f} degrees off their normal: "
        f"each is shifted by {per_slice_mm:.3f} mm against the one before"
    )
    book.add(Finding.GANTRY_TILT, sentence, _uids(slices))


def _report_unevenness(stack: Stack, slices: Sequence[SliceHeader], book: VerdictBook) -> None:
    missing = [gap for gap in stack.gaps if gap.steps is not None]
    uneven = [gap for gap in stack.gaps if gap.steps is None]
    for finding, gaps in ((Finding.MISSING_SLICES, missing), (Finding.UNEVEN_SPACING, uneven)):
        if gaps:
            places = [f"{gap.distance_mm:.2f} mm after slice {gap.after + 1}" for gap in gaps[:_NAMED_GAPS]]
            lost = sum((gap.steps or 1) - 1 for gap in gaps)
            count = f"{lost} missing, " if lost else ""
            more = f" and {len(gaps) - _NAMED_GAPS} more" if len(gaps) > _NAMED_GAPS else ""
            sentence = f"{count}expected {stack.spacing_mm:.2f} mm between slices, found {', '.join(places)}{more}"
            book.add(finding, sentence, _uids([slices[i] for gap in gaps for i in (gap.after, gap.after + 1)]))
    if not stack.gaps:
        sentence = (
            f"slice {stack.farthest + 1} lies {stack.deviation_mm:.3f} mm off the stack's line, "
            f"expected at most {tolerance_mm(stack.spacing_mm):.3f} mm"
        )
        book.add(Finding.UNEVEN_SPACING, sentence, _uids([slices[stack.farthest]]))


def _geometry(stack: Stack, slices: Sequence[SliceHeader], frame_of_reference_uid: str) -> Geometry:
    plane, layout = slices[0].plane, slices[0].layout
    affine = np.eye(4)
    affine[:3, 0] = stack.step_mm
    # Pixel Spacing is row then column; rows follow each other in the column direction (PS3.3 C.7.6.2.1.1).
    affine[:3, 1] = _mean_direction([s.plane.column_direction for s in slices]) * plane.row_spacing_mm
    affine[:3, 2] = _mean_direction([s.plane.row_direction for s in slices]) * plane.column_spacing_mm
    affine[:3, 3] = stack.first_mm
    return Geometry(affine, (len(slices), layout.rows, layout.columns), frame_of_reference_uid)


def _in_order(slices: Sequence[SliceHeader], normal: Vector) -> list[SliceHeader]:
    distances = _positions_mm(slices) @ normal
    return [slices[index] for index in np.argsort(distances, kind="stable")]


def _normal(slices: Sequence[SliceHeader]) -> Vector:
    if not slices:
        return np.array([0.0, 0.0, 1.0])
    row = _mean_direction([header.plane.row_direction for header in slices])
    column = _mean_direction([header.plane.column_direction for header in slices])
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _mean_direction(directions: Sequence[tuple[float, float, float]]) -> Vector:
    # Distinct ones only: a mean of equal ones would not be exactly what the scanner wrote.
    mean = np.mean(sorted(set(directions)), axis=0)
    return mean / np.linalg.norm(mean)


def _positions_mm(slices: Sequence[SliceHeader]) -> Points:
    return np.array([header.plane.position_mm for header in slices], dtype=np.float64).reshape(-1, 3)


def _uids(slices: Sequence[SliceHeader]) -> list[str]:
    return [header.instance.sop_instance_uid for header in slices]


def _of(count: int, total: int) -> str:
    return f"{count} of {total} instances"
