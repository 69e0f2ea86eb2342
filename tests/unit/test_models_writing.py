"""A package is written whole or not at all, and comes back as it was written."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from dicomnode.errors import ModelError, Unavailable
from dicomnode.models import Manifest, ModelStore
from dicomnode.models.licences import accept_licence, read_acceptance
from dicomnode.models.writing import add_golden, manifest_text, remove_package, settle, write_package
from dicomnode.steps.recorder import now
from tests.toy_models import bright_where, toy_manifest

WEIGHTS = save(bright_where())
FILES = {"weights.safetensors": WEIGHTS}


def manifest(**changes: Any) -> Manifest:
    digests = {"weights.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}
    return Manifest.model_validate({**toy_manifest(), "digests": digests, **changes})


def folders(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.name != ".lock")


def test_a_package_that_was_written_is_read_back_as_it_was_and_is_intact(tmp_path: Path):
    said = manifest(golden={}, memory={"bytes_per_voxel": 0.1 + 0.2}, verified={"bf16": 0.9991234567890123})
    written = write_package(tmp_path / "new" / "store", said, FILES)
    found = ModelStore([tmp_path / "new" / "store"]).package("toy")
    assert found == written
    assert found.manifest == said
    found.check_files()
    assert folders(tmp_path / "new" / "store") == ["toy"]


def test_a_manifest_says_nothing_that_is_said_by_default():
    text = manifest_text(manifest())
    assert "verified" not in text
    assert "modifier" not in text


def test_a_second_package_of_a_name_is_refused_and_the_first_stays(tmp_path: Path):
    write_package(tmp_path, manifest(), FILES)
    with pytest.raises(ModelError, match=r"model 'toy' is installed already; remove it, replace it with --replace"):
        write_package(tmp_path, manifest(version="2.0.0"), FILES)
    assert ModelStore([tmp_path]).package("toy").manifest.version == "1.0.0"


def test_replacing_leaves_the_new_package_alone(tmp_path: Path):
    write_package(tmp_path, manifest(), FILES)
    write_package(tmp_path, manifest(version="2.0.0"), FILES, replace=True)
    assert ModelStore([tmp_path]).package("toy").manifest.version == "2.0.0"
    assert folders(tmp_path) == ["toy"]


def test_a_replacement_that_fails_halfway_leaves_the_old_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_package(tmp_path, manifest(), FILES)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "toy" and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(Unavailable, match="No space left on device; free disk space"):
        write_package(tmp_path, manifest(version="2.0.0"), FILES, replace=True)
    assert folders(tmp_path) == ["toy"]
    assert ModelStore([tmp_path]).package("toy").manifest.version == "1.0.0"


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="model 'toy' cannot be written"):
        write_package(tmp_path / "store", manifest(), FILES)
    assert folders(tmp_path) == ["store"]


def test_what_is_left_of_a_process_that_died_is_no_model(tmp_path: Path):
    package = write_package(tmp_path, manifest(), FILES)
    package.folder.rename(tmp_path / ".toy.4711")
    assert ModelStore([tmp_path]).names() == ()
    with pytest.raises(ModelError, match="expected one of the models"):
        ModelStore([tmp_path]).package(".toy.4711")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "weights.safetensors: expected SHA-256 .*, found no such file"),
        ({"weights.safetensors": b"other"}, "weights.safetensors: expected SHA-256 .*, found d9298a10d1b0"),
        ({**FILES, "../outside": b""}, r"expected the files \['weights.safetensors'\], found \['../outside'\]"),
        ({**FILES, "more.py": b""}, r"found \['more.py'\]; the package is not written"),
    ],
)
def test_files_other_than_those_of_the_manifest_are_not_written(tmp_path: Path, files: dict[str, bytes], said: str):
    with pytest.raises(ModelError, match=said):
        write_package(tmp_path / "store", manifest(), files)
    assert folders(tmp_path) == []


def test_the_model_card_goes_with_the_package(tmp_path: Path):
    package = write_package(tmp_path, manifest(), {**FILES, "MODEL_CARD.md": b"# Toy"})
    assert (package.folder / "MODEL_CARD.md").read_text() == "# Toy"


def test_an_acceptance_stays_with_a_package_that_is_replaced(tmp_path: Path):
    package = write_package(tmp_path, manifest(licence={"name": "X", "must_be_accepted": True}), FILES)
    accepted = accept_licence(package, "Somebody", now())
    replaced = write_package(tmp_path, package.manifest, FILES, replace=True)
    assert read_acceptance(replaced) == accepted


def test_a_golden_case_takes_the_place_of_the_last_one(tmp_path: Path):
    package = write_package(tmp_path, manifest(), FILES)
    for content in (b"first", b"second"):
        digest = hashlib.sha256(content).hexdigest()
        said = package.manifest.model_copy(update={"golden": {f"golden-{digest[:4]}": digest}})
        package = add_golden(package, said, f"golden-{digest[:4]}", content)
    found = ModelStore([tmp_path]).package("toy")
    found.check_files()
    (file,) = found.manifest.golden
    assert found.read_file(file) == b"second"
    assert folders(package.folder) == [file, "manifest.toml", "weights.safetensors"]


def test_a_golden_case_with_another_digest_is_not_added(tmp_path: Path):
    package = write_package(tmp_path, manifest(), FILES)
    said = package.manifest.model_copy(update={"golden": {"golden-1": "0" * 64}})
    with pytest.raises(ModelError, match="golden-1: expected SHA-256 0000"):
        add_golden(package, said, "golden-1", b"content")
    assert ModelStore([tmp_path]).package("toy").manifest == package.manifest


def test_a_removed_package_is_gone(tmp_path: Path):
    package = write_package(tmp_path, manifest(), FILES)
    remove_package(package.folder)
    assert folders(tmp_path) == []
    with pytest.raises(Unavailable, match="model 'toy' cannot be removed: No such file"):
        remove_package(package.folder)


def test_numbers_of_a_manifest_come_back_to_the_last_bit(tmp_path: Path):
    stages = toy_manifest()["stages"]
    numbers = [float(np.nextafter(1e-3, 1)), 1e300, -0.1]
    stages[0]["before"][3] = {"step": "scale", "source": [numbers[2], numbers[1]], "to": [0.0, numbers[0]]}
    said = manifest(stages=stages)
    assert write_package(tmp_path, said, FILES).manifest == ModelStore([tmp_path]).package("toy").manifest


def taken_aside(store: Path, version: str = "1.0.0", process: int = 4711) -> None:
    """What is there when a process died between taking one version aside and giving the next its name."""
    write_package(store, manifest(version=version), FILES).folder.rename(store / f".toy.{process}.old")
    write_package(store / "elsewhere", manifest(version="2.0.0"), FILES).folder.rename(store / f".toy.{process}")
    (store / "elsewhere" / ".lock").unlink()
    (store / "elsewhere").rmdir()


def test_a_package_whose_replacement_died_halfway_comes_back_and_the_remains_go(tmp_path: Path):
    taken_aside(tmp_path)
    assert ModelStore([tmp_path]).names() == ()
    settle(tmp_path)
    assert folders(tmp_path) == ["toy"]
    found = ModelStore([tmp_path]).package("toy")
    assert found.manifest.version == "1.0.0"
    found.check_files()


def test_a_package_that_comes_back_is_in_the_way_of_the_next_of_its_name(tmp_path: Path):
    taken_aside(tmp_path)
    with pytest.raises(ModelError, match="model 'toy' is installed already"):
        write_package(tmp_path, manifest(version="3.0.0"), FILES)
    assert ModelStore([tmp_path]).package("toy").manifest.version == "1.0.0"
    assert write_package(tmp_path, manifest(version="3.0.0"), FILES, replace=True).manifest.version == "3.0.0"
    assert folders(tmp_path) == ["toy"]


def test_a_package_that_comes_back_can_be_removed(tmp_path: Path):
    taken_aside(tmp_path)
    remove_package(tmp_path / "toy")
    assert folders(tmp_path) == []


def test_a_replacement_that_died_at_its_very_end_stays(tmp_path: Path):
    taken_aside(tmp_path)
    (tmp_path / ".toy.4711").rename(tmp_path / "toy")
    settle(tmp_path)
    assert folders(tmp_path) == ["toy"]
    assert ModelStore([tmp_path]).package("toy").manifest.version == "2.0.0"


def test_a_removal_that_died_halfway_does_not_bring_the_package_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = write_package(tmp_path, manifest(), FILES)

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dicomnode.models.writing._sync", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_package(package.folder)
    monkeypatch.undo()
    assert folders(tmp_path) != []
    settle(tmp_path)
    assert folders(tmp_path) == []


def test_which_of_two_packages_taken_aside_comes_back_is_for_a_person_to_say(tmp_path: Path):
    for process, version in ((1, "1.0.0"), (2, "2.0.0")):
        write_package(tmp_path / "s", manifest(version=version), FILES).folder.rename(tmp_path / f".toy.{process}.old")
    (tmp_path / "s" / ".lock").unlink()
    (tmp_path / "s").rmdir()
    settle(tmp_path)
    assert folders(tmp_path) == [".toy.1.old", ".toy.2.old"]


def test_remains_of_a_model_are_not_taken_for_those_of_one_whose_name_begins_alike(tmp_path: Path):
    other = manifest(name="toy.5")
    write_package(tmp_path, other, FILES).folder.rename(tmp_path / ".toy.5.4711.old")
    write_package(tmp_path, manifest(), FILES)
    assert folders(tmp_path) == ["toy", "toy.5"]
    assert ModelStore([tmp_path]).package("toy.5").manifest == other


def test_remains_without_a_manifest_are_not_brought_back(tmp_path: Path):
    (tmp_path / ".toy.4711.old").mkdir()
    settle(tmp_path)
    assert ModelStore([tmp_path]).names() == ()


def test_a_store_that_is_not_there_has_nothing_to_settle(tmp_path: Path):
    settle(tmp_path / "nowhere")
    assert folders(tmp_path) == []


def test_two_who_write_a_package_at_once_leave_one_whole_one(tmp_path: Path):
    refused: list[str] = []

    def write(version: str) -> None:
        try:
            write_package(tmp_path, manifest(version=version), FILES)
        except ModelError as error:
            refused.append(str(error))

    writers = [threading.Thread(target=write, args=(f"{number}.0.0",)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert len(refused) == 5
    assert folders(tmp_path) == ["toy"]
    ModelStore([tmp_path]).package("toy").check_files()
