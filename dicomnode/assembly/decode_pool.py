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


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What decoding may take, so that a hostile codestream cannot take the machine."""

    processes: int = 0  # 0: one per core
    min_frames_per_process: int = 16  # starting one costs 0.3 CPU s of imports
    base_memory_bytes: int = 2 << 30  # address space of the interpreter and the codecs' libraries
    memory_bytes_per_pixel: int = 64  # openjpeg takes about 12, others less
    max_memory_bytes: int = 8 << 30
    start_seconds: float = 60.0
    seconds_per_frame: float = 5.0

    def memory_bytes(self, pixels: int) -> int:
        """Address space of a process whose largest frame has that many pixels."""
        return min(self.max_memory_bytes, self.base_memory_bytes + self.memory_bytes_per_pixel * pixels)


@dataclass(frozen=True, slots=True)
class CodedSlice:
    """One compressed slice and where its 16-bit words belong in the shared memory."""

    header: SliceHeader
    output_offset: int


def decode_slices(slices: Sequence[CodedSlice], output: int, limits: DecodingLimits | None = None) -> None:
    """Decode slices into the file descriptor `output`, in other processes.

    Raises:
        UnusableSeries: a frame cannot be decoded; the verdict names every instance concerned.
    """
    if not slices:
        return
    limits = limits or DecodingLimits()
    most = max(1, len(slices) // limits.min_frames_per_process)
    count = min(most, limits.processes or os.cpu_count() or 1)
    shares = [slices[start::count] for start in range(count)]
    with ThreadPoolExecutor(count) as threads:
        outcomes = threads.map(lambda share: _decode_share(share, output, limits), shares)
        problems = {uid: problem for outcome in outcomes for uid, problem in outcome.items()}
    if problems:
        raise UnusableSeries([_verdict(problems, len(slices))])


def _decode_share(share: Sequence[CodedSlice], output: int, limits: DecodingLimits) -> Mapping[str, str]:
    """SOP Instance UID -> what went wrong with it, of one process's share."""
    tasks = "".join(_task(coded).to_line() + "\n" for coded in share)
    pixels = max(coded.header.layout.rows * coded.header.layout.columns for coded in share)
    memory = str(limits.memory_bytes(pixels))
    command = [sys.executable, "-m", "dicomnode.assembly.decode_worker", str(output), memory]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        pass_fds=[output], env=_environment(), text=True,
    )  # fmt: skip
    try:
        reports, _ = process.communicate(tasks, timeout=limits.start_seconds + limits.seconds_per_frame * len(share))
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
