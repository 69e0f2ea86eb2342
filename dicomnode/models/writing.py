"""Putting a package into a folder of packages: complete and readable back, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from dicomnode.errors import ModelError, Unavailable
from dicomnode.models.manifest import Manifest, parse_manifest
from dicomnode.models.store import ModelPackage

_MANIFEST, _CARD = "manifest.toml", "MODEL_CARD.md"
_STAYS = ("licence-accepted.json",)  # beside a package that is replaced: it names the weights that it is about


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
    home, temporary = store / manifest.name, store / f".{manifest.name}.{os.getpid()}"
    if home.exists() and not replace:
        advice = "remove it, replace it with --replace, or import under another --name"
        raise ModelError(f"model {manifest.name!r} is installed already; {advice}")
    text = manifest_text(manifest)
    try:
        _fill(temporary, {_MANIFEST: text.encode(), **files})
        _move_in(temporary, home)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
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
    aside = _aside(home)
    try:
        home.rename(aside)
        _sync(home.parent)
        shutil.rmtree(aside)
    except OSError as error:
        raise Unavailable(f"model {home.name!r} cannot be removed: {error.strerror}") from error


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


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
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
    aside = _aside(home)
    home.rename(aside)
    try:
        folder.rename(home)
    except OSError:
        aside.rename(home)
        raise
    _sync(home.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(home: Path) -> Path:
    """Where a package goes that is on its way out: no package is found under a name with a dot first."""
    aside = home.with_name(f".{home.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    return aside


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
