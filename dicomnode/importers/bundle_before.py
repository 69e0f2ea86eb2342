"""Transforms of a bundle's `preprocessing` -> steps `before` of a stage: one function and one line of a table each."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from dicomnode.importers.bundle_table import Entry, taking
from dicomnode.importers.bundle_values import Component, Formula, Word, items_of, shown
from dicomnode.models import before
from dicomnode.models.before import BeforeStep

_COMMON = frozenset({"keys", "allow_missing_keys", "lazy"})
_Step = TypeVar("_Step", bound=BeforeStep)


@dataclass(frozen=True, slots=True)
class Input:
    """What the transforms work on."""

    channels: int
    image_key: str
    made_for: tuple[int, ...] = ()  # version of MONAI; empty: not known


Translate = Callable[[Component, Input], Sequence[BeforeStep]]


def steps_before(transforms: Sequence[Component], channels: int, made_for: tuple[int, ...] = ()) -> list[BeforeStep]:
    """The steps that do what the transforms do, in their order.

    Raises:
        ModelError: names the transform, and the argument, that no step can do.
    """
    source = Input(channels, _image_key(transforms), made_for)
    steps = [step for transform in transforms for step in _translated(transform, source)]
    moving = [step for step in steps if isinstance(step, before.Orient | before.Resample | before.Pad)]
    if not moving or not isinstance(moving[0], before.Orient):
        steps.insert(0, before.Orient(step="orient", axes=before.AS_READ))
    return steps


def _image_key(transforms: Sequence[Component]) -> str:
    """What the first transform loads is the image."""
    for transform in transforms:
        for key in items_of(transform.get("keys")):
            return str(key)
    return "image"


def dictionary_name(name: str) -> str:
    """MONAI has each transform of dictionaries under three names: Orientationd, OrientationD, OrientationDict."""
    return name.removesuffix("Dict") + "d" if name.endswith("Dict") else name[:-1] + "d" if name[-1:] == "D" else name


def _translated(transform: Component, source: Input) -> Sequence[BeforeStep]:
    known = TRANSFORMS.get(dictionary_name(transform.name))
    if known is None:
        raise transform.error(f"expected one of {', '.join(sorted(TRANSFORMS))}; found {shown(transform.target)}")
    keys = [str(key) for key in items_of(transform.get("keys"))]
    if keys != [source.image_key]:
        raise transform.error(f"expected the one key {source.image_key!r}, found {keys}", "keys")
    transform.must_be("lazy", [False, None])
    if known.arguments is not None:
        transform.only(_COMMON | known.arguments)
    return known.translate(transform, source)


def _built(transform: Component, kind: type[_Step], **values: object) -> list[BeforeStep]:
    try:
        return [kind.model_validate({"step": get_args(kind.model_fields["step"].annotation)[0], **values})]
    except ValueError as error:  # pydantic's is one
        problem = " ".join(str(error).split())[:300]
        raise transform.error(f"expected values that step {kind.__name__} takes: {problem}") from error


def _nothing(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del transform, source
    return []


def _orientation(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del source
    transform.must_be("as_closest_canonical", [False])
    transform.must_be("labels", [None, [["L", "R"], ["P", "A"], ["I", "S"]]])
    return _built(transform, before.Orient, axes=transform.get("axcodes"))


def _spacing(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del source
    for name in ("diagonal", "scale_extent", "recompute_affine"):
        transform.must_be(name, [False])
    for name in ("min_pixdim", "max_pixdim"):
        transform.must_be(name, [None])
    for padding in items_of(transform.get("padding_mode", "border")):
        if padding != "border":
            raise transform.error(f"expected 'border', found {shown(padding)}", "padding_mode")
    pixdim = [mm if mm > 0 else "keep" for mm in transform.numbers("pixdim")]
    spacing = [*pixdim, *[pixdim[-1]] * (3 - len(pixdim))]
    return _built(transform, before.Resample, spacing_mm=spacing, grid="monai", order=interpolation_order(transform))


def interpolation_order(transform: Component) -> int:
    """The order of the spline that Spacingd's `mode` names.

    Raises:
        ModelError: it is another than "bilinear" or "nearest".
    """
    modes = items_of(transform.get("mode", "bilinear"))
    orders = {"nearest": 0, "bilinear": 1}
    if len(modes) != 1 or modes[0] not in orders:
        raise transform.error(f"expected 'bilinear' or 'nearest', found {shown(modes)}", "mode")
    return orders[str(modes[0])]


def _scale_range(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del source
    low, high = transform.number("a_min"), transform.number("a_max")
    clip = transform.flag("clip", default=False)
    if transform.get("b_min") is None and transform.get("b_max") is None:
        if clip:
            raise transform.error("expected b_min and b_max where clip is true, found none", "clip")
        return _built(transform, before.Scale, source=(low, high), to=(0.0, 1.0), clip=False)
    to = (transform.number("b_min"), transform.number("b_max"))
    return _built(transform, before.Scale, source=(low, high), to=to, clip=clip)


def _scale_percentiles(transform: Component, source: Input) -> Sequence[BeforeStep]:
    transform.must_be("relative", [False])
    _same_for_all_channels(transform, source)
    percentiles = (transform.number("lower"), transform.number("upper"))
    to, clip = (transform.number("b_min"), transform.number("b_max")), transform.flag("clip", default=False)
    return _built(transform, before.ScalePercentiles, percentiles=percentiles, to=to, clip=clip)


def _scale_of_volume(transform: Component, source: Input) -> Sequence[BeforeStep]:
    transform.must_be("factor", [None])
    to = (transform.number("minv", 0.0), transform.number("maxv", 1.0))
    if transform.flag("channel_wise", default=False) and source.channels > 1:
        each = (_built(transform, before.ScaleOfVolume, to=to, channel=channel) for channel in range(source.channels))
        return [step for steps in each for step in steps]
    _same_for_all_channels(transform, source)
    return _built(transform, before.ScaleOfVolume, to=to)


def _same_for_all_channels(transform: Component, source: Input) -> None:
    if source.channels > 1:
        problem = f"expected one channel where its range is that of all of them, found {source.channels}"
        raise transform.error(problem, "channel_wise")


def _normalise(transform: Component, source: Input) -> Sequence[BeforeStep]:
    channel_wise = transform.flag("channel_wise", default=False)
    nonzero = transform.flag("nonzero", default=False)
    if transform.get("subtrahend") is None and transform.get("divisor") is None:
        return _built(transform, before.ZScore, over="nonzero" if nonzero else "all", per_channel=channel_wise)
    if nonzero:
        raise transform.error("expected false beside subtrahend and divisor, found true", "nonzero")
    means, deviations = transform.numbers("subtrahend"), transform.numbers("divisor")
    if len(means) != len(deviations) or len(means) != (source.channels if channel_wise else 1):
        raise transform.error(f"expected a value for each channel, found {len(means)} and {len(deviations)}")
    if not channel_wise:
        return _built(transform, before.Standardise, mean=means[0], deviation=deviations[0])
    pairs = enumerate(zip(means, deviations, strict=True))
    each = (_built(transform, before.Standardise, mean=m, deviation=d, channel=channel) for channel, (m, d) in pairs)
    return [step for steps in each for step in steps]


def _threshold(transform: Component, source: Input) -> Sequence[BeforeStep]:
    """Beside the threshold comes another value; where that is the threshold itself, values are clipped."""
    del source
    threshold, beside = transform.number("threshold"), transform.number("cval", 0.0)
    if threshold != beside:
        raise transform.error(f"expected cval {threshold}, as the threshold; found {beside}", "cval")
    lowest, highest = -3.0e38, 3.0e38
    above = transform.flag("above", default=True)
    return _built(transform, before.Clip, to=(threshold, highest) if above else (lowest, threshold))


def _crop_foreground(transform: Component, source: Input) -> Sequence[BeforeStep]:
    transform.must_be("source_key", [source.image_key])
    transform.must_be("channel_indices", [None])
    margin, multiple = transform.whole("margin", 0), transform.whole("k_divisible", 1)
    within = transform.flag("allow_smaller", default=_margin_ended_at_the_edge(source.made_for))
    beyond = multiple > 1 or (margin > 0 and not within)
    if beyond and (items_of(transform.get("mode", "constant")) != ["constant"] or transform.get("value", 0) != 0):
        raise transform.error("expected 'constant' with value 0 where the box may leave the volume", "mode")
    above = _foreground_above(transform)
    values = {"margin": margin, "margin_within": within, "multiple": multiple}
    return _built(transform, before.CropForeground, above=above, **values)


def _margin_ended_at_the_edge(made_for: tuple[int, ...]) -> bool:
    """MONAI's default for allow_smaller changed from true to false in 1.5."""
    return bool(made_for) and made_for < (1, 5)


def _foreground_above(transform: Component) -> float:
    """`select_fn`: not given, or `lambda x: x > NUMBER`."""
    chosen = transform.get("select_fn")
    if chosen is None:
        return 0.0
    if isinstance(chosen, Formula) and isinstance(chosen.tree.body, ast.Compare):
        test, names = chosen.tree.body, [argument.arg for argument in chosen.tree.args.args]
        if isinstance(test.left, ast.Name) and [test.left.id] == names and isinstance(test.ops[0], ast.Gt):
            number = _literal_number(test.comparators[0])
            if number is not None and len(test.ops) == 1:
                return number
    raise transform.error(f"expected $lambda x: x > NUMBER, found {shown(chosen)}", "select_fn")


def _literal_number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _literal_number(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return None


def _spatial_pad(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del source
    sizes = [max(int(size), 0) for size in transform.numbers("spatial_size")]
    at_least = sizes * 3 if len(sizes) == 1 else sizes
    return _built(transform, before.Pad, at_least=at_least, side=_side(transform), value=_pad_value(transform))


def _divisible_pad(transform: Component, source: Input) -> Sequence[BeforeStep]:
    del source
    multiple = transform.whole("k")
    return _built(transform, before.Pad, multiple=multiple, side=_side(transform), value=_pad_value(transform))


def _side(transform: Component) -> str:
    transform.must_be("method", ["symmetric", "end"])
    return "end" if transform.get("method") == "end" else "both"


def _pad_value(transform: Component) -> float | str:
    modes = items_of(transform.get("mode", "constant"))
    if modes in (["edge"], ["replicate"]):
        return "edge"
    if modes != ["constant"]:
        raise transform.error(f"expected 'constant' or 'edge', found {shown(modes)}", "mode")
    return transform.number("value" if "value" in transform.arguments else "constant_values", 0.0)


def _cast(transform: Component, source: Input) -> Sequence[BeforeStep]:
    """To a whole number is a cut towards zero; to a broader floating point nothing happens."""
    del source
    wanted = transform.get("dtype")
    name = wanted.name if isinstance(wanted, Word) else str(wanted)
    match name.rpartition(".")[2]:
        case "float32" | "float" | "float64" | "double":
            return []
        case "int16" | "int32" | "int64":
            return _built(transform, before.Truncate)
        case _:
            raise transform.error(f"expected float32, float64, int16, int32 or int64, found {shown(wanted)}", "dtype")


_SPACING = ("align_corners", "diagonal", "dtype", "ensure_same_shape", "max_pixdim", "meta_keys", "meta_key_postfix")
_PADDING = ("constant_values", "method", "mode", "value")

TRANSFORMS: Mapping[str, Entry[Translate]] = {
    "AddChanneld": Entry(_nothing, None),
    "CastToTyped": taking(_cast, "dtype"),
    "CropForegroundd": taking(
        _crop_foreground,
        *("allow_smaller", "channel_indices", "end_coord_key", "k_divisible", "margin", "mode", "select_fn"),
        *("source_key", "start_coord_key", "value"),
    ),
    "DivisiblePadd": taking(_divisible_pad, "k", *_PADDING),
    "EnsureChannelFirstd": Entry(_nothing, None),
    "EnsureTyped": taking(_nothing, "data_type", "device", "track_meta", "wrap_sequence"),
    "LoadImaged": Entry(_nothing, None),
    "NormalizeIntensityd": taking(_normalise, "channel_wise", "divisor", "dtype", "nonzero", "subtrahend"),
    "Orientationd": taking(_orientation, "as_closest_canonical", "axcodes", "labels", "meta_key_postfix", "meta_keys"),
    "ScaleIntensityRangePercentilesd": taking(
        _scale_percentiles, "b_max", "b_min", "channel_wise", "clip", "dtype", "lower", "relative", "upper"
    ),
    "ScaleIntensityRanged": taking(_scale_range, "a_max", "a_min", "b_max", "b_min", "clip", "dtype"),
    "ScaleIntensityd": taking(_scale_of_volume, "channel_wise", "dtype", "factor", "maxv", "minv"),
    "Spacingd": taking(
        _spacing, *_SPACING, "min_pixdim", "mode", "padding_mode", "pixdim", "recompute_affine", "scale_extent"
    ),
    "SpatialPadd": taking(_spatial_pad, "spatial_size", *_PADDING),
    "ThresholdIntensityd": taking(_threshold, "above", "cval", "threshold"),
    "ToDeviced": Entry(_nothing, None),
    "ToTensord": Entry(_nothing, None),
    "VistaPreTransformd": Entry(_nothing, None),  # it rewrites prompts: `bundle_network` does that
}
