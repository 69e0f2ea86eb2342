"""What DIMSE status codes mean for a delivery (PS3.4 B.2.3, PS3.7 annex C)."""

from dicomnode.destinations.port import Outcome

_SENTENCES = {
    0x0000: "stored",
    0x0110: "processing failure",
    0x0112: "no such instance",
    0x0117: "invalid instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0131: "duplicate transaction UID",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "stored, data elements were coerced",
    0xB006: "stored, data elements were discarded",
    0xB007: "stored, although the data set does not match its SOP class",
}
# Kept, with something to tell: PS3.7 C.2 and PS3.4 table B.2-1.
_WARNINGS = {0x0001, 0x0107, 0x0116}
# The peer's own trouble: the same instance may be taken another time.
TRANSIENT_FAILURES = frozenset({0x0110, 0x0213})


def status_sentence(status: int) -> str:
    """A status code in words, with the code."""
    return f"{_SENTENCES.get(status) or _range_sentence(status)} (status 0x{status:04X})"


def store_outcome(status: int) -> Outcome:
    """What a C-STORE response status says about the instance."""
    if status == 0x0000:
        return Outcome.STORED
    if status in _WARNINGS or status >> 12 == 0xB:
        return Outcome.STORED_WITH_WARNING
    if status in TRANSIENT_FAILURES or status >> 8 == 0xA7:
        return Outcome.OUT_OF_RESOURCES
    return Outcome.REFUSED


def _range_sentence(status: int) -> str:
    if status >> 8 == 0xA7:
        return "out of resources"
    if status >> 8 == 0xA9:
        return "the data set does not match its SOP class"
    if status >> 12 == 0xC:
        return "the data set cannot be understood"
    if status >> 12 == 0xB or status in _WARNINGS:
        return "stored with a warning"
    return "failure"
