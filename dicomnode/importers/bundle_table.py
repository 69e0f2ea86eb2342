"""One line of a table of MONAI's transforms: what translates it, and which arguments it looks at."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A transform that is known."""

    translate: T
    arguments: frozenset[str] | None = frozenset()  # that it looks at, beside the common ones; None: none matters


def taking(translate: T, *arguments: str) -> Entry[T]:
    """A transform that looks at these arguments."""
    return Entry(translate, frozenset(arguments))
