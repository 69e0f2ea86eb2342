"""The foreign programs that tests measure the node against, or one sentence that says how to get them."""

import os
import shutil
import sys
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[1] / "../shared/data"


def program(name: str) -> str:
    """The path of a program: on PATH, in $DCMQI_BIN, or beside the running Python; else the test is skipped.

    With REQUIRE_PEERS=1 the test fails instead: a pipeline must not pass because a peer is missing.
    """
    places = [os.environ.get("DCMQI_BIN"), str(Path(sys.executable).parent)]
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *(place for place in places if place)])
    return shutil.which(name, path=search) or _missing(f"{name} is not installed: run `make peers`")


def shared_data(name: str) -> Path:
    """A folder or file of the shared test data; else the test is skipped, or fails with REQUIRE_PEERS=1."""
    path = SHARED_DATA / name
    if not path.exists():
        _missing(f"the shared test data have no {name}: place them beside the repository as shared/data")
    return path


def _missing(sentence: str) -> str:
    if os.environ.get("REQUIRE_PEERS") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)
