"""A .zip that holds more than it seems is refused by what it says of itself, before anything is unpacked."""

import shutil
import zipfile
from pathlib import Path

import pytest

from dicomnode.errors import ModelError
from dicomnode.importers.archives import require_sound
from dicomnode.importers.bundle_files import open_bundle
from dicomnode.importers.nnunet_zip import unpacked

MIB = 1 << 20


def trap(path: Path, name: str, *others: str) -> Path:
    """An archive of some kilobytes with 96 MiB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in others:
            archive.writestr(other, "{}")
        with archive.open(name, "w") as member:
            for _ in range(96):
                member.write(bytes(MIB))
    return path


def member(size: int, packed: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("weights")
    info.file_size, info.compress_size = size, packed
    return info


def test_weights_of_a_bundle_that_grow_a_thousandfold_are_refused(tmp_path: Path):
    files = open_bundle(trap(tmp_path / "b.zip", "models/model.pt", "configs/inference.json"))
    with pytest.raises(ModelError, match=r"model.pt cannot be read: expected at most 100 times the bytes of the arch"):
        files.read("models/model.pt")
    assert files.read("configs/inference.json") == b"{}"


def test_a_checkpoint_of_nnunet_that_grows_a_thousandfold_is_refused(tmp_path: Path):
    names = ("fold_0/checkpoint_final.pth", "plans.json", "dataset.json")
    path = trap(tmp_path / "n.zip", f"model/{names[0]}", *(f"model/{name}" for name in names[1:]))
    problem = "n.zip: expected a complete .zip, found: expected at most 100 times"
    with pytest.raises(ModelError, match=problem), unpacked(path):
        pytest.fail("the archive was unpacked")


def test_what_together_is_more_than_allowed_or_than_the_disk_has_is_refused(tmp_path: Path):
    some = [member(60 * MIB, 1), member(600 * MIB, 300 * MIB)]
    require_sound(some, 1 << 30, tmp_path)
    with pytest.raises(ValueError, match=f"at most {500 * MIB} bytes, found {660 * MIB}"):
        require_sound(some, 500 * MIB)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ValueError, match="bytes that are free"):
        require_sound([member(2 * free, free)], 4 * free, tmp_path)
