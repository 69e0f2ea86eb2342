"""The networks of a package and the stages that they are run in."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from dicomnode.models.after import AfterStep, Back, Decide
from dicomnode.models.before import (
    AddLabels,
    BeforeStep,
    CropForeground,
    CropNonzero,
    CropToStage,
    Orient,
    Resample,
)
from dicomnode.models.fields import Axis, FileName, Finite, Label, Multiple, Name, Positive, Table, Text

WindowVoxels = Annotated[int, Field(ge=1, le=1024)]
Patch = tuple[WindowVoxels, WindowVoxels] | tuple[WindowVoxels, WindowVoxels, WindowVoxels]


class Network(Table):
    """Which network: a name in the table of its runner, plain constructor arguments, and where its weights are."""

    runner: Literal["monai", "nnunet", "torchscript", "onnx"] = "monai"
    name: Text  # of the class, in the runner's table; of the entry for runners of whole programs
    arguments: Mapping[str, JsonValue] = {}
    file: FileName = "weights.safetensors"
    prefix: str = ""  # of its tensors in that file
    dimensions: Literal[2, 3] = 3  # 2: slices along the first axis
    in_channels: Annotated[int, Field(ge=1, le=1024)]
    out_channels: Annotated[int, Field(ge=1, le=65535)]


class Windows(Table):
    """How a volume goes through a network.

    "monai": windows step by `1 - overlap` of their size, the last one ends where the volume ends; blended by MONAI's
    Gaussian. "nnunet": evenly spread, blended by nnU-Net's Gaussian.
    """

    patch: Literal["whole"] | Patch = "whole"
    multiple: Multiple = 1  # of voxels, that a window of "whole" is made of when memory is short
    overlap: Annotated[float, Field(ge=0, le=0.99)] = 0.25
    style: Literal["monai", "nnunet"] = "monai"
    blending: Literal["gaussian", "constant"] = "gaussian"
    sigma: Positive = 0.125  # of the Gaussian, in window sizes
    # Of voxels beside a volume smaller than the window; "edge": the outermost voxel is repeated.
    pad_value: Finite | Literal["edge"] = 0.0
    mirror_axes: tuple[Axis, ...] = ()  # the mean of all flips along these is taken

    @model_validator(mode="after")
    def _patch_fits(self) -> Self:
        if self.patch != "whole" and any(voxels % self.multiple for voxels in self.patch):
            raise ValueError(f"expected patch in multiples of {self.multiple}, found {list(self.patch)}")
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            raise ValueError(f"expected each of mirror_axes once, found {list(self.mirror_axes)}")
        return self


class Stage(Table):
    """One pass: a volume through steps, through one network or the mean of several, through steps, to labels."""

    name: Name = "main"
    networks: Annotated[tuple[Name, ...], Field(min_length=1)]  # the mean of what they say is taken
    before: tuple[BeforeStep, ...] = ()
    windows: Windows = Windows()
    after: tuple[AfterStep, ...]
    # The labels that this stage writes into the result, over earlier stages: its own -> the result's.
    writes: Literal["all", "nothing"] | Mapping[Label, Label] = "all"

    @property
    def needs(self) -> frozenset[str]:
        """The earlier stages that this one looks at."""
        return frozenset(step.stage for step in self.before if isinstance(step, CropToStage | AddLabels))

    @model_validator(mode="after")
    def _nothing_before_faces_is_lost(self) -> Self:
        """Grid "faces" is sampled from the scanner's volume anew: values that a step had changed would be lost."""
        earlier: list[str] = []
        for step in self.before:
            if isinstance(step, Resample) and step.grid == "faces" and earlier:
                allowed = f"only turns and crops before resample with grid 'faces' in stage {self.name!r}"
                raise ValueError(f"expected {allowed}, found {', '.join(map(repr, earlier))}")
            if not isinstance(step, Orient | CropNonzero | CropForeground | CropToStage):
                earlier.append(step.step)
        return self

    @model_validator(mode="after")
    def _decides_and_returns_once(self) -> Self:
        for kind, name in ((Decide, "decide"), (Back, "back")):
            found = sum(isinstance(step, kind) for step in self.after)
            if found != 1:
                raise ValueError(f"expected one step {name!r} in after, found {found}")
        return self
