"""Transforms of a bundle's `postprocessing` -> steps `after` of a stage, in the bundle's own order."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from dicomnode.importers.bundle_before import dictionary_name
from dicomnode.importers.bundle_lambdas import labels_of_region_sets, only_replaces_nan
from dicomnode.importers.bundle_table import Entry, taking
from dicomnode.importers.bundle_values import Component, Formula, items_of, shown
from dicomnode.models import after, before
from dicomnode.models.after import AfterStep
from dicomnode.models.before import BeforeStep

_COMMON = frozenset({"keys", "allow_missing_keys"})
_MOST_OVERLAPPING = 8  # regions: every set of them is a label
_Step = TypeVar("_Step", bound=AfterStep)


@dataclass(frozen=True, slots=True)
class Output:
    """What the transforms work on, and what was done so far."""

    classes: int  # channels of the network's answer, background included
    before: Sequence[BeforeStep]
    preprocessing: str = "preprocessing"  # its key
    prompts: tuple[int, ...] = ()  # VISTA3D: the class that each channel behind the background stands for
    steps: tuple[AfterStep, ...] = ()

    def find(self, kind: type[_Step]) -> "_Step | None":
        """The step of that kind that was there already."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def and_then(self, *steps: AfterStep) -> "Output":
        """With some steps more."""
        return replace(self, steps=(*self.steps, *steps))

    @property
    def is_resampled(self) -> bool:
        """Whether its grid is another than the scanner's, however that is turned or cut."""
        return any(isinstance(step, before.Resample) for step in self.before)

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels that it may hold."""
        decided = self.find(after.Decide)
        if decided is not None and decided.rule == "overlapping":
            return tuple(range(1, 1 << self.classes))
        return decided.values if decided is not None and decided.values else tuple(range(1, self.classes))


Translate = Callable[[Component, Output], Output]


def steps_after(postprocessing: Component, transforms: Sequence[Component], output: Output) -> tuple[AfterStep, ...]:
    """The steps that do what the transforms do, in their order.

    Raises:
        ModelError: names the transform, and the argument, that no step can do.
    """
    for transform in transforms:
        output = _translated(transform, output)
    if not output.find(after.Decide):
        raise postprocessing.error("expected a transform that decides (AsDiscreted), found none")
    if not output.find(after.Back):
        if output.is_resampled:
            raise postprocessing.error("expected Invertd behind Spacingd, found none")
        output = output.and_then(after.Back(step="back", order=0))  # turns and crops: exact in any order
    return output.steps


def _translated(transform: Component, output: Output) -> Output:
    known = TRANSFORMS.get(dictionary_name(transform.name))
    if known is None:
        raise transform.error(f"expected one of {', '.join(sorted(TRANSFORMS))}; found {shown(transform.target)}")
    if known.arguments is None:
        return output
    transform.only(_COMMON | known.arguments)
    keys = items_of(transform.get("keys"))
    if len(keys) != 1:
        raise transform.error(f"expected one key, found {shown(keys)}", "keys")
    try:
        return known.translate(transform, output)
    except ValueError as error:  # pydantic's is one
        problem = " ".join(str(error).split())[:300]
        raise transform.error(f"expected what docs/models.md allows: {problem}") from error


def _nothing(transform: Component, output: Output) -> Output:
    del transform
    return output


def _first(transform: Component, name: str, default: object = None) -> object:
    """An argument for the one key; it may stand in a list."""
    items = items_of(transform.get(name, default))
    return items[0] if items else None


def _activations(transform: Component, output: Output) -> Output:
    transform.must_be("other", [None])
    if output.find(after.Decide) or output.find(after.Activate):
        raise transform.error("expected one activation, before the decision; found another")
    softmax, sigmoid = bool(_first(transform, "softmax")), bool(_first(transform, "sigmoid"))
    if softmax == sigmoid:
        raise transform.error("expected one of softmax and sigmoid to be true")
    return output.and_then(after.Activate(step="activate", function="softmax" if softmax else "sigmoid"))


def _invert(transform: Component, output: Output) -> Output:
    transform.must_be("post_func", [None])
    undone = transform.get("transform")
    if not isinstance(undone, Component) or undone.key != output.preprocessing:
        raise transform.error(f"expected @{output.preprocessing}, found {shown(undone)}", "transform")
    if output.find(after.Back):
        raise transform.error("expected one Invertd, found two")
    nearest = bool(_first(transform, "nearest_interp", default=True))
    if output.find(after.Decide) and not nearest and output.is_resampled:
        problem = "expected true behind the decision: labels that are interpolated are no labels; found false"
        raise transform.error(problem, "nearest_interp")
    linear = any(isinstance(step, before.Resample) and step.order == 1 for step in output.before)
    order = 1 if linear and not nearest and not output.find(after.Decide) else 0
    return output.and_then(after.Back(step="back", order=order))


def _discrete(transform: Component, output: Output) -> Output:
    transform.must_be("rounding", [None])
    if output.find(after.Decide):
        raise transform.error("expected one decision, found two")
    argmax, threshold = bool(_first(transform, "argmax")), _first(transform, "threshold")
    if argmax == (threshold is not None):
        raise transform.error("expected one of argmax and threshold, found both or none")
    if argmax and output.classes < 2:
        raise transform.error("expected two classes or more, found one: its argmax is 0 everywhere", "argmax")
    if argmax:
        return output.and_then(after.Decide(step="decide", rule="highest"))
    return output.and_then(_by_threshold(transform, output, threshold))


def _by_threshold(transform: Component, output: Output, threshold: object) -> after.Decide:
    """MONAI's `>=` is `>` of the number just below in FP32."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise transform.error(f"expected a number, found {shown(threshold)}", "threshold")
    below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    if output.classes == 1:
        return after.Decide(step="decide", rule="regions", threshold=below, values=(1,))
    if output.classes > _MOST_OVERLAPPING:
        problem = f"expected at most {_MOST_OVERLAPPING} overlapping regions, found {output.classes}"
        raise transform.error(problem, "threshold")
    return after.Decide(step="decide", rule="overlapping", threshold=below)


def _applied_labels(transform: Component, output: Output) -> tuple[int, ...]:
    decided = output.find(after.Decide)
    if decided is None or decided.rule == "overlapping":
        raise transform.error("expected to stand behind the decision for one label per voxel (AsDiscreted, argmax)")
    given = items_of(transform.get("applied_labels"))
    if not given:
        return output.labels
    labels = tuple(label for label in given if isinstance(label, int))
    if len(labels) != len(given) or not set(labels) <= set(output.labels):
        raise transform.error(f"expected some of {shown(list(output.labels))}, found {shown(given)}", "applied_labels")
    return labels


def _largest(transform: Component, output: Output) -> Output:
    labels = _applied_labels(transform, output)
    transform.must_be("connectivity", [None, 3])
    count = transform.whole("num_components", 1)
    if transform.flag("independent", default=True):
        keep = dict.fromkeys(labels, count)
        return output.and_then(after.LargestComponents(step="largest-components", keep=keep))
    if set(labels) != set(output.labels):
        problem = f"expected all of {list(output.labels)} where independent is false, found {list(labels)}"
        raise transform.error(problem, "applied_labels")
    return output.and_then(after.LargestOfAll(step="largest-of-all", keep=count))


def _fill_holes(transform: Component, output: Output) -> Output:
    transform.must_be("connectivity", [None, 3])
    return output.and_then(after.FillHoles(step="fill-holes", labels=_applied_labels(transform, output)))


def _small_objects(transform: Component, output: Output) -> Output:
    """Sizes are voxels of the network's grid; half a voxel less, so that rounding removes none that is as large."""
    if output.labels != (1,):
        raise transform.error(f"expected one label, found {len(output.labels)}: skimage takes each for one object")
    if transform.get("connectivity", 1) != 3:
        raise transform.error("expected 3, voxels that touch at a corner belonging together", "connectivity")
    grids = [step.spacing_mm for step in output.before if isinstance(step, before.Resample)]
    spacing_mm = [mm for mm in grids[-1] if isinstance(mm, float)] if grids else []
    if output.find(after.Back) or len(spacing_mm) != 3:
        raise transform.error("expected to stand before Invertd, where the size of a voxel is known")
    voxel_ml = math.prod(spacing_mm) / 1000
    if transform.flag("by_measure", default=False):
        least = float(np.ceil(transform.number("min_size", 64) / (voxel_ml * 1000)))
    else:
        least = float(transform.whole("min_size", 64))
    volume_ml = dict.fromkeys(_applied_labels(transform, output), (least - 0.5) * voxel_ml)
    return output.and_then(after.MinimumVolume(step="minimum-volume", volume_ml=volume_ml))


def _map_labels(transform: Component, output: Output) -> Output:
    old, new = items_of(transform.get("orig_labels")), items_of(transform.get("target_labels"))
    if len(old) != len(new) or not all(isinstance(label, int) for label in (*old, *new)):
        raise transform.error(f"expected as many whole numbers as others, found {shown(old)} and {shown(new)}")
    return output.and_then(
        after.Relabel.model_validate({"step": "relabel", "labels": dict(zip(old, new, strict=True))})
    )


def _filter_labels(transform: Component, output: Output) -> Output:
    kept = set(_applied_labels(transform, output))
    gone = {label: 0 for label in output.labels if label not in kept}
    return output.and_then(after.Relabel(step="relabel", labels=gone)) if gone else output


def _lambda(transform: Component, output: Output) -> Output:
    """Of all formulas two: NaN replaced, which the engine blocks anyhow, and sets of regions named."""
    formula = transform.get("func")
    if isinstance(formula, Formula):
        if only_replaces_nan(formula):
            return output
        decided = output.find(after.Decide)
        if decided is not None and decided.rule == "overlapping" and output.steps[-1] == decided:
            labels = labels_of_region_sets(formula, output.classes)
            if labels is not None:
                return output.and_then(after.Relabel(step="relabel", labels=labels))
    problem = "expected torch.nan_to_num, or torch.where over regions behind a threshold"
    raise transform.error(f"{problem}; found {shown(formula)}, and no code of a bundle is run", "func")


def _vista3d(transform: Component, output: Output) -> Output:
    """A voxel is what class has the highest logit above 0; `inference.vista3d` gives the background 0."""
    if output.find(after.Decide) or output.find(after.Activate):
        raise transform.error("expected logits, found what another transform had made of them")
    if not output.prompts:
        raise transform.error("expected the network VISTA3D with class prompts")
    relabel = {index: prompt for index, prompt in enumerate(output.prompts, 1) if index != prompt}
    steps: list[AfterStep] = [after.Decide(step="decide", rule="highest")]
    return output.and_then(*steps, *([after.Relabel(step="relabel", labels=relabel)] if relabel else []))


_META = ("meta_key_postfix", "meta_keys", "orig_meta_keys")
_WITHOUT_EFFECT = ("EnsureTyped", "SaveImaged", "ToDeviced", "ToTensord")

TRANSFORMS: Mapping[str, Entry[Translate]] = {
    "Activationsd": taking(_activations, "other", "sigmoid", "softmax"),
    "AsDiscreted": taking(_discrete, "argmax", "dim", "dtype", "keepdim", "rounding", "threshold", "to_onehot"),
    "FillHolesd": taking(_fill_holes, "applied_labels", "connectivity"),
    "Invertd": taking(_invert, "device", "nearest_interp", "orig_keys", "post_func", "to_tensor", "transform", *_META),
    "KeepLargestConnectedComponentd": taking(
        _largest, "applied_labels", "connectivity", "independent", "is_onehot", "num_components"
    ),
    "LabelFilterd": taking(_filter_labels, "applied_labels"),
    "Lambdad": taking(_lambda, "func", "overwrite"),
    "MapLabelValued": taking(_map_labels, "dtype", "orig_labels", "target_labels"),
    "RemoveSmallObjectsd": taking(
        _small_objects, "by_measure", "connectivity", "independent_channels", "min_size", "pixdim"
    ),
    "VistaPostTransformd": taking(_vista3d),
    **{name: Entry(_nothing, None) for name in _WITHOUT_EFFECT},
}
