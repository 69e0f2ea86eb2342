"""A bundle's config: references, macros, expressions and components, each evaluated only where it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import cast

from dicomnode.errors import ModelError
from dicomnode.importers.bundle_expressions import absolute_key, check_harmless, compute
from dicomnode.importers.bundle_files import BundleFiles, Json
from dicomnode.importers.bundle_values import SEPARATOR, Component, Known

_TARGET = "_target_"
_OF_COMPONENTS = frozenset({_TARGET, "_disabled_", "_requires_", "_desc_", "_mode_"})
_MISSING = object()
_MOST_EVALUATIONS = 100_000


@dataclass(slots=True)
class Config:
    """A config file, with the files that were laid over it."""

    file: str  # its name, for messages
    root: Mapping[str, Json]
    other: Callable[[str], Mapping[str, Json]]  # the content of another file of the bundle, for macros
    _open: list[str] = field(default_factory=list[str])  # keys being evaluated: to notice a circle
    _evaluations: int = 0

    def error(self, key: str, problem: str) -> ModelError:
        """What is wrong with the value of a key."""
        return ModelError(f"{self.file}: {key}: {problem}")

    def has(self, key: str) -> bool:
        """Whether the key stands in the config."""
        return _walk(self.root, key) is not _MISSING

    def raw(self, key: str) -> Json:
        """What is written at a key.

        Raises:
            ModelError: there is no such key.
        """
        found = _walk(self.root, key)
        if found is _MISSING:
            raise self.error(key, "expected this key, found none")
        return cast("Json", found)

    def value(self, key: str) -> object:
        """The value of a key.

        Raises:
            ModelError: the key is missing, refers to itself, or cannot be expressed.
        """
        if key in self._open:
            raise self.error(key, f"expected a value, found a circle of references: {' -> '.join(self._open)}")
        self._open.append(key)
        try:
            return self.evaluate(self.raw(key), key)
        finally:
            self._open.pop()

    def evaluate(self, raw: object, key: str) -> object:
        """The value of what is written at a key.

        Raises:
            ModelError: it cannot be expressed.
        """
        self._evaluations += 1
        if self._evaluations > _MOST_EVALUATIONS:
            raise self.error(key, f"expected at most {_MOST_EVALUATIONS} values, found more: references grow")
        match raw:
            case Known(value):
                return value
            case str():
                return self._text(raw, key)
            case list():
                return self._list(cast("list[object]", raw), key)
            case dict():
                return self._table(cast("dict[str, object]", raw), key)
            case _:
                return raw

    def _text(self, text: str, key: str) -> object:
        if text.startswith("$"):
            return compute(text[1:], (self.file, key), self.evaluate, self._refer)
        if text.startswith("@"):
            return self._refer(text[1:], key)
        if text.startswith("%"):
            return self._macro(text[1:], key)
        return text

    def _refer(self, reference: str, key: str) -> object:
        target = absolute_key(reference, key)
        if not self.has(target):
            raise self.error(key, f"expected a key of the config, found a reference to {target!r}")
        return self.value(target)

    def _macro(self, text: str, key: str) -> object:
        file, found, inside = text.rpartition(".json" + SEPARATOR)
        if not found:
            return self.evaluate(self.raw(absolute_key(text, key)), key)
        name = PurePosixPath(file + ".json").name
        content = _walk(self.other(f"configs/{name}"), inside.replace("#", SEPARATOR))
        if content is _MISSING:
            raise self.error(key, f"expected the key {inside!r} in configs/{name}, found none")
        return self.evaluate(content, key)

    def _list(self, items: Sequence[object], key: str) -> list[object]:
        places = ((item, f"{key}{SEPARATOR}{index}") for index, item in enumerate(items))
        return [self.evaluate(item, place) for item, place in places if not self._is_disabled(item, place)]

    def _table(self, table: Mapping[str, object], key: str) -> object:
        if _TARGET in table:
            return self._component(table, key)
        places = ((name, item, f"{key}{SEPARATOR}{name}") for name, item in table.items())
        return {name: self.evaluate(item, place) for name, item, place in places if not self._is_disabled(item, place)}

    def _component(self, table: Mapping[str, object], key: str) -> Component:
        target = self.evaluate(table[_TARGET], f"{key}{SEPARATOR}{_TARGET}")
        if not isinstance(target, str):
            raise self.error(f"{key}{SEPARATOR}{_TARGET}", f"expected a name, found {target!r}")
        if (mode := table.get("_mode_", "default")) != "default":
            raise self.error(f"{key}{SEPARATOR}_mode_", f"expected 'default', found {mode!r}")
        arguments = {name: value for name, value in table.items() if name not in _OF_COMPONENTS}
        return Component(self.file, key, target, arguments, self.evaluate)

    def _is_disabled(self, item: object, key: str) -> bool:
        if not isinstance(item, dict) or "_disabled_" not in item:
            return False
        disabled = self.evaluate(cast("dict[str, object]", item)["_disabled_"], f"{key}{SEPARATOR}_disabled_")
        return disabled.strip().lower() == "true" if isinstance(disabled, str) else bool(disabled)

    def targets(self) -> Iterator[tuple[str, str]]:
        """Key and name of every component that is written anywhere and not switched off."""
        for key, item in _everything(self.root, ""):
            if isinstance(item, dict) and _TARGET in item and not self._is_disabled(item, key):
                yield key, str(item[_TARGET])

    def check_harmless(self) -> None:
        """Look through every expression, used or not; `imports` are statements that nothing here carries out.

        Raises:
            ModelError: one of them reaches for the interpreter.
        """
        for key, item in _everything(self.root, ""):
            if (
                isinstance(item, str)
                and item.startswith("$")
                and not item[1:].lstrip().startswith(("import ", "from "))
            ):
                check_harmless(item[1:], self.file, key)


def read_config(files: BundleFiles, names: Sequence[str]) -> Config:
    """The config in some files of configs/; a later one lays its keys over those of earlier ones, "+key" adds to them.

    Raises:
        ModelError: one is missing or cannot be read, or an expression reaches for the interpreter.
    """
    root: dict[str, Json] = {}
    for name in names:
        for key, value in files.config(name).items():
            _lay(root, key, value, name)
    config = Config(PurePosixPath(names[0]).name, root, files.config)
    config.check_harmless()
    return config


def _lay(root: dict[str, Json], key: str, value: Json, file: str) -> None:
    old = root.get(key.removeprefix("+"))
    if not key.startswith("+"):
        root[key] = value
    elif isinstance(old, list) and isinstance(value, list):
        root[key[1:]] = [*old, *value]
    elif isinstance(old, dict) and isinstance(value, dict):
        root[key[1:]] = {**old, **value}
    else:
        raise ModelError(f"{file}: {key}: expected a list or table to add to one of the same kind, found none")


def _walk(root: object, key: str) -> object:
    found = root
    for part in key.split(SEPARATOR) if key else ():
        if isinstance(found, Mapping) and part in found:
            found = cast("Mapping[str, object]", found)[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(cast("list[object]", found)):
            found = cast("list[object]", found)[int(part)]
        else:
            return _MISSING
    return found


def _everything(item: object, key: str) -> Iterator[tuple[str, object]]:
    yield key, item
    if isinstance(item, Mapping):
        for name, inner in cast("Mapping[str, object]", item).items():
            yield from _everything(inner, f"{key}{SEPARATOR}{name}" if key else str(name))
    elif isinstance(item, list):
        for index, inner in enumerate(cast("list[object]", item)):
            yield from _everything(inner, f"{key}{SEPARATOR}{index}")
