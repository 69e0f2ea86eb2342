"""Storage commitment reports as pydicom encodes them."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom.dsutils import encode

from dicomnode.ledger.records import CommitmentReport
from dicomnode.receive.commitment import parse_commitment_report
from dicomnode.receive.elements import UnreadableDataSet
from dicomnode.receive.services import EXPLICIT_LITTLE, IMPLICIT_LITTLE


def report(committed: list[str], failed: dict[str, int]) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = "1.2.3"
    ds.ReferencedSOPSequence = Sequence([_reference(uid) for uid in committed])
    if failed:
        ds.FailedSOPSequence = Sequence([_reference(uid, reason) for uid, reason in failed.items()])
    return ds


def _reference(uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", uid
    if reason is not None:
        item.FailureReason = reason
    return item


def parsed(ds: Dataset, *, implicit: bool = False) -> CommitmentReport:
    raw = encode(ds, implicit, True)
    assert raw is not None
    return parse_commitment_report(memoryview(raw), IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
def test_a_report_says_what_is_kept_and_what_failed_and_why(implicit: bool, undefined: bool) -> None:
    ds = report(["1.5.1", "1.5.22"], {"1.6.1": 0x0112})
    for name in ("ReferencedSOPSequence", "FailedSOPSequence"):
        ds[name].is_undefined_length = undefined
        for item in ds[name].value:
            item.is_undefined_length_sequence_item = undefined
    assert parsed(ds, implicit=implicit) == CommitmentReport("1.2.3", ("1.5.1", "1.5.22"), (("1.6.1", 0x0112),))


def test_a_failure_without_a_reason_counts_as_processing_failure() -> None:
    ds = report([], {"1.6.1": 1})
    del ds.FailedSOPSequence[0].FailureReason
    assert parsed(ds).failed == (("1.6.1", 0x0110),)


def test_a_report_without_its_transaction_is_refused() -> None:
    ds = report(["1.5.1"], {})
    del ds.TransactionUID
    with pytest.raises(UnreadableDataSet, match="Transaction UID"):
        parsed(ds)


def test_a_reference_without_a_uid_is_refused() -> None:
    ds = report(["1.5.1"], {})
    del ds.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    with pytest.raises(UnreadableDataSet, match="Referenced SOP Instance UID"):
        parsed(ds)


def test_garbage_is_refused() -> None:
    with pytest.raises(UnreadableDataSet):
        parse_commitment_report(memoryview(Path(__file__).read_bytes()), EXPLICIT_LITTLE)
