"""From the names of a model's labels to coded segments.

A model names its labels in words; a DICOM result needs codes. They come from a mapping file of the user's, else from a
table of common structures. What neither has is never guessed: the import stops, and leaves a mapping file to complete.
"""

import colorsys
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from dicomnode.errors import ModelError
from dicomnode.imaging import CodedConcept
from dicomnode.models import codes
from dicomnode.models.fields import Byte, Code, Table
from dicomnode.models.manifest import SegmentTable

_MOST_MAPPING_BYTES = 1 << 20
_ANATOMY: Code = ("91723000", "SCT", "Anatomical Structure")


@dataclass(frozen=True, slots=True)
class Structure:
    """What a model calls some of its labels."""

    name: str
    labels: tuple[int, ...]


class Coded(Table):
    """What a label means: one entry of a mapping file, or of our table."""

    category: Code
    type: Code
    modifier: Code | None = None
    colour_rgb: tuple[Byte, Byte, Byte] | None = None  # None: one is chosen
    title: str | None = None  # of the segment; None: the label's name, made readable


class _Skipped(Table):
    """A label that is not to appear in results."""

    skip: bool


Mapped = Mapping[str, Coded | None]  # by label name; None: not in results


def code_for(name: str) -> Coded | None:
    """What the project's table has for a label's name, whatever its case, separators and side; None: nothing."""
    known = codes.code_for(name)
    if known is None:
        return None
    return Coded(
        category=_triple(known.category),
        type=_triple(known.type),
        modifier=_triple(known.modifier) if known.modifier else None,
        colour_rgb=known.colour_rgb,
        title=_readable(name),
    )


def _triple(concept: CodedConcept) -> Code:
    return concept.value, concept.scheme, concept.meaning


def read_mapping(path: Path) -> Mapped:
    """A mapping file: a table `[labels."NAME"]` for each label, with category, type, modifier, colour_rgb, or skip.

    Raises:
        ModelError: it cannot be read, or an entry is not right; names file and label.
    """
    try:
        if path.stat().st_size > _MOST_MAPPING_BYTES:
            raise ModelError(f"{path}: expected a mapping of labels, found {path.stat().st_size} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); name a mapping file that is there") from error
    except (ValueError, RecursionError) as error:  # tomllib: also numbers too long and tables too deep
        raise ModelError(f"{path}: expected TOML in UTF-8, found: {error}") from error
    labels = document.get("labels")
    if not isinstance(labels, dict) or set(document) != {"labels"}:
        raise ModelError(f'{path}: expected tables [labels."NAME"] and nothing else, found {sorted(document)}')
    return {name: _entry(entry, f"{path}: label {name!r}") for name, entry in cast(dict[str, object], labels).items()}


def _entry(entry: object, where: str) -> Coded | None:
    try:
        if isinstance(entry, dict) and "skip" in entry:
            return None if _Skipped.model_validate(entry).skip else _entry({}, where)
        return _completed(Coded.model_validate(entry), where)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "entry"
        problem = f"{first['msg']}, found {str(first['input'])[:80]!r}"
        raise ModelError(f"{where}: key {key!r}: {problem}; an entry looks like {_EXAMPLE}") from error


def _completed(coded: Coded, where: str) -> Coded:
    if any(_TODO in part for code in (coded.category, coded.type, coded.modifier or ()) for part in code):
        raise ModelError(f"{where}: expected codes, found {_TODO}; fill in the code, or write skip = true")
    return coded


_TODO = "TODO"
_EXAMPLE = 'category = ["91723000", "SCT", "Anatomical Structure"], type = ["78961009", "SCT", "Spleen"]'


def segments_for(structures: Sequence[Structure], mapped: Mapped, template: Path) -> tuple[SegmentTable, ...]:
    """The segments of a result, numbered from 1 in the order of the structures.

    Raises:
        ModelError: a structure has no code, or the mapping names one that the model does not have. Where codes lack
            a mapping file to complete has been written to `template`, which is never overwritten.
    """
    names = {structure.name for structure in structures}
    if strangers := sorted(set(mapped) - names):
        raise ModelError(f"mapping file: expected labels of the model ({_some(names)}), found {_some(strangers)}")
    found = {s.name: mapped[s.name] if s.name in mapped else code_for(s.name) for s in structures}
    lacking = [name for name, coded in found.items() if coded is None and name not in mapped]
    if lacking:
        lines = _template(structures, found, mapped)
        what = "which has what is known" if _is_written(template, lines) else "which was there already"
        problem = f"expected a code for every label, found none for {_some(lacking)}"
        raise ModelError(f"{problem}; complete {template}, {what}, and import again with it")
    kept = [(structure, coded) for structure in structures if (coded := found[structure.name]) is not None]
    if not kept:
        raise ModelError("mapping file: expected at least one label that is not skipped, found none")
    titles = _titles([coded.title or _readable(structure.name) for structure, coded in kept])
    return tuple(
        _segment(number, title, structure, coded)
        for number, (title, (structure, coded)) in enumerate(zip(titles, kept, strict=True), 1)
    )


def _segment(number: int, title: str, structure: Structure, coded: Coded) -> SegmentTable:
    return SegmentTable(
        number=number,
        name=title,
        labels=structure.labels,
        category=coded.category,
        type=coded.type,
        modifier=coded.modifier,
        colour_rgb=coded.colour_rgb or _colour_of(structure.name),
    )


def _readable(name: str) -> str:
    """The name as a person would write it, in what VR LO can hold (PS3.5 6.2)."""
    return re.sub(r"[\\\x00-\x1f]+", " ", codes.readable(name))[:64].strip() or "Unnamed"


def _titles(titles: Sequence[str]) -> list[str]:
    """The same, each once: two names may differ only in what VR LO (PS3.5 6.2) cannot hold."""
    distinct: list[str] = []
    for title in titles:
        count, wanted = 1, title
        while wanted in distinct:
            count += 1
            wanted = f"{title[:58]} ({count})"
        distinct.append(wanted)
    return distinct


def _template(structures: Sequence[Structure], found: Mapping[str, Coded | None], mapped: Mapped) -> list[str]:
    """What is known, and what is to be filled in."""
    lines = [
        "# What each label of the model means. Codes are (value, scheme, meaning), as in a DICOM sequence item;",
        "# SCT is SNOMED CT. Complete the entries marked TODO, or write skip = true for labels to leave out.",
        "",
    ]
    for structure in structures:
        lines += [f"[labels.{_quoted(structure.name)}]  # {', '.join(map(str, structure.labels))}"]
        lines += _lines_of(structure.name, found[structure.name], skipped=structure.name in mapped)
    return lines


def _is_written(path: Path, lines: Sequence[str]) -> bool:
    """Whether the lines are there now; a file that was there before is left as it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines))
    except FileExistsError:
        return False
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror}); name another template") from error
    return True


def _lines_of(name: str, coded: Coded | None, *, skipped: bool) -> list[str]:
    if coded is None and skipped:
        return ["skip = true", ""]
    if coded is None:
        colour = list(_colour_of(name))
        return [f"category = {_list(_ANATOMY)}", 'type = ["TODO", "SCT", "TODO"]', f"colour_rgb = {colour}", ""]
    lines = [f"category = {_list(coded.category)}", f"type = {_list(coded.type)}"]
    if coded.modifier:
        lines.append(f"modifier = {_list(coded.modifier)}")
    return [*lines, f"colour_rgb = {list(coded.colour_rgb or _colour_of(name))}", ""]


def _colour_of(name: str) -> tuple[int, int, int]:
    """A bright colour for a name, always the same one."""
    hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2]) / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _list(code: Code) -> str:
    return f"[{', '.join(_quoted(part) for part in code)}]"


def _quoted(text: str) -> str:
    """A basic string of TOML, whose escapes JSON's are."""
    return json.dumps(text)


def _some(names: Sequence[str] | set[str]) -> str:
    listed = sorted(names) if isinstance(names, set) else list(names)
    shown = ", ".join(repr(name[:40]) for name in listed[:8])
    return shown if len(listed) <= 8 else f"{shown} and {len(listed) - 8} more"
