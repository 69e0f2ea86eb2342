"""What the gate finds wrong or odd about a series, and what the site wants done about it."""

from dataclasses import dataclass
from enum import StrEnum


class Policy(StrEnum):
    """What a finding leads to."""

    REFUSE = "refuse"  # the series is not segmented
    REPAIR = "repair"  # the finding is put right (slices dropped, tilt sheared) and recorded
    WARN = "warn"  # the series is used as it stands and the finding recorded


class Finding(StrEnum):
    """Everything the gate can find; the names are the keys of `[geometry]` in node.toml."""

    NOT_DICOM = "not_dicom"
    UNREADABLE_HEADER = "unreadable_header"
    MIXED_SERIES = "mixed_series"
    MIXED_STUDIES = "mixed_studies"
    MIXED_PATIENTS = "mixed_patients"
    MIXED_FRAMES_OF_REFERENCE = "mixed_frames_of_reference"
    CONFLICTING_INSTANCE = "conflicting_instance"  # one SOP Instance UID, two contents
    DUPLICATE_INSTANCE = "duplicate_instance"  # the same content twice
    DUPLICATE_POSITION = "duplicate_position"  # two different slices at one place
    LOCALIZER = "localizer"
    NOT_A_SLICE = "not_a_slice"  # dose page, secondary capture, RGB
    WRONG_MODALITY = "wrong_modality"
    MISSING_GEOMETRY = "missing_geometry"
    MIXED_ORIENTATION = "mixed_orientation"
    MIXED_MATRIX = "mixed_matrix"
    MIXED_PIXEL_SPACING = "mixed_pixel_spacing"
    GANTRY_TILT = "gantry_tilt"
    MISSING_SLICES = "missing_slices"
    UNEVEN_SPACING = "uneven_spacing"
    TOO_FEW_SLICES = "too_few_slices"
    TOO_LARGE = "too_large"
    IMPLAUSIBLE_GEOMETRY = "implausible_geometry"  # no scanner measures so
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    TRUNCATED_PIXELS = "truncated_pixels"
    UNDECODABLE_PIXELS = "undecodable_pixels"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding about a series: an operator's sentence with numbers, and the instances concerned."""

    finding: Finding
    policy: Policy
    sentence: str
    sop_instance_uids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.finding}: {self.sentence}"
