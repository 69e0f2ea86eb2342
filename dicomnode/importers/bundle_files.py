"""The files of a MONAI bundle, in a folder or a .zip, and the two languages its configs are written in.

Nothing is unpacked and no path from inside the bundle is followed: files are read by names that stand in our code.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn, cast

import yaml

from dicomnode.errors import ModelError
from dicomnode.importers.archives import require_sound

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_MOST_CONFIG_BYTES = 4 << 20
_MOST_WEIGHTS_BYTES = 8 << 30
_DEEPEST = 64  # levels of a config; published ones have fewer than ten
_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """A bundle and the paths of its files, relative to its root."""

    path: Path  # of the folder, or of the .zip
    root: str  # of the bundle within a .zip: "" or "name/"
    names: frozenset[str]

    def read(self, name: str, most_bytes: int = _MOST_WEIGHTS_BYTES) -> bytes:
        """The bytes of one file.

        Raises:
            ModelError: it is missing, too large or unreadable.
        """
        if name not in self.names:
            raise ModelError(f"{self.path}: expected the file {name}, found none; complete the bundle")
        try:
            return self._from_zip(name, most_bytes) if self.path.is_file() else self._from_folder(name, most_bytes)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:  # of zipfile
            raise ModelError(f"{self.path}: {name} cannot be read: {error}; fetch the bundle again") from error

    def _from_folder(self, name: str, most_bytes: int) -> bytes:
        file = self.path / name
        self._check_size(name, file.stat().st_size, most_bytes)
        return file.read_bytes()

    def _from_zip(self, name: str, most_bytes: int) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo(self.root + name)
            self._check_size(name, member.file_size, most_bytes)
            require_sound([member], most_bytes)
            return archive.read(member)

    def _check_size(self, name: str, found: int, most: int) -> None:
        if found > most:
            raise ModelError(f"{self.path}: {name}: expected at most {most} bytes, found {found}")

    def config_name(self, stem: str) -> str:
        """The one file `configs/STEM.json`, .yaml or .yml.

        Raises:
            ModelError: there is none, or there are two.
        """
        found = [name for name in (f"configs/{stem}{suffix}" for suffix in _SUFFIXES) if name in self.names]
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise ModelError(f"{self.path}: expected one file configs/{stem}.json or .yaml, found {listed}")
        return found[0]

    def config(self, name: str) -> dict[str, Json]:
        """A config file as plain values: a mapping at the top.

        Raises:
            ModelError: it is missing, too large, too deep, or neither JSON nor plain YAML.
        """
        return parse_config(self.read(name, _MOST_CONFIG_BYTES), name)


def open_bundle(path: Path) -> BundleFiles:
    """The files of the bundle in a folder or a .zip.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                return _of_zip(path, archive.namelist())
        return BundleFiles(path, "", frozenset(_relative(path)))
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: expected a folder or .zip with a MONAI bundle, found: {error}") from error


def is_bundle(path: Path) -> bool:
    """Whether there is a MONAI bundle: it has configs/ with a metadata or inference file."""
    if not path.is_dir() and path.suffix.lower() != ".zip":
        return False
    try:
        names = open_bundle(path).names
    except ModelError:
        return False
    stems = ("metadata", "inference")
    return any(f"configs/{stem}{suffix}" in names for stem in stems for suffix in _SUFFIXES)


def _relative(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _of_zip(path: Path, names: list[str]) -> BundleFiles:
    """The bundle may stand in the archive itself or in a folder of it."""
    homes = {name.partition("configs/")[0] for name in names if PurePosixPath(name).parent.name == "configs"}
    root = min(homes, key=len, default="")
    inside = frozenset(name.removeprefix(root) for name in names if name.startswith(root) and not name.endswith("/"))
    return BundleFiles(path, root, inside)


def parse_config(content: bytes, name: str) -> dict[str, Json]:
    """The bytes of a config -> plain values.

    Raises:
        ModelError: neither JSON nor plain YAML, or not a mapping, or too deep.
    """
    try:
        text = content.decode("utf-8")
        parsed = _parse_json(text, name) if name.endswith(".json") else _parse_yaml(text, name)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        language = "JSON" if name.endswith(".json") else "plain YAML"
        raise ModelError(f"{name}: expected {language}, found: {' '.join(str(error).split())[:200]}") from error
    _check_depth(parsed, name, _DEEPEST)
    if not isinstance(parsed, dict):
        raise ModelError(f"{name}: expected a table of keys at the top, found {type(parsed).__name__}")
    return parsed


def _parse_json(text: str, name: str) -> Json:
    def refuse(word: str) -> NoReturn:
        raise ModelError(f"{name}: expected finite numbers, found {word}")

    return cast("Json", json.loads(text, parse_constant=refuse))


class _PlainLoader(yaml.SafeLoader):
    """YAML without tags of Python, and without aliases, by which a small text grows without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name); write the value where it is used")
        return super().compose_node(parent, index)


def _parse_yaml(text: str, name: str) -> Json:
    loader = _PlainLoader(text)
    try:
        return _plain(cast("object", loader.get_single_data()), name)
    finally:
        loader.dispose()


def _plain(value: object, name: str) -> Json:
    """YAML has dates, sets and keys that are numbers; a config has none of the former and the latter become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, name) for key, inner in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list):
        return [_plain(inner, name) for inner in cast("list[object]", value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"{name}: expected text, numbers, lists and tables, found a {type(value).__name__}")


def _check_depth(value: Json, name: str, levels: int) -> None:
    if not isinstance(value, list | dict):
        return
    if levels == 0:
        raise ModelError(f"{name}: expected at most {_DEEPEST} levels of nesting, found more")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_depth(inner, name, levels - 1)
