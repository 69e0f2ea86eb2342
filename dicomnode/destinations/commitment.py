"""Storage commitment as requestor: the request's data set and the report's (PS3.4 J.3)."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicomnode.ledger.records import CommitmentReport

REQUEST_STORAGE_COMMITMENT = 1  # PS3.4 J.3.2: Action Type ID


def build_commitment_request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    """The N-ACTION information for instances given as (SOP Class UID, SOP Instance UID) (PS3.4 J.3.2.1.1)."""
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(*pair) for pair in references]
    return request


def parse_commitment_report(information: Dataset) -> CommitmentReport:
    """The N-EVENT-REPORT information as a value (PS3.4 J.3.3.1.2).

    Raises:
        ValueError: no transaction UID.
    """
    if not information.get("TransactionUID"):
        raise ValueError("expected a Transaction UID (0008,1195) in the commitment report, found none")
    return CommitmentReport(
        str(information.TransactionUID),
        tuple(str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()),
        tuple(
            (str(item.ReferencedSOPInstanceUID), int(item.get("FailureReason") or 0))
            for item in information.get("FailedSOPSequence") or ()
        ),
    )


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
