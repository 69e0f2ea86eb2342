"""`dicomnode bench`: seconds and memory of every step, beside other libraries and the budgets the node is built for.

Each step runs in a process of its own, so that its memory is not another's. A missed budget is said, not failed:
figures of a busy machine mean little.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from dicomnode.demo.bench_place import SIZES, Detail, Size
from dicomnode.errors import NodeError

Say = Callable[[str], None]
Results = Mapping[str, Detail]  # by step

STEPS: Mapping[str, str] = {
    "material": "writing a CT series and a model with random weights",
    "find": "find files (UIDs, SHA-256)",
    "gate": "headers and geometry gate",
    "assemble": "assemble the volume",
    "simpleitk": "  peer: SimpleITK's series reader",
    "assemble-jls": "assemble, JPEG-LS",
    "simpleitk-jls": "  peer: SimpleITK's series reader, JPEG-LS",
    "assemble-j2k": "assemble, JPEG 2000",
    "simpleitk-j2k": "  peer: SimpleITK's series reader, JPEG 2000",
    "resample": "resample to 1.5 mm",
    "infer": "infer, UNet 16..256, 5 classes",
    "infer-25": "infer, 25 classes",
    "infer-118": "infer, 118 classes",
    "infer-fp32": "infer in FP32",
    "monai": "  peer: MONAI in FP32, files to labels",
    "encode": "encode the SEG",
    "highdicom": "  peer: highdicom called plainly",
    "check": "check the SEG's bytes",
    "whole": "files to checked SEG, UNet 16..256",
    "shipped": "files to checked SEG, torso model",
    "disk": "the disk alone, fsync per file",
    "listener": "listener, one association",
    "turnaround": "last slice to archive, UNet 16..256",
    "turnaround-shipped": "last slice to archive, torso model",
    "turnaround-j2k": "last slice to archive, torso, JPEG 2000",
    "waiting": "worker while series wait",
}

BETWEEN_FILES_AND_SEG = (
    "find", "gate", "assemble", "simpleitk", "assemble-jls", "simpleitk-jls", "assemble-j2k", "simpleitk-j2k",
    "resample", "infer", "infer-25", "infer-118", "infer-fp32", "monai", "encode", "highdicom", "check",
    "whole", "shipped",
)  # fmt: skip
PEERS = ("monai",)  # that take a minute and gigabytes

CPU_S, PEAK_MIB = 6.0, 1331.0
WINDOWS_CPU_S, BACK_CPU_S = 2.5, 1.5
MANY_CLASSES_MEMORY = 1.5  # times that of 5 classes
LISTENER_MB_PER_S = 100.0
REST_S = 5.0
NO_GROWTH_MIB = 16.0  # stands for "no memory": of 10,000 waiting series it is 1.6 KiB each, less than a header


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; seconds and memory are of the step's process, or of the role that the line names."""

    step: str
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_mib: float | None = None
    mb_per_s: float | None = None
    budget: str = ""
    kept: str = ""  # "yes", "NO", or nothing where there is no budget
    note: str = ""

    def document(self) -> dict[str, Any]:
        """The line as it stands in bench.json."""
        figures = {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "peak_mib": self.peak_mib, "mb_per_s": self.mb_per_s}
        return {"step": self.step, **figures, "budget": self.budget, "kept": self.kept, "note": self.note}


def run_bench(path: Path, say: Say, *, quick: bool, peers: bool = True) -> Mapping[str, Any]:
    """Measure everything and write it to `path` as JSON; returns the same document: machine, series, rows, steps.

    The temporary folder is made beside `path`: what is measured there is that disk. Without `peers` the slow ones are
    left out.

    Raises:
        NodeError: a step does not run through.
    """
    name = "quick" if quick else "full"
    machine = describe_machine()
    say(f"load before the start: {machine['load_before']}; a busy machine gives figures of a busy machine")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=path.resolve().parent) as folder:
        steps = [step for step in STEPS if peers or step not in PEERS]
        results = {step: _run_step(step, Path(folder), name, say) for step in steps}
    rows = rows_of(results, quick=quick)
    document = {"machine": machine, "series": asdict(SIZES[name]), "rows": [row.document() for row in rows]}
    document["steps"] = results
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def rows_of(results: Results, *, quick: bool) -> list[Row]:
    """The table; budgets are for the full series, so a quick run has none."""
    rows = [*_rows_of_steps(results), *_rows_of_network(results)]
    return [replace(row, budget="", kept="") for row in rows] if quick else rows


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(memory_bytes / (1 << 30), 1),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def size_in_words(size: Mapping[str, Any]) -> str:
    """The series that was measured, for people."""
    described = Size(**size)
    return f"{described.slices} x {described.rows} x {described.rows}, {described.slice_mm} mm slices, " + (
        f"{described.pixel_mm} mm pixels"
    )


def _run_step(step: str, folder: Path, size: str, say: Say) -> Detail:
    say(STEPS[step].strip())
    command = [sys.executable, "-m", "dicomnode.demo.bench_steps", step, str(folder), size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NodeError(f"expected step {step!r} of the benchmark to run through, found: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _rows_of_steps(results: Results) -> list[Row]:
    """Everything between files and a checked SEG."""
    said = {
        "infer": _inferred(results["infer"]),
        "infer-fp32": _agreement(results["infer-fp32"]),
        "encode": _written(results["encode"]),
        "highdicom": _written(results["highdicom"]),
        "whole": _whole(results["whole"]),
        "shipped": _whole(results["shipped"]),
        "assemble-jls": _decoded(results["assemble-jls"]),
        "assemble-j2k": _decoded(results["assemble-j2k"]),
    }
    steps = [step for step in BETWEEN_FILES_AND_SEG if step in results]
    rows = {step: _row(step, results[step], said.get(step, "")) for step in steps}
    for step in ("infer-25", "infer-118"):
        most_mib = MANY_CLASSES_MEMORY * results["infer"]["peak_mib"]
        kept = results[step]["peak_mib"] <= most_mib
        rows[step] = _judged(rows[step], f"<= {MANY_CLASSES_MEMORY} x the memory of 5", kept=kept)
    whole = results["whole"]
    kept = whole["cpu_s"] <= CPU_S and whole["peak_mib"] <= PEAK_MIB
    rows["whole"] = _judged(rows["whole"], f"<= {CPU_S:.0f} CPU s, <= {PEAK_MIB:.0f} MiB", kept=kept)
    return [row for step in steps for row in (rows[step], *_rows_of_phases(step, results))]


def _rows_of_phases(step: str, results: Results) -> list[Row]:
    """The windows and the way back of the network's own row, and of its peer."""
    if step not in ("infer", "infer-fp32", "monai"):
        return []
    seconds = results[step]["cpu_phases"]
    windows = Row(f"{_indent(step)}  its windows", cpu_s=round(seconds["windows"], 2))
    back = Row(f"{_indent(step)}  its way back to the source grid", cpu_s=round(seconds["back"], 2))
    if step != "infer":
        return [windows, back]
    return [
        _judged(windows, f"<= {WINDOWS_CPU_S} CPU s", kept=seconds["windows"] <= WINDOWS_CPU_S),
        _judged(back, f"<= {BACK_CPU_S} CPU s", kept=seconds["back"] <= BACK_CPU_S),
    ]


def _indent(step: str) -> str:
    return STEPS[step][: len(STEPS[step]) - len(STEPS[step].lstrip())]


def _rows_of_network(results: Results) -> list[Row]:
    """The disk, the listener, a whole node, and the worker while others wait."""
    rates = results["disk"]["mb_per_s"]
    return [
        Row(STEPS["disk"], mb_per_s=median(rates), note=_rates(rates)),
        *_rows_of_listener(results["listener"]),
        _turnaround("turnaround", results),
        _turnaround("turnaround-shipped", results),
        _turnaround("turnaround-j2k", results),
        _waiting(results["waiting"]),
    ]


def _rows_of_listener(found: Detail) -> list[Row]:
    rates, by_storescu = found["mb_per_s"], found["storescu_mb_per_s"]
    peak_mib, longer_mib = found["peak_mib_listener"], found["longer_peak_mib_listener"]
    growth_mib = longer_mib - peak_mib
    row = Row(STEPS["listener"], None, None, peak_mib, median(rates), note=f"sent by a bare socket; {_rates(rates)}")
    peer = Row("  sent by dcmtk's storescu", note="storescu is not installed")
    if by_storescu:
        peer = replace(
            peer, mb_per_s=median(by_storescu), note=f"its start and reading included; {_rates(by_storescu)}"
        )
    longer = Row(f"  {found['longer_instances']} instances", None, None, longer_mib, found["longer_mb_per_s"])
    longer = replace(longer, note=f"memory {growth_mib:+.1f} MiB")
    return [
        _judged(row, f">= {LISTENER_MB_PER_S:.0f} MB/s", kept=median(rates) >= LISTENER_MB_PER_S),
        peer,
        _judged(longer, f"<= {NO_GROWTH_MIB:.0f} MiB more", kept=growth_mib <= NO_GROWTH_MIB),
    ]


def _turnaround(step: str, results: Results) -> Row:
    warm, first = results[step]["warm"], results[step]["first"]
    infer_s, between_s = warm["steps_s"]["infer"], warm["seconds"] - sum(warm["steps_s"].values())
    rests = " / ".join(f"{rest_s:.2f}" for rest_s in results[step]["warm_rest_s"])
    note = (
        f"the network's windows {warm['network_s']:.2f} s + {warm['rest_s']:.2f} s (median of {rests}), "
        f"or the whole step infer {infer_s:.2f} s + {warm['seconds'] - infer_s:.2f} s; "
        f"{between_s:.2f} s of it between and after the steps; "
        f"the first series after the start took {first['seconds']:.2f} s"
    )
    row = Row(STEPS[step], wall_s=round(warm["seconds"], 2), note=note)
    return _judged(row, f"<= windows + {REST_S:.0f} s", kept=warm["rest_s"] <= REST_S)


def _waiting(found: Detail) -> Row:
    growth_mib = found["growth_mib"]
    row = Row(
        f"worker while {found['waiting_many']} series wait",
        peak_mib=found["peak_mib_many"],
        note=f"memory {growth_mib:+.1f} MiB against {found['waiting_few']} waiting",
    )
    return _judged(row, f"<= {NO_GROWTH_MIB:.0f} MiB more", kept=growth_mib <= NO_GROWTH_MIB)


def _row(step: str, found: Detail, note: str) -> Row:
    seconds = (round(found["wall_s"], 2), round(found["cpu_s"], 2))
    return Row(STEPS[step], *seconds, round(found["peak_mib"]), note=note)


def _judged(row: Row, budget: str, *, kept: bool) -> Row:
    return replace(row, budget=budget, kept="yes" if kept else "NO")


def _inferred(found: Detail) -> str:
    phases, where = found["phases"], f"{found['device']}, {found['threads']} thread(s), {found['precision']}"
    return f"windows {phases['windows']:.2f} s, back {phases['back']:.2f} s; {found['windows']} windows, {where}"


def _agreement(found: Detail) -> str:
    random, shipped = found["dice"], found["shipped_dice"]
    return (
        f"half precision's labels agree: Dice {random:.4f} of random weights' noise, {shipped:.4f} of the torso model"
    )


def _written(found: Detail) -> str:
    return f"{found['segments']} segments, {found['file_mb']} MB"


def _decoded(found: Detail) -> str:
    same = "the same voxels" if found["identical"] else "OTHER VOXELS"
    return f"{found['file_mb']} MB of files, all decoded by the step itself; {same}"


def _whole(found: Detail) -> str:
    differ = f"{found['neighbours_differ']:.1%} of neighbouring voxels have different labels"
    return f"{differ}; before it {found['cpu_before_s']:.1f} CPU s for Python and imports"


def _rates(rates: list[float]) -> str:
    return f"median of {' / '.join(f'{rate:.0f}' for rate in rates)}"
