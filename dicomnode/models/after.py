"""What happens to a network's answer: the steps that `[[stages.after]]` may name, in any order that makes sense.

The answer begins as logits `[class, axis 0, axis 1, axis 2]` on the network's grid and ends as labels on the source
grid: exactly one `decide` and one `back`, and the order of the two is the model's own. What carries a step out:
`dicomnode/inference/after`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from dicomnode.models.before import Order
from dicomnode.models.fields import Label, Positive, Table


class Activate(Table):
    """Logits become probabilities: of classes that exclude each other, or of regions that may overlap."""

    step: Literal["activate"]
    function: Literal["softmax", "sigmoid"]


class Back(Table):
    """Undo orientation, resampling, crops and padding: from the network's grid to the scanner's.

    Scores are interpolated, labels taken from the nearest voxel. What was cropped away is background.
    """

    step: Literal["back"]
    order: Order = 1
    apart_above: Positive | None = None  # as in `resample`
    apart_order: Order = 0
    halves: bool = False  # what was interpolated is rounded to half precision before it is compared (nnU-Net)


class Decide(Table):
    """Scores become labels.

    "highest": the class with the highest score, of equals the first; class 0 is background.
    "regions": the score of region i above `threshold` writes `values[i]`, later regions over earlier ones (nnU-Net).
    "overlapping": a label is the set of regions above `threshold` that a voxel is in: bit i for region i.
    """

    step: Literal["decide"]
    rule: Literal["highest", "regions", "overlapping"] = "highest"
    threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    values: tuple[Label, ...] = ()


class LargestComponents(Table):
    """Keep so many of the largest connected components of each label named."""

    step: Literal["largest-components"]
    keep: Mapping[Label, Annotated[int, Field(ge=1)]]
    rest: Literal["background", "runner-up"] = "background"  # "runner-up" needs probabilities on the same grid


class LargestOfAll(Table):
    """Keep the largest connected component of all labels taken together."""

    step: Literal["largest-of-all"]
    keep: Annotated[int, Field(ge=1)] = 1


class FillHoles(Table):
    """Fill what each label named encloses."""

    step: Literal["fill-holes"]
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]


class MinimumVolume(Table):
    """Remove connected components of each label that are smaller than so many millilitres."""

    step: Literal["minimum-volume"]
    volume_ml: Mapping[Label, Positive]


class Relabel(Table):
    """Labels become others; 0 is background. What is not named stays."""

    step: Literal["relabel"]
    labels: Mapping[Label, Annotated[int, Field(ge=0, le=65534)]]


AfterStep = Annotated[
    Activate | Back | Decide | LargestComponents | LargestOfAll | FillHoles | MinimumVolume | Relabel,
    Field(discriminator="step"),
]
