"""The decoding process: frames named on standard input go, decoded, into the shared memory it was given.

Started by `decode_pool` as `python -m dicomnode.assembly.decode_worker FD BYTES`, with an address-space limit:
a codestream that asks for gigabytes or breaks a codec ends this process and no other.
"""

import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from dicomnode.assembly.decoding import CodedFrame, decode_frame

_STANDARD_OUTPUT = 1


@dataclass(frozen=True, slots=True)
class Task:
    """One frame to decode: where its fragments are, how it is coded, and where its words go."""

    path: str
    extents: tuple[tuple[int, int], ...]  # start in the file, length
    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    output_offset: int

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def main(output: int, memory_limit_bytes: int) -> None:
    """Decode every task on standard input; one line per task on standard output says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    for number, line in enumerate(sys.stdin):
        report = {"task": number, "error": _decode(Task(**json.loads(line)), output)}
        os.write(_STANDARD_OUTPUT, (json.dumps(report) + "\n").encode())


def _decode(task: Task, output: int) -> str:
    try:
        words = decode_frame(_coded_frame(task))
    except Exception as error:  # noqa: BLE001 - codecs raise anything; this process exists to find out
        return f"{type(error).__name__}: {str(error)[:300]}"
    pixels = words.data.cast("B")
    written = os.pwrite(output, pixels, task.output_offset)
    return "" if written == len(pixels) else f"expected {len(pixels)} bytes written, found {written}"


def _coded_frame(task: Task) -> CodedFrame:
    with Path(task.path).open("rb") as file:
        codestream = b"".join(os.pread(file.fileno(), length, start) for start, length in task.extents)
    return CodedFrame(
        codestream,
        task.transfer_syntax_uid,
        task.rows,
        task.columns,
        task.bits_allocated,
        task.bits_stored,
        task.signed,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
