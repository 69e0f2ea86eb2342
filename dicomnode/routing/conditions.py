"""The conditions a rule can set on a DICOM attribute; a new one is one function and one line in `CONDITIONS`.

Each takes the values an instance has for the attribute (several for a multi-valued one, none for an empty one)
and the operand from node.toml.
"""

import re
from collections.abc import Callable, Sequence

Values = Sequence[str]
Operand = object
Test = Callable[[Values, Operand], bool]


def equals(values: Values, operand: Operand) -> bool:
    """The attribute's values, joined by backslashes, are the operand (numbers compare as numbers)."""
    return _same("\\".join(values), operand)


def one_of(values: Values, operand: Operand) -> bool:
    """The attribute equals one of a list."""
    return isinstance(operand, list) and any(equals(values, choice) for choice in operand)


def regex(values: Values, operand: Operand) -> bool:
    """The pattern is found in one of the values, whatever the case."""
    return any(re.search(str(operand), value, re.IGNORECASE) for value in values)


def at_least(values: Values, operand: Operand) -> bool:
    """Every value is a number not below the operand; no value is not."""
    return bool(values) and all(_is_number(v) and float(v) >= float(str(operand)) for v in values)


def at_most(values: Values, operand: Operand) -> bool:
    """Every value is a number not above the operand; no value is not."""
    return bool(values) and all(_is_number(v) and float(v) <= float(str(operand)) for v in values)


def contains(values: Values, operand: Operand) -> bool:
    """One of the values is the operand (for ImageType and other multi-valued attributes)."""
    return any(_same(value, operand) for value in values)


def excludes(values: Values, operand: Operand) -> bool:
    """None of the values is the operand."""
    return not contains(values, operand)


CONDITIONS: dict[str, Test] = {
    "equals": equals,
    "in": one_of,
    "regex": regex,
    "min": at_least,
    "max": at_most,
    "contains": contains,
    "excludes": excludes,
}

NUMERIC = {"min", "max"}


def _same(value: str, operand: Operand) -> bool:
    if isinstance(operand, int | float) and _is_number(value):
        return float(value) == float(operand)
    return value.strip().casefold() == str(operand).strip().casefold()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
