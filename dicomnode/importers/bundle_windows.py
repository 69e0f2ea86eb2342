"""A bundle's `inferer` -> how the volume goes through the network."""

from collections.abc import Callable, Mapping, Sequence

from dicomnode.importers.bundle_values import Component, shown
from dicomnode.models.before import BeforeStep, Pad
from dicomnode.models.stages import Windows

# Where and how many windows are computed at a time: the node decides that itself.
_PLACES = frozenset({"buffer_dim", "buffer_steps", "cache_roi_weight_map", "cpu_thresh", "device", "progress"})
_SLIDING = frozenset({"cval", "mode", "overlap", "padding_mode", "roi_size", "sigma_scale"})
_IGNORED = _PLACES | {"sw_batch_size", "sw_device"}


def windows_of(inferer: Component, before: Sequence[BeforeStep]) -> Windows:
    """The windows that the inferer would take.

    Raises:
        ModelError: the inferer, or one of its arguments, is unknown or cannot be expressed.
    """
    known = INFERERS.get(inferer.name)
    if known is None:
        raise inferer.error(f"expected one of {', '.join(sorted(INFERERS))}; found {shown(inferer.target)}")
    try:
        return known(inferer, before)
    except ValueError as error:  # pydantic's is one
        problem = " ".join(str(error).split())[:300]
        raise inferer.error(f"expected windows that docs/models.md allows: {problem}") from error


def _sliding(inferer: Component, before: Sequence[BeforeStep]) -> Windows:
    del before
    inferer.only(_SLIDING | _IGNORED)
    mode = str(inferer.get("mode", "constant"))
    inferer.must_be("mode", ["constant", "gaussian"])
    sigma = inferer.number("sigma_scale", 0.125)
    values = {"overlap": inferer.number("overlap", 0.25), "blending": mode, "sigma": sigma}
    return Windows.model_validate({"patch": _patch(inferer), "pad_value": _beside(inferer), **values})


def _patch(inferer: Component) -> list[int]:
    sizes = inferer.numbers("roi_size")
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or any(size <= 0 or not size.is_integer() for size in sizes):
        raise inferer.error(f"expected three whole numbers above 0, found {sizes}", "roi_size")
    return [int(size) for size in sizes]


def _beside(inferer: Component) -> float | str:
    """The value of voxels beside a volume that is smaller than a window."""
    match inferer.get("padding_mode", "constant"):
        case "constant":
            return inferer.number("cval", 0.0)
        case "replicate":
            return "edge"
        case other:
            raise inferer.error(f"expected 'constant' or 'replicate', found {shown(other)}", "padding_mode")


def _simple(inferer: Component, before: Sequence[BeforeStep]) -> Windows:
    """The whole volume at once; should memory be short, windows are made of what it was padded to multiples of."""
    inferer.only(frozenset())
    multiple = next((step.multiple for step in reversed(before) if isinstance(step, Pad)), 1)
    return Windows(patch="whole", multiple=multiple)


def _vista3d(inferer: Component, before: Sequence[BeforeStep]) -> Windows:
    """The inferer of the published VISTA3D bundle, where it is asked for classes and not for points.

    Since the bundle's 0.5.7 it takes MONAI's own overlap and constant weights, and not the `overlap` of the config, and
    repeats the outermost voxel. Early ones, told by their argument `use_cfp`, took the config's overlap and a Gaussian.
    """
    del before
    inferer.only(frozenset({"overlap", "roi_size", "sw_batch_size", "use_cfp", "use_point_window"}))
    if "use_cfp" in inferer.arguments:
        overlap = inferer.number("overlap", 0.25)
        return Windows.model_validate({"patch": _patch(inferer), "overlap": overlap, "blending": "gaussian"})
    values = {"overlap": 0.25, "blending": "constant", "pad_value": "edge"}
    return Windows.model_validate({"patch": _patch(inferer), **values})


INFERERS: Mapping[str, Callable[[Component, Sequence[BeforeStep]], Windows]] = {
    "SimpleInferer": _simple,
    "SlidingWindowInferer": _sliding,
    "SlidingWindowInfererAdapt": _sliding,  # the same windows, on another device when memory is short
    "scripts.inferer.Vista3dInferer": _vista3d,  # known by its name: no bundle's own code is looked at
}
