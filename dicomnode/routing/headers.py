"""What routing reads of a series: the attributes its rules ask for, of every instance, and whose it is."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from dicomnode.errors import Unavailable, UnusableSeries
from dicomnode.imaging import Finding, Policy, Series, Verdict

Attributes = dict[str, tuple[str, ...]]  # keyword -> the instance's values, () when absent or empty


@dataclass(frozen=True, slots=True)
class SeriesHeaders:
    """The attributes of every instance of a series that the rules ask for."""

    instances: Sequence[Attributes]
    sop_class_uids: frozenset[str]
    patient_key: str  # SHA-256 of issuer and patient ID: finds a patient's studies without storing who it is


def patient_key_of(patient_id: str, issuer: str = "") -> str:
    """The pseudonym under which the ledger keeps a patient: who knows the ID finds it, the ledger alone does not."""
    return hashlib.sha256(f"{issuer.strip()}|{patient_id.strip()}".encode()).hexdigest()


def read_series_headers(series: Series, keywords: Iterable[str]) -> SeriesHeaders:
    """Read the named attributes of every instance, one header in memory at a time.

    Raises:
        UnusableSeries: an instance is not readable as DICOM.
        Unavailable: a file could not be read at all.
    """
    wanted = sorted({*keywords, "Modality"})
    found: list[Attributes] = []
    keys: set[str] = set()
    for instance in series.instances:
        attributes = _read(instance.path, instance.sop_instance_uid, [*wanted, "PatientID", "IssuerOfPatientID"])
        keys.add(patient_key_of(*("".join(attributes.pop(k)) for k in ("PatientID", "IssuerOfPatientID"))))
        found.append(attributes)
    classes = frozenset(i.sop_class_uid for i in series.instances)
    return SeriesHeaders(tuple(found), classes, keys.pop() if len(keys) == 1 else "")


def _read(path: Path, sop_instance_uid: str, keywords: list[str]) -> Attributes:
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
        return {keyword: _values(header, keyword) for keyword in keywords}
    except OSError as error:
        raise Unavailable(f"instance {sop_instance_uid} cannot be read from the spool: {error.strerror}") from error
    except (InvalidDicomError, ValueError, KeyError, TypeError, NotImplementedError, AttributeError) as error:
        sentence = f"the header cannot be read ({type(error).__name__})"
        verdict = Verdict(Finding.UNREADABLE_HEADER, Policy.REFUSE, sentence, (sop_instance_uid,))
        raise UnusableSeries([verdict]) from error


def _values(header: Dataset, keyword: str) -> tuple[str, ...]:
    if keyword not in header or header[keyword].is_empty:
        return ()
    value = header[keyword].value
    return tuple(str(v) for v in value) if isinstance(value, MultiValue | list) else (str(value),)
