"""Putting a package into a folder of packages: complete and readable back, or not at all.

Whoever changes the folder is alone in it, and first settles what a process that died left there. Names with a dot first
are no models: `.NAME.PID` is being written, `.NAME.PID.old` makes room for another, `.NAME.PID.removed` is going.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from dicomnode.errors import ModelError, Unavailable
from dicomnode.models.manifest import Manifest, parse_manifest
from dicomnode.models.store import ModelPackage

_MANIFEST, _CARD = "manifest.toml", "MODEL_CARD.md"
_STAYS = ("licence-accepted.json",)  # beside a package that is replaced: it names the weights that it is about
_LOCK = ".lock"
_HALFWAY = re.compile(r"\.(?P<name>.+)\.\d+(?P<fate>\.old|\.removed)?")


def manifest_text(manifest: Manifest) -> str:
    """The manifest as TOML, without what is said by default; reading it gives the same manifest.

    Raises:
        ModelError: it does not: a defect, found before anything is written.
    """
    text = tomli_w.dumps(_without_nothing(manifest.model_dump(mode="json", exclude_defaults=True)))
    if parse_manifest(text, _MANIFEST) != manifest:
        raise ModelError(f"the manifest of model {manifest.name!r} does not come back as it was written: a defect")
    return text


def write_package(
    store: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False
) -> ModelPackage:
    """Write a package into the folder of packages `store`, with an fsync before it gets its name.

    Args:
        store: holds one folder per package.
        manifest: what the package says of itself.
        files: contents by name, each with the digest that the manifest has for it.
        replace: whether a package of that name makes room.

    Raises:
        ModelError: a package of that name is there, or a file has another digest.
        Unavailable: the disk does not take it.
    """
    _check(manifest, files)
    home, content = store / manifest.name, {_MANIFEST: manifest_text(manifest).encode(), **files}
    try:
        with _alone_in(store):
            if home.exists() and not replace:
                advice = "remove it, replace it with --replace, or import under another --name"
                raise ModelError(f"model {manifest.name!r} is installed already; {advice}")
            _install(home, content)
    except OSError as error:
        raise Unavailable(f"model {manifest.name!r} cannot be written: {error.strerror}; free disk space") from error
    return ModelPackage(home, manifest)


def add_golden(package: ModelPackage, manifest: Manifest, file: str, content: bytes) -> ModelPackage:
    """Give a package a golden case and the manifest that names it; the package is whole at every moment.

    Raises:
        ModelError: the content has another digest than the manifest says.
        Unavailable: the disk does not take it.
    """
    _check_digest(file, manifest.golden[file], content)
    text = manifest_text(manifest)
    try:
        with _alone_in(package.folder.parent):
            _write(package.folder / file, content)
            _write(package.folder / f".{_MANIFEST}", text.encode())
            (package.folder / f".{_MANIFEST}").replace(package.folder / _MANIFEST)
            _sync(package.folder)
            for old in set(package.manifest.golden) - set(manifest.golden):
                (package.folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"model {manifest.name!r} cannot be written: {error.strerror}; free disk space") from error
    return ModelPackage(package.folder, manifest)


def remove_package(home: Path) -> None:
    """Take a package out of its folder of packages, at once.

    Raises:
        Unavailable: the disk does not let it go.
    """
    try:
        with _alone_in(home.parent):
            aside = _beside(home, "removed")
            home.rename(aside)
            _sync(home.parent)
            shutil.rmtree(aside)
    except OSError as error:
        raise Unavailable(f"model {home.name!r} cannot be removed: {error.strerror}") from error


def settle(store: Path) -> None:
    """Bring back the package that a process took aside and died before it put another there; remove other remains.

    Raises:
        Unavailable: the disk does not let it.
    """
    if not store.is_dir():
        return
    try:
        with _alone_in(store):
            pass
    except OSError as error:
        raise Unavailable(f"the models in {store} cannot be changed: {error.strerror}") from error


@contextmanager
def _alone_in(store: Path) -> Generator[None]:
    """Nobody else changes the folder of packages meanwhile, and nothing in it is halfway."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who dies lets go of it, so whatever is halfway now is nobody's
        _settle(store)
        yield


def _settle(store: Path) -> None:
    left = [(path, found) for path in store.iterdir() if (found := _HALFWAY.fullmatch(path.name))]
    for name in {found["name"] for _, found in left}:
        asides = [path for path, found in left if found["name"] == name and found["fate"] == ".old"]
        whole = [path for path in asides if (path / _MANIFEST).is_file()]
        if not (store / name).exists() and len(whole) == 1:
            whole[0].rename(store / name)
            _sync(store)
    for path, found in left:  # several in place of one that is missing: which it was, a person has to say
        if found["fate"] != ".old" or (store / found["name"]).exists():
            shutil.rmtree(path, ignore_errors=True)


def _check(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    wanted = {**manifest.digests, **manifest.golden}
    if unknown := sorted(set(files) - set(wanted) - {_CARD}):
        raise ModelError(f"expected the files {sorted(wanted)}, found {unknown}; the package is not written")
    for name, expected in wanted.items():
        _check_digest(name, expected, files.get(name))


def _check_digest(name: str, expected: str, content: bytes | None) -> None:
    found = "no such file" if content is None else hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ModelError(f"{name}: expected SHA-256 {expected}, found {found}; the package is not written")


def _install(home: Path, content: Mapping[str, bytes]) -> None:
    temporary = _beside(home, None)
    try:
        _fill(temporary, content)
        _move_in(temporary, home)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        _write(folder / name, content)
    _sync(folder)


def _move_in(folder: Path, home: Path) -> None:
    """Give a folder its name; what has it now makes room for the moment, and comes back if that fails."""
    if not home.exists():
        folder.rename(home)
        _sync(home.parent)
        return
    for name in _STAYS:
        if (home / name).is_file():
            _write(folder / name, (home / name).read_bytes())
    aside = _beside(home, "old")
    home.rename(aside)
    try:
        folder.rename(home)
    except OSError:
        aside.rename(home)
        raise
    _sync(home.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _beside(home: Path, fate: str | None) -> Path:
    """Where a package is that comes or goes."""
    beside = home.with_name(".".join(["", home.name, str(os.getpid()), *([fate] if fate else [])]))
    shutil.rmtree(beside, ignore_errors=True)
    return beside


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """A new name in a folder is on the disk only after the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_nothing(value: Any) -> Any:
    """TOML has no null: what is None is not said."""
    if isinstance(value, dict):
        return {key: _without_nothing(v) for key, v in value.items() if v is not None}
    return [_without_nothing(v) for v in value] if isinstance(value, list) else value
