"""The network of a bundle: which one, with what arguments, and its weights out of `models/`."""

import inspect
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

import safetensors.torch
import torch

from dicomnode.importers.bundle_config import Config
from dicomnode.importers.bundle_files import BundleFiles, Json
from dicomnode.importers.bundle_values import SEPARATOR, Component, items_of, shown
from dicomnode.importers.checkpoints import read_checkpoint, tensors_of
from dicomnode.inference.networks import NETWORKS

VISTA3D = "VISTA3D"
_BY_LOWER_CASE = {name.lower(): name for name in NETWORKS}
# Other names that MONAI has, or had, for a network; in lower case, as MONAI itself has each in several spellings.
_ALIASES = {
    "mednextbase": "MedNeXtB",
    "mednextlarge": "MedNeXtL",
    "mednextmedium": "MedNeXtM",
    "mednextsmall": "MedNeXtS",
    "vista3d132": VISTA3D,
}
# Arguments that MONAI 1.6 has no more: the name that they have now, or "" where the network needs them no longer.
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "BasicUNet": {"dimensions": "spatial_dims"},
    "SwinUNETR": {"img_size": ""},
    "UNETR": {"pos_embed": "proj_type"},
    "UNet": {"dimensions": "spatial_dims"},
}
_WEIGHTS_UNDER = ("model", "state_dict", "network_weights", "net")
_UNUSED_OF_VISTA3D = "point_head."  # the head for points
_MOST_ITEMS = 10_000

# Constructors check their arguments each in its own way, or by failing in arithmetic on them.
_OF_CONSTRUCTORS = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class BundleNetwork:
    """A network of the table, and where in the bundle it stands."""

    component: Component
    name: str
    arguments: Mapping[str, Json]
    in_channels: int
    out_channels: int
    prompts: tuple[int, ...] = ()  # VISTA3D: the classes that it is asked for


def network_of(config: Config) -> BundleNetwork:
    """The network that the config names, with the arguments that MONAI 1.6 knows it by.

    Raises:
        ModelError: it is not one of the table, or its arguments cannot be used.
    """
    component = _component(config)
    name = network_name(component.name)
    if not name:
        known = ", ".join(sorted(NETWORKS))
        raise component.error(f"expected one of the networks {known}; found {shown(component.target)}")
    arguments = _arguments(component, name)
    if arguments.get("spatial_dims", 3) != 3:
        raise component.error(f"expected 3, found {arguments['spatial_dims']}", "spatial_dims")
    if name == VISTA3D:
        return _vista3d(component, config, arguments)
    channels, classes = (_channels(component, name, arguments, key) for key in ("in_channels", "out_channels"))
    return BundleNetwork(component, name, arguments, channels, classes)


def network_name(name: str) -> str:
    """What the table calls a network that MONAI has under several names; "" if it is not in the table."""
    return _ALIASES.get(name.lower()) or _BY_LOWER_CASE.get(name.lower(), "")


def _component(config: Config) -> Component:
    """What the evaluator runs, or by MONAI's convention `network` or `network_def`."""
    places = (f"evaluator{SEPARATOR}network", "network", "network_def")
    key = next((place for place in places if config.has(place)), places[-1])
    found = config.value(key)
    if not isinstance(found, Component):
        raise config.error(key, f"expected a network, found {shown(found)}")
    return found


def _arguments(component: Component, name: str) -> dict[str, Json]:
    found: dict[str, Json] = {}
    parameters = inspect.signature(NETWORKS[name]).parameters
    for written in component.arguments:
        current = _RENAMED.get(name, {}).get(written, written)
        if not current:
            continue
        value = _plain(component, written, component.get(written))
        if value is not None:
            found[current] = value
        elif current in parameters and parameters[current].default is not None:
            raise component.error(f"expected a value, found null; {name} has a default that differs", written)
    return found


def _plain(component: Component, name: str, value: object, most: int = _MOST_ITEMS) -> Json:
    """Numbers, text, lists and tables, as a manifest can hold them."""
    if most <= 0:
        raise component.error(f"expected at most {_MOST_ITEMS} values, found more", name)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(component, name, item, most // max(len(items_of(value)), 1)) for item in items_of(value)]
    if isinstance(value, dict):
        table = cast("Mapping[object, object]", value)
        return {str(key): _plain(component, name, item, most // len(table)) for key, item in table.items()}
    raise component.error(f"expected numbers, text, lists and tables, found {shown(value)}", name)


def _channels(component: Component, name: str, arguments: Mapping[str, Json], key: str) -> int:
    parameter = inspect.signature(NETWORKS[name]).parameters.get(key)
    value = arguments.get(key, parameter.default if parameter else None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise component.error(f"expected a whole number above 0, found {shown(value)}", key)
    return value


def _vista3d(component: Component, config: Config, arguments: dict[str, Json]) -> BundleNetwork:
    """VISTA3D with its class prompts: all that the bundle segments when nobody names any, or those that it names."""
    prompts = _prompts(config)
    in_channels = _channels(component, VISTA3D, arguments, "in_channels")
    arguments = {**arguments, "classes": list(prompts)}
    return BundleNetwork(component, VISTA3D, arguments, in_channels, 1 + len(prompts), prompts)


def _prompts(config: Config) -> tuple[int, ...]:
    places = (
        SEPARATOR.join(("evaluator", "hyper_kwargs", "everything_labels")),
        "everything_labels",
        SEPARATOR.join(("input_dict", "label_prompt")),
        "input_dict",
    )
    key = next((place for place in places if config.has(place)), places[1])
    value = config.value(key)
    if isinstance(value, dict):
        value = cast("Mapping[str, object]", value).get("label_prompt")
    found = [index for index in items_of(value) if isinstance(index, int)]
    if not found or len(found) != len(items_of(value)):
        raise config.error(key, f"expected the classes to segment as whole numbers, found {shown(value)}")
    return tuple(dict.fromkeys(index for named in found for index in _parts(config, named)))


def _parts(config: Config, prompt: int) -> Sequence[int]:
    """What a prompt stands for: VistaPreTransformd's `subclass` names the parts of some."""
    if not config.has("subclass"):
        return [prompt]
    subclass = config.value("subclass")
    parts = cast("Mapping[str, object]", subclass).get(str(prompt)) if isinstance(subclass, dict) else None
    return [index for index in items_of(parts) if isinstance(index, int)] or [prompt]


def with_prompts(network: BundleNetwork, prompts: Sequence[int]) -> BundleNetwork:
    """VISTA3D asked for other classes."""
    arguments = {**network.arguments, "classes": list(prompts)}
    return replace(network, arguments=arguments, out_channels=1 + len(prompts), prompts=tuple(prompts))


def weights_name(files: BundleFiles, config: Config) -> str:
    """The file in models/ that the config loads, or models/model.pt, or models/model.ts.

    Raises:
        ModelError: it is not there.
    """
    key = _load_path_key(config)
    if key:
        value = config.value(key)
        name = f"models/{PurePosixPath(str(value)).name}"
        if name in files.names:
            return name
        if "models/model.ts" not in files.names:
            raise config.error(key, f"expected the file {name} in the bundle, found none; fetch its large files")
    for name in ("models/model.pt", "models/model.ts"):
        if name in files.names:
            return name
    raise config.error("checkpointloader", "expected models/model.pt or models/model.ts, found neither")


def _load_path_key(config: Config) -> str:
    """Of the component that loads weights: `checkpointloader`, or one of the handlers."""
    handlers = config.root.get("handlers")
    count = len(handlers) if isinstance(handlers, list) else 0
    places = ["checkpointloader", *(f"handlers{SEPARATOR}{index}" for index in range(count))]
    loads = (f"{place}{SEPARATOR}load_path" for place in places)
    return next((key for key in loads if config.has(key)), "")


def safe_weights(files: BundleFiles, name: str, network: BundleNetwork) -> bytes:
    """The weights of a checkpoint as safetensors, each tensor of the network's own name and shape.

    Raises:
        ModelError: the checkpoint holds code, is damaged, or is of another network.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = files.path / name
        if files.path.is_file():
            path = Path(folder) / "model.pt"
            path.write_bytes(files.read(name))
        state = _state(read_checkpoint(path), network, name)
        return safetensors.torch.save(_checked(state, network, name))


def _state(content: Mapping[str, object], network: BundleNetwork, source: str) -> dict[str, torch.Tensor]:
    """The tensors, wherever the checkpoint keeps them, by their names in the network."""
    key = next((key for key in _WEIGHTS_UNDER if isinstance(content.get(key), Mapping)), "")
    place = f"{source}: {key}" if key else source
    state = tensors_of(content[key] if key else content, place)
    if all(name.startswith("module.") for name in state):  # trained on several devices
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if network.name == VISTA3D:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED_OF_VISTA3D)}
    return state


def _checked(state: dict[str, torch.Tensor], network: BundleNetwork, source: str) -> dict[str, torch.Tensor]:
    try:
        built = NETWORKS[network.name](**network.arguments)
    except _OF_CONSTRUCTORS as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise network.component.error(f"expected arguments that {network.name} takes; {problem}") from error
    try:
        built.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch's class for missing, unexpected and misshapen tensors
        problem = " ".join(str(error).split())[:400]
        raise network.component.error(f"expected in {source} the tensors of {network.name}: {problem}") from error
    return {name: tensor.detach().clone().contiguous() for name, tensor in built.state_dict().items()}
