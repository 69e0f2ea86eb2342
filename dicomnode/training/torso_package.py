"""Turn a training checkpoint into the weights of the torso package.

    python -m dicomnode.training.torso_package --checkpoint DIR/checkpoint.pt [--package DIR]

The package's manifest is written by hand; only the digest of the weights is set here.
"""

import argparse
import hashlib
import re
from pathlib import Path

import torch
from safetensors.torch import save

from dicomnode.models.store import SHIPPED_PACKAGES
from dicomnode.training.torso import read_checkpoint

_DIGEST_LINE = re.compile(r'^"weights.safetensors" = ".*"$', re.MULTILINE)


def write_weights(checkpoint: Path, package: Path) -> str:
    """Write the checkpoint's averaged weights in half precision and give the digest that the manifest now names."""
    average = read_checkpoint(checkpoint).average
    weights = save({name: value.to(torch.float16).contiguous() for name, value in average.items()})
    digest = hashlib.sha256(weights).hexdigest()
    manifest = package / "manifest.toml"
    text, replaced = _DIGEST_LINE.subn(f'"weights.safetensors" = "{digest}"', manifest.read_text(encoding="utf-8"))
    if replaced != 1:
        raise ValueError(f"{manifest}: expected one digest of weights.safetensors, found {replaced}")
    (package / "weights.safetensors").write_bytes(weights)
    manifest.write_text(text, encoding="utf-8")
    return digest


def main() -> None:
    """Read the command line and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m dicomnode.training.torso_package")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=SHIPPED_PACKAGES / "torso")
    chosen = parser.parse_args()
    print(write_weights(chosen.checkpoint, chosen.package))  # noqa: T201  the digest is this program's answer


if __name__ == "__main__":
    main()
