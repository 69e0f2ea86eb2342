"""DICOM unique identifiers: checking the ones peers send, deriving the ones the node makes."""

import hashlib
import re
import uuid

_COMPONENTS = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
# Real scanners write components with leading zeros; PS3.5 9.1 forbids them, archives keep them all the same.
_TOLERATED = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID_LENGTH = 64


def is_valid_uid(uid: str) -> bool:
    """Whether `uid` obeys PS3.5 section 9.1: digits and dots, no leading zeros, at most 64 characters."""
    return len(uid) <= MAX_UID_LENGTH and _COMPONENTS.fullmatch(uid) is not None


def is_acceptable_uid(uid: str) -> bool:
    """Whether `uid` may be received: digits and dots, at most 64 characters, leading zeros forgiven."""
    return len(uid) <= MAX_UID_LENGTH and _TOLERATED.fullmatch(uid) is not None


def derived_uid(*words: str) -> str:
    """The same UID for the same words, another for others: 2.25 and 122 bits of their SHA-256.

    PS3.5 B.2 allows UUIDs under 2.25; RFC 9562 version 8 leaves the bits to the application.
    """
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return f"2.25.{_uuid8(digest).int}"


def _uuid8(digest: bytes) -> uuid.UUID:
    number = bytearray(digest[:16])
    number[6] = (number[6] & 0x0F) | 0x80
    number[8] = (number[8] & 0x3F) | 0x80
    return uuid.UUID(bytes=bytes(number))
