"""docs/models.md explains every key and step of a manifest, and its example is one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from dicomnode.inference.after import AFTER
from dicomnode.inference.before import BEFORE
from dicomnode.models import parse_manifest
from dicomnode.models.fields import Table
from dicomnode.models.manifest import Input, Licence, Manifest, Memory, Origin, SegmentTable, Verified
from dicomnode.models.stages import Network, Stage, Windows

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
TABLES: dict[str, type[Table]] = {
    "licence": Licence,
    "origin": Origin,
    "input": Input,
    "networks": Network,
    "stages": Stage,
    "windows": Windows,
    "verified": Verified,
    "memory": Memory,
    "segments": SegmentTable,
}


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(heading)}$\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def rows(text: str) -> dict[str, str]:
    """The rows of the tables in a text, by what is in the first cell."""
    return dict(re.findall(r"^\| `([^`]+)` \|(.*)$", text, re.MULTILINE))


def choices(annotation: object) -> Iterator[str]:
    """The words that a key may have."""
    if get_origin(annotation) is Literal:
        yield from (choice for choice in get_args(annotation) if isinstance(choice, str))
    for part in get_args(annotation):
        yield from choices(part)


@pytest.mark.parametrize(("heading", "table"), [("The document", Manifest), *TABLES.items()])
def test_every_key_of_a_table_is_explained_with_the_words_it_may_have(heading: str, table: type[Table]) -> None:
    explained = rows(section(PAGE, heading))
    assert list(explained) == list(table.model_fields)
    for key, field in table.model_fields.items():
        assert [word for word in choices(field.annotation) if f"`{word}`" not in explained[key]] == []


@pytest.mark.parametrize(
    ("heading", "steps"), [("Steps before the networks", BEFORE), ("Steps behind the networks", AFTER)]
)
def test_every_step_is_explained_with_its_keys(heading: str, steps: dict[type[Table], object]) -> None:
    text = section(PAGE, heading)
    explained = rows(text)
    names = {str(get_args(step.model_fields["step"].annotation)[0]): step for step in steps}
    assert set(explained) == set(names)
    for name, step in names.items():
        keys = [key for key in step.model_fields if key != "step"]
        assert [key for key in keys if f"`{key}`" not in explained[name]] == []
        words = [word for key in keys for word in choices(step.model_fields[key].annotation)]
        assert [word for word in words if f"`{word}`" not in text] == []


def test_the_example_is_a_manifest() -> None:
    example, *_ = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert [stage.name for stage in parse_manifest(example, "docs/models.md").stages] == ["coarse", "fine"]


def test_a_key_that_nobody_explains_is_noticed() -> None:
    page = "### licence\n\n| Key | What |\n|---|---|\n| `name` | x |\n\n### next\n\n| `text` | y |\n"
    assert list(rows(section(page, "licence"))) == ["name"]
