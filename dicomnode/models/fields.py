"""The kinds of value that stand in a manifest, each with its bounds."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_OF_THE_NODE = ("manifest.toml", "licence-accepted.json", "model_card.md")  # what the node writes beside the files


def _brought_along(name: str) -> str:
    """A package must not accept its own licence, nor replace its own manifest."""
    if name.lower() in _OF_THE_NODE:
        raise ValueError(f"expected another name than {name!r}, a file that the node writes itself")
    return name


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# Never a path.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(_brought_along)]
LongString = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]  # VR LO (PS3.5 6.2)
ShortString = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")]  # VR SH
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Code = tuple[ShortString, ShortString, LongString]  # value, scheme, meaning
Label = Annotated[int, Field(ge=1, le=65534)]
Byte = Annotated[int, Field(ge=0, le=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0.01, le=100, allow_inf_nan=False)]
Multiple = Annotated[int, Field(ge=1, le=512)]
Voxels = Annotated[int, Field(ge=0, le=4096)]
Axis = Annotated[int, Field(ge=0, le=2)]
Range = tuple[Finite, Finite]  # low, high


class Table(BaseModel):
    """A table of the manifest: frozen, and no key beside the known ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def ascending(low_high: Range) -> Range:
    """The range itself.

    Raises:
        ValueError: it does not ascend.
    """
    if low_high[0] >= low_high[1]:
        raise ValueError(f"expected [low, high], found {list(low_high)}")
    return low_high
