"""manifest.toml of a model package: what it takes, which network it is, what its answers mean.

A model is data: nothing in here is evaluated or imported by name. An unknown key, a wrong value or a contradiction
between two tables is an error that names file, key, expected and found.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dicomnode.errors import ModelError
from dicomnode.imaging import CodedConcept, Segment
from dicomnode.imaging.orientation import is_orientation

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
LongString = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]  # VR LO (PS3.5 6.2)
ShortString = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")]  # VR SH
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Code = tuple[ShortString, ShortString, LongString]  # value, scheme, meaning
Label = Annotated[int, Field(ge=1, le=65534)]
Byte = Annotated[int, Field(ge=0, le=255)]
Hounsfield = Annotated[int, Field(ge=-32768, le=32767)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
WindowVoxels = Annotated[int, Field(ge=8, le=1024)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(_Table):
    """One input channel: voxels clipped to `clip`, which is mapped linearly onto `to`."""

    clip: tuple[Finite, Finite]
    to: tuple[Finite, Finite]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.clip[0] >= self.clip[1] or self.to[0] == self.to[1]:
            raise ValueError(
                f"expected clip = [low, high] and to = [a, b] of two values each, found {self.clip}, {self.to}"
            )
        return self


class Input(_Table):
    """The grid and the channels that the network was trained on; array axes are those of `orientation`."""

    modalities: Annotated[tuple[ShortString, ...], Field(min_length=1)]
    orientation: str  # the sides towards which the index of each axis increases, e.g. "SPL"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]  # along the axes of `orientation`
    padding_multiple: Annotated[int, Field(ge=1, le=512)] = 1
    pad_value: Hounsfield | Literal["edge"] = "edge"  # "edge": the outermost voxel is repeated
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_an_orientation(self) -> Self:
        if not is_orientation(self.orientation):
            message = "expected orientation of three letters, one of each of L/R, P/A and S/I"
            raise ValueError(f"{message}, found {self.orientation!r}")
        return self


class Network(_Table):
    """Which kind of network: a name in the table of its architecture, and plain constructor arguments."""

    architecture: Literal["monai"] = "monai"
    name: Text
    arguments: Mapping[str, JsonValue]

    @property
    def in_channels(self) -> int:
        """How many channels the network takes."""
        return self._count("in_channels")

    @property
    def out_channels(self) -> int:
        """How many classes it tells apart, the background counted."""
        return self._count("out_channels")

    @model_validator(mode="after")
    def _is_three_dimensional(self) -> Self:
        if self.arguments.get("spatial_dims", 3) != 3:
            raise ValueError(f"expected arguments.spatial_dims = 3, found {self.arguments['spatial_dims']!r}")
        if not (self.in_channels >= 1 and 2 <= self.out_channels <= 65535):
            message = "expected at least 1 in_channels and from 2 to 65535 out_channels in arguments"
            raise ValueError(f"{message}, found {self.in_channels} and {self.out_channels}")
        return self

    def _count(self, argument: str) -> int:
        count = self.arguments.get(argument)
        if not isinstance(count, int) or isinstance(count, bool):
            raise ValueError(f"expected arguments.{argument} = a whole number, found {count!r}")  # noqa: TRY004  pydantic
        return count


class InferenceTable(_Table):
    """How a volume goes through the network."""

    window: Literal["whole"] | tuple[WindowVoxels, WindowVoxels, WindowVoxels] = "whole"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25  # of neighbouring windows
    activation: Literal["softmax"] = "softmax"


class Postprocessing(_Table):
    """What is done to the network's labels on its own grid, before they go back to the source grid."""

    largest_components: Mapping[Label, Annotated[int, Field(ge=1)]] = {}  # label -> connected components kept


class SegmentTable(_Table):
    """One structure of the result: the union of some of the network's labels, coded (PS3.3 C.8.20.4)."""

    number: Annotated[int, Field(ge=1, le=65535)]
    name: LongString  # Segment Label
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    category: Code
    type: Code
    modifier: Code | None = None
    colour_rgb: tuple[Byte, Byte, Byte]

    @property
    def segment(self) -> Segment:
        """The same as a value of the vocabulary."""
        return Segment(
            number=self.number,
            name=self.name,
            labels=self.labels,
            category=CodedConcept(*self.category),
            type=CodedConcept(*self.type),
            modifier=CodedConcept(*self.modifier) if self.modifier else None,
            colour_rgb=self.colour_rgb,
        )


class Manifest(_Table):
    """Everything the node has to know about a model except its weights."""

    format: Literal[1]
    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]
    title: LongString
    licence: Text
    intended_use: Text
    diagnostic: bool
    provenance: Text
    weights_sha256: Digest
    input: Input
    network: Network
    inference: InferenceTable = InferenceTable()
    postprocessing: Postprocessing = Postprocessing()
    segments: Annotated[tuple[SegmentTable, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        if self.network.in_channels != len(self.input.channels):
            message = (
                f"expected as many [[input.channels]] as network.arguments.in_channels = {self.network.in_channels}"
            )
            raise ValueError(f"{message}, found {len(self.input.channels)}")
        multiple, window = self.input.padding_multiple, self.inference.window
        if window != "whole" and any(voxels % multiple for voxels in window):
            raise ValueError(
                f"expected inference.window in multiples of input.padding_multiple {multiple}, found {window}"
            )
        return self

    @model_validator(mode="after")
    def _segments_are_consistent(self) -> Self:
        numbers, names = [s.number for s in self.segments], [s.name for s in self.segments]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"expected [[segments]] numbered 1..n in order, found {numbers}")
        if len(set(names)) != len(names):
            raise ValueError(f"expected distinct names of [[segments]], found {names}")
        for segment in self.segments:
            if len(set(segment.labels)) != len(segment.labels):
                raise ValueError(f"expected each label once in segment {segment.name!r}, found {segment.labels}")
        return self

    @model_validator(mode="after")
    def _labels_are_the_networks(self) -> Self:
        last = self.network.out_channels - 1
        used = {label for s in self.segments for label in s.labels} | set(self.postprocessing.largest_components)
        beyond = sorted(label for label in used if label > last)
        if beyond:
            raise ValueError(f"expected labels 1..{last} of a network with {last + 1} out_channels, found {beyond}")
        return self


def parse_manifest(text: str, source: str) -> Manifest:
    """The text of a manifest.toml -> Manifest.

    Raises:
        ModelError: names `source`, the key, what was expected and what was found.
    """
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{source}: expected TOML, found: {error}") from error
    except ValidationError as error:
        raise ModelError("\n".join(_sentence(source, e) for e in error.errors())) from error


def read_manifest(path: Path) -> Manifest:
    """Read the manifest.toml of a package.

    Raises:
        ModelError: it is missing, or says something that cannot be used.
    """
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); install the model package again") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#x}") from error


def _sentence(source: str, error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "(document)"
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}; expected {_known_keys(error['loc'])}"
    if error["type"] == "missing":
        return f"{source}: key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" else f"; found {error['input']!r}"[:90]
    return f"{source}: key {key!r}: {message}{found}"


def _known_keys(location: tuple[int | str, ...]) -> str:
    table: type[BaseModel] = Manifest
    for part in location[:-1]:
        table = _TABLES.get(str(part), table)
    return "one of " + ", ".join(table.model_fields)


_TABLES: dict[str, type[BaseModel]] = {
    "input": Input,
    "channels": Channel,
    "network": Network,
    "inference": InferenceTable,
    "postprocessing": Postprocessing,
    "segments": SegmentTable,
}
