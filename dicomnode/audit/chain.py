"""The form of the log: lines that name their number and the SHA-256 of the line before, and the head."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

LOG_NAME = "audit.jsonl"
HEAD_NAME = "audit.head"
LOCK_NAME = "audit.lock"
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditHead:
    """How many records the log has, and the SHA-256 of the last one: it vouches for all before it."""

    records: int
    sha256: str


EMPTY = AuditHead(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Link:
    """What a line says about its place."""

    number: int
    previous: str
    event: str


def line_sha256(line: bytes) -> str:
    """The digest that the next line names; `line` is without its end."""
    return hashlib.sha256(line).hexdigest()


def parse_link(line: bytes) -> Link:
    """A line's place in the chain.

    Raises:
        ValueError: it is not a record.
    """
    match _json_object(line):
        case {"number": int(number), "previous": str(previous), "event": str(event)}:
            return Link(number, previous, event)
        case _:
            raise ValueError("expected a record with number, previous and event, found something else")


def encode_head(head: AuditHead) -> bytes:
    """The head file's content."""
    return json.dumps({"records": head.records, "sha256": head.sha256}).encode("ascii") + b"\n"


def read_head(folder: Path) -> AuditHead | None:
    """The head file; None when there is none.

    Raises:
        ValueError: it is not a head, to the byte.
    """
    try:
        content = (folder / HEAD_NAME).read_bytes()
    except FileNotFoundError:
        return None
    match _json_object(content):
        case {"records": int(records), "sha256": str(sha256)}:
            head = AuditHead(records, sha256)
        case _:
            head = EMPTY
    if encode_head(head) != content:
        raise ValueError(f"{HEAD_NAME}: expected a number of records and a SHA-256, found something else")
    return head


def _json_object(content: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(content.decode("ascii"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("expected a JSON object, found something else") from error
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object, found another value")  # noqa: TRY004  the one error of this module
    return cast("dict[str, object]", document)
