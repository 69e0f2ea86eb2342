"""The kinds of value that stand in a manifest, each with its bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # never a path
LongString = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]  # VR LO (PS3.5 6.2)
ShortString = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")]  # VR SH
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Code = tuple[ShortString, ShortString, LongString]  # value, scheme, meaning
Label = Annotated[int, Field(ge=1, le=65534)]
Byte = Annotated[int, Field(ge=0, le=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
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
