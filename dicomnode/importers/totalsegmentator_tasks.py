"""TotalSegmentator's tasks as values: `totalsegmentator.toml`, read once."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dicomnode.errors import ModelError
from dicomnode.models.fields import FileName, Label, Millimetres, Name, Positive, ShortString, Table, Text

Spacing = tuple[Millimetres, Millimetres, Millimetres]
GradeName = Literal["default", "fast", "fastest"]
LicenceKind = Literal["open", "on-request", "non-commercial"]
_TABLE = Path(__file__).with_name("totalsegmentator.toml")


class Dataset(Table):
    """Where a network's weights are: the name of its folder, and the release of TotalSegmentator that has it."""

    folder: FileName
    release: str  # "": the authors send it to holders of a licence


class Part(Table):
    """One network: its label i is label `first + i - 1` of the task."""

    dataset: int
    first: Label
    last: Label

    def writes(self, wanted: Sequence[int]) -> dict[int, int]:
        """Its own labels -> the task's, of those wanted."""
        return {label - self.first + 1: label for label in wanted if self.first <= label <= self.last}


class Grade(Table):
    """One way to run a task: on fine voxels by several networks, on coarse ones by one."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    trainer: Text
    configuration: Text = "3d_fullres"
    folds: tuple[int, ...] = (0,)  # none: all that are there
    spacing_mm: Spacing | None = None  # right-left, posterior-anterior, inferior-superior

    @property
    def folder(self) -> str:
        """The folder that nnU-Net keeps the trained networks in, within the data set's."""
        return f"{self.trainer}__nnUNetPlans__{self.configuration}"


class Crop(Table):
    """The box that a task works in: of what another task finds first."""

    task: Name
    grade: GradeName
    labels: Annotated[tuple[Name, ...], Field(min_length=1)]  # classes of that task
    margin_mm: Annotated[float, Field(ge=0)]


class Task(Table):
    """What TotalSegmentator calls a task: classes numbered from 1."""

    modality: ShortString
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    grades: Annotated[Mapping[GradeName, Grade], Field(min_length=1)]
    licence: LicenceKind = "open"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of windows
    crop: Crop | None = None
    largest: tuple[Label, ...] = ()  # labels of which only the largest component stays
    smallest_ml: Mapping[Label, Positive] = {}
    unsupported: str = ""

    @model_validator(mode="after")
    def _classes_are_distinct_and_all_found(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("expected distinct classes")
        for name, grade in self.grades.items():
            found = [label for part in grade.parts for label in range(part.first, part.last + 1)]
            if found != list(range(1, len(self.classes) + 1)):
                raise ValueError(f"expected the parts of grade {name!r} to find 1..{len(self.classes)} in order")
        return self

    def labels_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """The labels of classes; of no names, all.

        Raises:
            ModelError: a name is not a class of this task.
        """
        if unknown := sorted(set(names) - set(self.classes)):
            some = ", ".join(self.classes[:8])
            raise ModelError(f"expected classes of the task ({some}, ...), found {', '.join(unknown)}")
        return tuple(label for label, name in enumerate(self.classes, 1) if not names or name in names)

    def grade(self, name: GradeName) -> Grade:
        """How it is run.

        Raises:
            ModelError: it cannot be run in that way.
        """
        if name not in self.grades:
            raise ModelError(f"expected one of the grades {', '.join(self.grades)} of this task, found {name!r}")
        return self.grades[name]


class Catalogue(Table):
    """All tasks, and all data sets by nnU-Net's numbers."""

    datasets: Mapping[int, Dataset]
    tasks: Mapping[str, Task]

    def task(self, name: str) -> Task:
        """A task by its name.

        Raises:
            ModelError: there is none of that name.
        """
        if name not in self.tasks:
            raise ModelError(f"expected a task of TotalSegmentator ({', '.join(self.tasks)}), found {name!r}")
        return self.tasks[name]


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The table."""
    return Catalogue.model_validate(tomllib.loads(_TABLE.read_text(encoding="utf-8")))
