"""manifest.toml of a model package: what it takes, which networks it is, what its answers mean.

A model is data: nothing in here is evaluated or imported by name. An unknown key, a wrong value or a contradiction
between two tables is an error that names file, key, expected and found. docs/models.md explains every key.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dicomnode.errors import ModelError
from dicomnode.imaging import CodedConcept, Segment
from dicomnode.models.answers import require_among, require_known_labels
from dicomnode.models.fields import (
    Byte,
    Code,
    Digest,
    FileName,
    Label,
    LongString,
    Name,
    Positive,
    ShortString,
    Table,
    Text,
)
from dicomnode.models.stages import Network, Stage

Dice = Annotated[float, Field(ge=0.999, le=1)]  # of labels beside FP32's: less is not accepted


class Licence(Table):
    """Under which terms the weights may be used."""

    name: Text
    must_be_accepted: bool = False  # by `dicomnode models accept-licence`, before the model runs
    text: Text | None = None  # what is accepted, or where it can be read


class Input(Table):
    """What the model takes."""

    modalities: Annotated[tuple[ShortString, ...], Field(min_length=1)]
    body_parts: tuple[Text, ...] = ()  # for people: what has to be in the picture
    images: Annotated[int, Field(ge=1, le=16)] = 1  # registered series that it looks at together


class Origin(Table):
    """What the package was imported from."""

    kind: Literal["monai-bundle", "nnunet", "totalsegmentator", "torchscript", "onnx", "training"]
    files: Mapping[str, Digest] = {}  # SHA-256 by path within what was imported


class Memory(Table):
    """What one forward takes, measured when the package was made."""

    bytes_per_voxel: Positive  # of a window, in FP32


class Verified(Table):
    """Half precision that was compared with FP32 on a case: Dice of the labels. What is not here runs in FP32."""

    bf16: Dice | None = None
    fp16: Dice | None = None


class SegmentTable(Table):
    """One structure of the result: the union of some of the result's labels, coded (PS3.3 C.8.20.4)."""

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


class Manifest(Table):
    """Everything the node has to know about a model except its weights."""

    format: Literal[2]
    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]
    title: LongString
    licence: Licence
    intended_use: Text
    diagnostic: bool
    provenance: Text
    origin: Origin | None = None
    digests: Annotated[Mapping[FileName, Digest], Field(min_length=1)]  # SHA-256 of the files with weights
    golden: Mapping[FileName, Digest] = {}  # SHA-256 of golden cases, which `models verify` runs
    input: Input
    networks: Annotated[Mapping[Name, Network], Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    verified: Verified = Verified()
    memory: Memory | None = None
    segments: Annotated[tuple[SegmentTable, ...], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """The SHA-256 that names the weights in results and records: of the one file, or of the list of them."""
        if len(self.digests) == 1:
            return next(iter(self.digests.values()))
        listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.digests.items()))
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def package_digest(self) -> str:
        """The SHA-256 of all that decides what the same weights say: input, networks, stages and segments.

        What has its default does not count, so that a key that is new in the format changes no digest.
        """
        decisive = {"digests", "input", "networks", "stages", "segments"}
        return hashlib.sha256(self.model_dump_json(include=decisive, exclude_defaults=True).encode()).hexdigest()

    @model_validator(mode="after")
    def _networks_are_there(self) -> Self:
        used = {name for stage in self.stages for name in stage.networks}
        if used != set(self.networks):
            raise ValueError(f"expected the stages to use the networks {sorted(self.networks)}, found {sorted(used)}")
        files = {network.file for network in self.networks.values()}
        if files != set(self.digests):
            raise ValueError(f"expected digests of the files {sorted(files)}, found {sorted(self.digests)}")
        return self

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        earlier: set[str] = set()
        for stage in self.stages:
            if stage.name in earlier:
                raise ValueError(f"expected distinct names of [[stages]], found {stage.name!r} twice")
            if unknown := stage.needs - earlier:
                raise ValueError(f"expected stage {stage.name!r} to look at earlier stages, found {sorted(unknown)}")
            shapes = {
                (n.in_channels, n.out_channels, n.dimensions) for n in map(self.networks.get, stage.networks) if n
            }
            if len(shapes) != 1:
                raise ValueError(f"expected the networks of stage {stage.name!r} to be alike, found {sorted(shapes)}")
            ((_, _, dimensions),) = shapes
            patch = stage.windows.patch
            if patch != "whole" and len(patch) != dimensions:
                problem = f"expected a patch of {dimensions} sizes in stage {stage.name!r}, found {list(patch)}"
                raise ValueError(problem)
            earlier.add(stage.name)
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
    def _labels_can_be_said(self) -> Self:
        written = require_known_labels(self.stages, self.networks)
        for segment in self.segments:
            require_among(segment.labels, written, f"labels of segment {segment.name!r} that some stage writes")
        return self


def parse_manifest(text: str, source: str) -> Manifest:
    """The text of a manifest.toml -> Manifest.

    Raises:
        ModelError: names `source`, the key, what was expected and what was found.
    """
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ModelError("\n".join(_sentence(source, e) for e in error.errors())) from error
    except (ValueError, RecursionError) as error:  # tomllib: also numbers too long and tables too deep
        raise ModelError(f"{source}: expected TOML, found: {str(error)[:200]}") from error


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
        return f"{source}: unknown key {key!r}; docs/models.md has the keys of this table"
    if error["type"] == "missing":
        return f"{source}: key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" else f"; found {error['input']!r}"[:90]
    return f"{source}: key {key!r}: {message}{found}"
