"""What one line of the audit log says: which event, which objects, which outcome; never whose."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_DETAIL = 4000
MAX_UIDS = 100


class AuditEvent(StrEnum):
    """What happened, with the event of PS3.15 A.5 that it would be sent as.

    ====================== ======================================================================
    event                  PS3.15 A.5.3 event ID
    ====================== ======================================================================
    node started, stopped  110100 Application Activity (110120 Start, 110121 Stop)
    association rejected   110113 Security Alert (110126 Node Authentication)
    series received        110104 DICOM Instances Transferred
    series completed       110103 DICOM Instances Accessed
    routed                 110103 DICOM Instances Accessed
    gate verdicts          110103 DICOM Instances Accessed; refused: 110113 Security Alert
    inference              110103 DICOM Instances Accessed
    encoded, checked       110103 DICOM Instances Accessed
    blocked                110113 Security Alert
    sent                   110102 Begin Transferring, then 110104 DICOM Instances Transferred
    committed              110104 DICOM Instances Transferred
    parked, retried        110103 DICOM Instances Accessed
    configuration          110113 Security Alert (110131 Software Configuration)
    purged                 110105 DICOM Study Deleted
    audit verified         110101 Audit Log Used
    torn tail recovered    110101 Audit Log Used
    audit alarm            110113 Security Alert
    ====================== ======================================================================
    """

    NODE_STARTED = "node started"
    NODE_STOPPED = "node stopped"
    ASSOCIATION_REJECTED = "association rejected"
    SERIES_RECEIVED = "series received"
    SERIES_COMPLETED = "series completed"
    ROUTED = "routed"
    GATE_VERDICTS = "gate verdicts"
    INFERENCE = "inference"
    ENCODED = "encoded"
    CHECKED = "checked"
    BLOCKED = "blocked"
    SENT = "sent"
    COMMITTED = "committed"
    PARKED = "parked"
    RETRIED = "retried"
    CONFIGURATION = "configuration"
    PURGED = "purged"
    AUDIT_VERIFIED = "audit verified"
    TORN_TAIL_RECOVERED = "torn tail recovered"  # written by the log itself
    AUDIT_ALARM = "audit alarm"  # written by the log itself: its end was not where it should be


class AuditOutcome(IntEnum):
    """How it went (PS3.15 A.5.2 EventOutcomeIndicator)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One event. Objects are named by UID and digest; a patient only by `patient_key`, a SHA-256.

    `instances_sha256` is the series' content digest, `result_sha256` that of a result's file, and
    `model_sha256` that of its weights.
    """

    at: datetime
    event: AuditEvent
    role: str
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uids: tuple[str, ...] = ()
    instances: int = 0
    instances_sha256: str = ""
    model: str = ""
    model_version: str = ""
    model_sha256: str = ""
    result_sha256: str = ""
    order_id: str = ""
    peer: str = ""
    patient_key: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("expected a time with its zone, found one without")
        for name in ("instances_sha256", "model_sha256", "result_sha256", "patient_key"):
            value = getattr(self, name)
            if value and not _SHA256.fullmatch(value):
                raise ValueError(f"expected {name} as 64 hexadecimal digits, found {len(value)} characters")
        if len(self.sop_instance_uids) > MAX_UIDS:
            raise ValueError(
                f"expected at most {MAX_UIDS} SOP Instance UIDs, found {len(self.sop_instance_uids)}; give their digest"
            )
        if len(self.detail) > MAX_DETAIL:
            object.__setattr__(self, "detail", self.detail[: MAX_DETAIL - 1] + "…")


def encode_record(record: AuditRecord, number: int, previous: str) -> bytes:
    """One line without its end: `number` (1, 2, ...), the previous line's SHA-256, and what the record says."""
    line: dict[str, object] = {
        "number": number,
        "previous": previous,
        "at": record.at.isoformat(timespec="milliseconds"),
        "event": record.event.value,
        "outcome": record.outcome.value,
        "role": record.role,
    }
    line.update(_what_it_names(record))
    return json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _what_it_names(record: AuditRecord) -> Mapping[str, object]:
    named: dict[str, object] = {
        "study": record.study_instance_uid,
        "series": record.series_instance_uid,
        "sop_instances": list(record.sop_instance_uids),
        "instances": record.instances,
        "instances_sha256": record.instances_sha256,
        "model": record.model,
        "model_version": record.model_version,
        "model_sha256": record.model_sha256,
        "result_sha256": record.result_sha256,
        "order": record.order_id,
        "peer": record.peer,
        "patient_key": record.patient_key,
        "detail": record.detail,
    }
    return {key: value for key, value in named.items() if value}
