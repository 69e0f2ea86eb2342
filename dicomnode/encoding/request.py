"""What the caller decides about a result object, and what it gets back."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.imaging import ModelIdentity, derived_uid, is_valid_uid

CODE_STRING = re.compile("[A-Z0-9_]{1,16}")  # CS, PS3.5 table 6.2-1


@dataclass(frozen=True, slots=True)
class ResultUids:
    """The series and instance a result lives under."""

    series_uid: str
    instance_uid: str


def result_uids(content: str, model: ModelIdentity, options: str, kind: str) -> ResultUids:
    """The same UIDs for the same input content, model, options and kind of result; others for others.

    `content` is `Series.content`. A resend or a repeated step makes no twin; one more slice, other weights,
    other steps around the same weights, or other options make a new series.
    """
    words = (content, model.name, model.version, model.weights_sha256, options, kind, model.package_sha256)
    return ResultUids(derived_uid("series", *words), derived_uid("instance", *words))


@dataclass(frozen=True, slots=True)
class EncodingRequest:
    """Everything in a result that follows neither from the source nor from the network.

    `created_at` is an argument so that the same request gives the same bytes: an archive that already holds
    the instance must find nothing new in it. It is written as local time, its time zone is not.
    """

    series_uid: str
    instance_uid: str
    created_at: datetime
    software_version: str
    series_number: int = 900
    content_label: str = "AI_SEGMENTATION"
    device_serial_number: str = "unknown"

    def __post_init__(self) -> None:
        for uid in (self.series_uid, self.instance_uid):
            if not is_valid_uid(uid):
                raise ValueError(f"expected a valid UID (PS3.5 9.1), found {uid[:80]!r}")
        if not CODE_STRING.fullmatch(self.content_label):
            expected = "expected a content label of 1 to 16 characters A-Z, 0-9 and _"
            raise ValueError(f"{expected}, found {self.content_label!r}")
        if self.series_number < 1:
            raise ValueError(f"expected a series number of at least 1, found {self.series_number}")


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """A result object on disk; `sha256` is the digest of the whole file."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str
    omitted_segments: tuple[str, ...] = ()  # names of the segments that have no voxel and are not described
