"""The folder of one oracle case, written beside its place and moved there whole; made once per state of the scripts.

usage: case_folder.py   (prints the digest of that state)
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
DECISIVE = ("monai", "nibabel", "nnunetv2", "numpy", "scikit-image", "scipy", "simpleitk", "torch")


def generator_digest() -> str:
    """A digest of everything that decides what a case contains: these scripts and the packages that they run."""
    files = sorted([*SCRIPTS.glob("*.py"), *SCRIPTS.glob("*.txt")])
    packages = [f"{name}=={version(name)}".encode() for name in DECISIVE]
    return hashlib.sha256(b"\n".join([*(p.read_bytes() for p in files), *packages])).hexdigest()[:16]


def is_current(folder: Path, digest: str) -> bool:
    """Whether the case was made by these very scripts."""
    record = folder / "case.json"
    return record.is_file() and json.loads(record.read_text())["generator"] == digest


def make_case(folder: Path, digest: str, write: Callable[[Path], dict[str, Any]]) -> None:
    """Let `write` fill a new folder and describe it; the old case stays until the new one is whole."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    record = {"name": folder.name, **write(unfinished), "generator": digest}
    (unfinished / "case.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def remove_others(cases: Path, prefix: str, names: set[str]) -> None:
    """Remove cases of this family that no script makes any more."""
    for folder in cases.glob(f"{prefix}*"):
        if folder.name not in names:
            shutil.rmtree(folder)


if __name__ == "__main__":
    print(generator_digest())
