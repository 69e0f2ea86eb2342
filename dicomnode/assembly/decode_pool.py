"""Compressed slices -> shared memory, by short-lived processes on all cores that may die of what they read."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dicomnode
from dicomnode.assembly.decode_worker import Task
from dicomnode.assembly.headers import SliceHeader
from dicomnode.errors import UnusableSeries
from dicomnode.imaging import Finding, Policy, Verdict

# Starting one costs 0.3 CPU s of imports: not worth it for a handful of slices.
_MIN_FRAMES_PER_PROCESS = 16
_BASE_MEMORY_BYTES = 2 << 30  # address space of the interpreter and the codecs' libraries
_MEMORY_PER_PIXEL_BYTES = 64  # openjpeg takes about 12 per pixel, others less
_SECONDS_PER_FRAME, _MIN_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class CodedSlice:
    """One compressed slice and where its 16-bit words belong in the shared memory."""

    header: SliceHeader
    output_offset: int


def decode_slices(slices: Sequence[CodedSlice], output: int, processes: int | None = None) -> None:
    """Decode slices into the file descriptor `output`, in other processes.

    Raises:
        UnusableSeries: a frame cannot be decoded; the verdict names every instance concerned.
    """
    most = max(1, len(slices) // _MIN_FRAMES_PER_PROCESS)
    count = min(most, processes or os.cpu_count() or 1)
    shares = [slices[start::count] for start in range(count)]
    with ThreadPoolExecutor(count) as threads:
        outcomes = threads.map(lambda share: _decode_share(share, output), shares)
        problems = {uid: problem for outcome in outcomes for uid, problem in outcome.items()}
    if problems:
        raise UnusableSeries([_verdict(problems, len(slices))])


def _decode_share(share: Sequence[CodedSlice], output: int) -> Mapping[str, str]:
    """SOP Instance UID -> what went wrong with it, of one process's share."""
    tasks = "".join(_task(coded).to_line() + "\n" for coded in share)
    pixels = max(coded.header.layout.rows * coded.header.layout.columns for coded in share)
    limit = _BASE_MEMORY_BYTES + _MEMORY_PER_PIXEL_BYTES * pixels
    command = [sys.executable, "-m", "dicomnode.assembly.decode_worker", str(output), str(limit)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        pass_fds=[output], env=_environment(), text=True,
    )  # fmt: skip
    try:
        reports, _ = process.communicate(tasks, timeout=_MIN_SECONDS + _SECONDS_PER_FRAME * len(share))
        ending = f"the decoder ended with exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        reports, _ = process.communicate()
        ending = "the decoder did not end in time"
    return _problems(share, reports, ending)


def _problems(share: Sequence[CodedSlice], reports: str, ending: str) -> Mapping[str, str]:
    lines = [json.loads(line) for line in reports.splitlines() if line.endswith("}")]
    uids = [coded.header.instance.sop_instance_uid for coded in share]
    problems = {uids[line["task"]]: str(line["error"]) for line in lines if line["error"]}
    if len(lines) < len(share):  # the first one without an answer is the one that ended the process
        problems.setdefault(uids[len(lines)], ending)
    return problems


def _verdict(problems: Mapping[str, str], slices: int) -> Verdict:
    uid, problem = next(iter(problems.items()))
    sentence = f"{len(problems)} of {slices} compressed slices cannot be decoded; instance {uid}: {problem}"
    return Verdict(Finding.UNDECODABLE_PIXELS, Policy.REFUSE, sentence, tuple(problems))


def _task(coded: CodedSlice) -> Task:
    header, layout = coded.header, coded.header.layout
    return Task(
        path=str(header.instance.path.absolute()),
        extents=layout.extents((header.frame_number or 1) - 1),
        transfer_syntax_uid=layout.transfer_syntax_uid,
        rows=layout.rows,
        columns=layout.columns,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_stored,
        signed=layout.signed,
        output_offset=coded.output_offset,
    )


def _environment() -> dict[str, str]:
    """The process must find this very package, and must not spend its address space on idle threads."""
    package = str(Path(dicomnode.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
