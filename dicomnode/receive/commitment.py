"""Storage commitment reports: the data set of an N-EVENT-REPORT -> what the archive keeps (PS3.4 J.3.3)."""

from collections.abc import Iterator

from dicomnode.ledger.records import CommitmentReport
from dicomnode.receive.elements import Encoding, UnreadableDataSet, elements, encoding_of, items
from dicomnode.receive.identity import parse_uid

MAX_REPORT_BYTES = 1 << 23  # about 50,000 instances
_TRANSACTION, _FAILED, _REFERENCED = 0x00081195, 0x00081198, 0x00081199
_INSTANCE, _REASON = 0x00081155, 0x00081197
_PROCESSING_FAILURE = 0x0110  # PS3.3 C.14.1.1: what a report that gives no reason comes closest to


def parse_commitment_report(report: memoryview, transfer_syntax_uid: str) -> CommitmentReport:
    """Which instances of which transaction the archive committed to, and which it did not.

    Raises:
        UnreadableDataSet: no data set, no transaction UID, or a malformed reference.
    """
    encoding = encoding_of(transfer_syntax_uid)
    values = dict(elements(report, encoding))
    if _TRANSACTION not in values:
        raise UnreadableDataSet("expected a Transaction UID in a storage commitment report, found none")
    committed = _references(values.get(_REFERENCED, memoryview(b"")), encoding)
    failed = _references(values.get(_FAILED, memoryview(b"")), encoding)
    return CommitmentReport(
        transaction_uid=parse_uid(values[_TRANSACTION], "Transaction UID"),
        committed=tuple(uid for uid, _ in committed),
        failed=tuple(failed),
    )


def _references(sequence: memoryview, encoding: Encoding) -> Iterator[tuple[str, int]]:
    order = "big" if encoding.big_endian else "little"
    for item in items(sequence, encoding):
        values = dict(elements(item, encoding))
        uid = parse_uid(values.get(_INSTANCE, memoryview(b"")), "Referenced SOP Instance UID")
        reason = values.get(_REASON)
        yield uid, int.from_bytes(reason[:2], order) if reason else _PROCESSING_FAILURE
