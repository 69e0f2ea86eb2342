"""The log: one JSON line per event, and never a patient's name from a library's warning."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from dicomnode.log import Log, log_to_stderr
log_to_stderr("INFO", "listen")
from pydicom.dataset import Dataset
ds = Dataset()
ds.StudyInstanceUID = "Real^Name" * 10
log = Log("test")
log.info("series complete", series="1.2.3", instances=78)
try:
    raise ValueError("why")
except ValueError:
    log.error("failed", traceback=True)
"""


def lines() -> list[dict[str, object]]:
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=repository, capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_json_with_time_role_and_identifiers_and_none_tells_a_name():
    first, second = lines()
    assert (first["event"], first["role"], first["series"], first["instances"]) == (
        "series complete",
        "listen",
        "1.2.3",
        78,
    )
    assert "ValueError: why" in str(second["traceback"])
    assert "Real" not in str([first, second])
