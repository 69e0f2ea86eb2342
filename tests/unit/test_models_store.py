"""Finding packages, and believing only weights that have their digest."""

import contextlib
import threading
from pathlib import Path

import pytest

from dicomnode.encoding import result_uids
from dicomnode.errors import ModelError, Unavailable
from dicomnode.imaging import ModelIdentity
from dicomnode.models import ModelStore
from dicomnode.models.writing import write_package as install
from tests.toy_models import (
    bright_where,
    toy_manifest,
    toy_network,
    toy_stage,
    write_package,
    write_raw_package,
)

WEIGHTS = "weights.safetensors"


def test_packages_of_all_folders_are_found_by_name(tmp_path: Path) -> None:
    write_package(tmp_path / "shipped", toy_manifest("liver"))
    write_package(tmp_path / "site", toy_manifest("spleen"))
    store = ModelStore([tmp_path / "shipped", tmp_path / "site", tmp_path / "absent"])
    assert store.names() == ("liver", "spleen")
    assert store.package("spleen").folder == tmp_path / "site" / "spleen"


def test_identity_and_segments_are_those_of_the_manifest(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    assert (package.identity.name, package.identity.version, package.identity.diagnostic) == ("toy", "1.0.0", False)
    assert package.identity.weights_sha256 == package.manifest.digests["weights.safetensors"]
    assert [(s.number, s.name, s.labels) for s in package.segments] == [(1, "Bright", (1,))]


def test_other_steps_around_the_same_weights_are_another_package_and_another_title_is_not(tmp_path: Path) -> None:
    def identity(folder: str, **changes: object) -> ModelIdentity:
        return write_package(tmp_path / folder, {**toy_manifest(), **changes}).identity

    first, turned = identity("first"), toy_stage()
    turned["before"][0]["axes"] = "SAR"
    other = identity("other", stages=[turned])
    assert other.weights_sha256 == first.weights_sha256
    uids = {result_uids("content", model, "options", "seg").series_uid for model in (first, other)}
    assert len(uids) == 2
    assert identity("again").package_sha256 == first.package_sha256
    assert identity("titled", title="Another title").package_sha256 == first.package_sha256
    by_default = {**toy_stage(), "name": "main", "writes": "all"}
    assert identity("explicit", stages=[by_default]).package_sha256 == first.package_sha256


def test_a_file_with_its_digest_is_handed_out(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    assert package.read_file(WEIGHTS) == (tmp_path / "toy" / WEIGHTS).read_bytes()


def test_one_altered_bit_of_the_weights_is_found_and_the_other_model_still_works(tmp_path: Path) -> None:
    altered, other = write_package(tmp_path, toy_manifest()), write_package(tmp_path, toy_manifest("other"))
    path = altered.folder / WEIGHTS
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    with pytest.raises(ModelError, match=f"expected SHA-256 {altered.manifest.digest}, found [0-9a-f]{{64}}"):
        altered.check_files()
    other.check_files()
    assert other.read_file(WEIGHTS)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    (package.folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"weights.safetensors: cannot be read.*install model 'toy' again"):
        package.check_files()


def test_a_model_of_two_files_is_named_by_both(tmp_path: Path) -> None:
    manifest = toy_manifest()
    manifest["networks"] = {
        "one": {**toy_network(), "file": "one.safetensors"},
        "two": {**toy_network(), "file": "two"},
    }
    manifest["stages"] = [{**toy_stage(), "networks": ["one", "two"]}]
    first = write_package(tmp_path, manifest, bright_where(), bright_where(2.0))
    second = write_package(tmp_path, {**manifest, "name": "other"}, bright_where(), bright_where(3.0))
    assert first.identity.weights_sha256 not in first.manifest.digests.values()
    assert first.identity.weights_sha256 != second.identity.weights_sha256
    (first.folder / "two").write_bytes(b"")
    with pytest.raises(ModelError, match="toy/two: expected SHA-256"):
        first.check_files()


def test_a_broken_manifest_is_listed_refused_and_leaves_the_other_model_usable(tmp_path: Path) -> None:
    write_package(tmp_path, toy_manifest("good"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.toml").write_bytes(b"name = \xff")
    store = ModelStore([tmp_path])
    assert store.names() == ("broken", "good")
    with pytest.raises(ModelError, match=r"broken/manifest.toml: expected UTF-8 text, found byte 0xff"):
        store.package("broken")
    assert store.package("good").identity.name == "good"


@pytest.mark.parametrize("name", ["absent", "", ".", "..", "../toy", "/etc"])
def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path, name: str) -> None:
    write_package(tmp_path, toy_manifest())
    with pytest.raises(ModelError, match=r"expected one of the models \['toy'\], found"):
        ModelStore([tmp_path]).package(name)


def test_one_name_in_two_folders_is_refused_rather_than_guessed(tmp_path: Path) -> None:
    write_package(tmp_path / "shipped", toy_manifest())
    write_package(tmp_path / "site", toy_manifest())
    with pytest.raises(ModelError, match=r"expected one model 'toy', found .*shipped.* and .*site"):
        ModelStore([tmp_path / "shipped", tmp_path / "site"]).package("toy")


def test_a_package_in_a_folder_of_another_name_is_refused(tmp_path: Path) -> None:
    write_raw_package(tmp_path, toy_manifest(), b"")
    (tmp_path / "toy").rename(tmp_path / "renamed")
    with pytest.raises(ModelError, match="expected the folder's name 'renamed', found 'toy'"):
        ModelStore([tmp_path]).package("renamed")


def test_a_package_that_is_replaced_while_it_is_read_is_tried_again(tmp_path: Path) -> None:
    before = write_package(tmp_path, toy_manifest(), bright_where(1.0))
    write_package(tmp_path, toy_manifest(), bright_where(2.0))
    with pytest.raises(Unavailable, match="model 'toy' is being replaced or removed; try again"):
        before.read_file(WEIGHTS)
    (tmp_path / "toy").rename(tmp_path / ".toy.123.old")
    with pytest.raises(Unavailable, match="model 'toy' is being replaced or removed; try again"):
        before.read_file(WEIGHTS)
    with pytest.raises(Unavailable, match="model 'toy' is being replaced; try again"):
        ModelStore([tmp_path]).package("toy")
    assert Unavailable.retryable


def test_readers_of_a_package_that_is_replaced_again_and_again_are_told_to_try_again(tmp_path: Path) -> None:
    ways = [
        write_package(tmp_path / str(steepness), toy_manifest(), bright_where(steepness)) for steepness in range(1, 31)
    ]
    contents = [(way.manifest, {WEIGHTS: way.read_file(WEIGHTS)}) for way in ways]
    site, is_done = tmp_path / "site", threading.Event()
    install(site, *contents[0])

    def replaced() -> None:
        for content in contents[1:]:
            install(site, *content, replace=True)
        is_done.set()

    writer = threading.Thread(target=replaced, daemon=True)
    writer.start()
    while not is_done.is_set():
        with contextlib.suppress(Unavailable):
            ModelStore([site]).package("toy").check_files()
    writer.join(10)
    assert ModelStore([site]).package("toy").read_file(WEIGHTS) == contents[-1][1][WEIGHTS]
