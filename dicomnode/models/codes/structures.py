"""Reads `structures.csv` once and finds names in it, however they are written.

`kidney_left`, `Left Kidney`, `KidneyL` and `Kidney_L` (AAPM TG-263) are one name: words in any case, and a side apart
from them. A row of the table with the side "both" stands for the structure as such, its left and its right; the side of
a structure is the modifier of its type (PS3.3 C.8.20.4, CID 244), except where the type itself names it.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from dicomnode.imaging import CodedConcept

Rgb = tuple[int, int, int]
Side = Literal["left", "right", ""]
_Key = tuple[str, Side]  # lower-case words, side
_TABLE = Path(__file__).with_name("structures.csv")

CATEGORIES: Final[Mapping[str, CodedConcept]] = {  # CID 7150
    "anatomy": CodedConcept("91723000", "SCT", "Anatomical Structure"),
    "tissue": CodedConcept("85756007", "SCT", "Tissue"),
    "abnormal": CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
    "object": CodedConcept("260787004", "SCT", "Physical object"),
}
MODIFIERS: Final[Mapping[Side, CodedConcept]] = {  # CID 244
    "left": CodedConcept("7771000", "SCT", "Left"),
    "right": CodedConcept("24028007", "SCT", "Right"),
}
_REGIONS: Final[Mapping[str, str]] = {  # where a type alone does not say where it is
    "10200004": "Liver",
    "12738006": "Brain",
    "15776009": "Pancreas",
    "22943007": "Trunk",
    "24136001": "Hip joint",
    "272673000": "Bone",
    "39607008": "Lung",
    "56459004": "Foot",
    "64033007": "Kidney",
    "71854001": "Colon",
    "85562004": "Hand",
}
_SIDES: Final[Mapping[str, Side]] = {"left": "left", "right": "right"}
_LETTERS: Final[Mapping[str, Side]] = {"l": "left", "r": "right", "lt": "left", "rt": "right"}  # first or last only
_SMALL_WORDS = frozenset({"of", "the", "and"})
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[A-Za-z0-9]+")
_RIGHT_IS_DARKER = 0.8


@dataclass(frozen=True, slots=True)
class Coded:
    """A structure as DICOM wants it: a readable name, codes and a colour."""

    name: str
    category: CodedConcept
    type: CodedConcept
    modifier: CodedConcept | None  # its side
    region: CodedConcept | None
    colour_rgb: Rgb


def code_for(name: str) -> Coded | None:
    """What the table says of a class name; None where it does not have it."""
    return _table().get(_key(name))


def readable(name: str) -> str:
    """A class name as people write it: "kidney_left" -> "Left kidney"."""
    words, side = _words_and_side(name)
    text = " ".join((*([side] if side else []), *words))
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=1)
def _table() -> Mapping[_Key, Coded]:
    """Every name and every alias of the table."""
    text = _TABLE.read_text(encoding="utf-8")
    found: dict[_Key, Coded] = {}
    for row in csv.DictReader(text.splitlines()):
        for side in _sides_of(row["side"]):
            coded = _coded(row, side)
            for name in (row["name"], *filter(None, row["aliases"].split(";"))):
                key = (_key(name)[0], side)
                if found.setdefault(key, coded) is not coded:
                    raise ValueError(f"structures.csv: expected {name!r} once, found it twice")
    return found


def _sides_of(column: str) -> Iterator[Side]:
    if column == "both":
        yield from ("", "left", "right")
    else:
        yield _SIDES.get(column, "")


def _coded(row: Mapping[str, str], side: Side) -> Coded:
    region = row["region"]
    return Coded(
        name=readable(f"{row['name']}_{side}"),
        category=CATEGORIES[row["category"]],
        type=CodedConcept(row["value"], row["scheme"], row["meaning"]),
        modifier=MODIFIERS.get(side) if row["side"] == "both" else None,
        region=CodedConcept(region, "SCT", _REGIONS[region]) if region else None,
        colour_rgb=_colour(row["colour"], side),
    )


def _colour(text: str, side: Side) -> Rgb:
    """From "#rrggbb"; a right side is darker than its left."""
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    if side != "right":
        return red, green, blue
    return round(red * _RIGHT_IS_DARKER), round(green * _RIGHT_IS_DARKER), round(blue * _RIGHT_IS_DARKER)


def _key(name: str) -> _Key:
    words, side = _words_and_side(name)
    return " ".join(word for word in map(str.lower, words) if word not in _SMALL_WORDS), side


def _words_and_side(name: str) -> tuple[list[str], Side]:
    words = _WORD.findall(_CAMEL.sub(" ", name))
    for index, word in enumerate(words):
        at_an_end = index in (0, len(words) - 1)
        side = _SIDES.get(word.lower()) or (_LETTERS.get(word.lower()) if at_an_end and len(words) > 1 else None)
        if side:
            return [*words[:index], *words[index + 1 :]], side
    return words, ""
