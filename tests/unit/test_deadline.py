"""A step that hangs takes its process with it, and nothing else does."""

import subprocess
import sys
from pathlib import Path

from dicomnode.steps.deadline import HUNG_EXIT_CODE, LOST_EXIT_CODE

REPOSITORY = Path(__file__).parents[2]


def exit_code(program: str) -> int:
    return subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=60, check=False).returncode


def test_a_hung_step_ends_its_process_with_an_exit_code_of_its_own():
    hung = "import time; from dicomnode.steps.deadline import Deadline\nwith Deadline(0.2): time.sleep(50)"
    assert exit_code(hung) == HUNG_EXIT_CODE


def test_a_step_that_ends_in_time_leaves_the_process_alone():
    quick = "import time; from dicomnode.steps.deadline import Deadline\nwith Deadline(0.3): pass\ntime.sleep(0.6)"
    assert exit_code(quick) == 0


def test_a_process_whose_gpu_is_lost_ends_and_says_so_by_its_exit_code():
    lost = "import time; from dicomnode.steps.deadline import end_soon\nend_soon('lost', 0.2); time.sleep(50)"
    assert exit_code(lost) == LOST_EXIT_CODE
