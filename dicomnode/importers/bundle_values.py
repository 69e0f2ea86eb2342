"""What a value of a bundle's config can be, beside plain ones: a component, a word of the libraries, a formula."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from dicomnode.errors import ModelError

SEPARATOR = "::"  # between the parts of a key, as MONAI writes it; "#" is its older form

Evaluate = Callable[[object, str], object]  # raw value, its key -> value


@dataclass(frozen=True, slots=True)
class Word:
    """A constant of a library, such as `torch.float32`: known by its name, never looked up."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """A `lambda` of the config: a tree that some components recognise, never called."""

    tree: ast.Lambda


@dataclass(frozen=True, slots=True)
class Known:
    """An argument that is a value already."""

    value: object


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A `_target_` with its arguments: a name to look up in our tables, never an object of its own."""

    file: str
    key: str  # such as "preprocessing::transforms::3"
    target: str
    arguments: Mapping[str, object]  # as written, by name
    evaluate: Evaluate

    @property
    def name(self) -> str:
        """The class, without the module of MONAI that it stands in; other modules are a part of it."""
        return self.target.rpartition(".")[2] if self.target.startswith("monai.") else self.target

    def get(self, name: str, default: object = None) -> object:
        """The value of an argument."""
        if name not in self.arguments:
            return default
        return self.evaluate(self.arguments[name], f"{self.key}{SEPARATOR}{name}")

    def error(self, problem: str, argument: str = "") -> ModelError:
        """What is wrong with the component, or with one of its arguments."""
        place = f"{self.key}{SEPARATOR}{argument}" if argument else self.key
        return ModelError(f"{self.file}: {place}: {problem}")

    def only(self, known: frozenset[str]) -> None:
        """Refuse arguments that nothing here looks at.

        Raises:
            ModelError: there is one.
        """
        for name in sorted(set(self.arguments) - known):
            raise self.error(f"expected no argument of {self.name} that the node does not know, found it", name)

    def flag(self, name: str, *, default: bool) -> bool:
        """An argument that is true or false; published bundles also write "True"."""
        value = self.get(name, default)
        if value == "True":
            return True
        if isinstance(value, bool):
            return value
        raise self.error(f"expected true or false, found {shown(value)}", name)

    def number(self, name: str, default: float | None = None) -> float:
        """An argument that is one number; where one may be given for each axis, they have to be equal."""
        value = self.get(name, default)
        items = items_of(value)
        first = items[0] if items else None
        if any(item != first for item in items):
            raise self.error(f"expected one number for all axes, found {shown(value)}", name)
        if isinstance(first, bool) or not isinstance(first, int | float):
            raise self.error(f"expected a number, found {shown(value)}", name)
        return float(first)

    def whole(self, name: str, default: int | None = None) -> int:
        """An argument that is one whole number."""
        value = self.number(name, default)
        if not value.is_integer():
            raise self.error(f"expected a whole number, found {value}", name)
        return int(value)

    def numbers(self, name: str) -> list[float]:
        """An argument that is a number or a list of them, as a list."""
        value = self.get(name)
        items = items_of(value)
        found = [float(n) for n in items if isinstance(n, int | float) and not isinstance(n, bool)]
        if not items or len(found) != len(items):
            raise self.error(f"expected numbers, found {shown(value)}", name)
        return found

    def must_be(self, name: str, allowed: Sequence[object]) -> None:
        """Refuse an argument that is given and is none of some values.

        Raises:
            ModelError: it is another.
        """
        if name in self.arguments and (value := self.get(name)) not in allowed:
            listed = ", ".join(shown(one) for one in allowed)
            raise self.error(f"expected {listed}; the node cannot do {shown(value)}", name)


def items_of(value: object) -> list[object]:
    """A list or tuple as a list, anything else as a list of it, nothing as an empty one."""
    if value is None:
        return []
    return list(cast("list[object]", value)) if isinstance(value, list | tuple) else [value]


def shown(value: object) -> str:
    """A value in a message: short, and a component by its name."""
    if isinstance(value, Component | Word):
        return value.name
    if isinstance(value, Formula):
        return "a lambda"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
