"""MONAI bundles: a folder or .zip with configs/inference.json, configs/metadata.json and models/model.pt or model.ts.

A bundle's config is a program: it names classes and holds expressions. Here it is read as data, by tables: what stands
in them becomes a manifest, and what does not is refused by its key. Nothing of a bundle is imported, called or run.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dicomnode.errors import ModelError
from dicomnode.importers.bundle_after import TRANSFORMS as AFTER
from dicomnode.importers.bundle_after import Output, steps_after
from dicomnode.importers.bundle_before import TRANSFORMS as BEFORE
from dicomnode.importers.bundle_before import dictionary_name, steps_before
from dicomnode.importers.bundle_config import Config, read_config
from dicomnode.importers.bundle_files import BundleFiles, is_bundle, open_bundle
from dicomnode.importers.bundle_metadata import Metadata, read_licence, read_metadata
from dicomnode.importers.bundle_network import (
    VISTA3D,
    BundleNetwork,
    network_name,
    network_of,
    safe_weights,
    weights_name,
    with_prompts,
)
from dicomnode.importers.bundle_structures import structures_of
from dicomnode.importers.bundle_values import SEPARATOR, Component, items_of, shown
from dicomnode.importers.bundle_windows import INFERERS, windows_of
from dicomnode.importers.imported import Imported
from dicomnode.importers.naming import Mapped, segments_for
from dicomnode.models.manifest import Input, Manifest, Origin
from dicomnode.models.stages import Network, Stage

_SAFETENSORS, _TORCHSCRIPT = "weights.safetensors", "model.ts"

# Components that only feed, watch or drive the inference: the node does that itself.
_AROUND = frozenset(
    {
        *("CacheDataset", "DataLoader", "Dataset", "PersistentDataset", "ThreadDataLoader", "torch.device"),
        *("CheckpointLoader", "StatsHandler", "TensorBoardStatsHandler", "SupervisedEvaluator"),
        "Compose",
        "scripts.evaluator.Vista3dEvaluator",
    }
)
_OF_COMPOSE = frozenset({"transforms", "lazy", "log_stats", "map_items", "overrides", "unpack_items"})


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What the person who imports may say beside the bundle."""

    name: str = ""  # of the model; "": that of the folder
    configs: tuple[str, ...] = ("inference",)  # stems in configs/, each laid over those before it
    prompts: tuple[int, ...] = ()  # VISTA3D: the classes to segment; none: those of the bundle


def is_monai_bundle(path: Path) -> bool:
    """Whether `path` is a folder or .zip with a MONAI bundle."""
    return is_bundle(path)


def import_monai_bundle(path: Path, mapped: Mapped, template: Path, options: BundleOptions | None = None) -> Imported:
    """A bundle as a package.

    Args:
        path: folder or .zip.
        mapped: codes of labels, beside those of our table.
        template: where a mapping file is written if labels have no code.
        options: what is not in the bundle.

    Raises:
        ModelError: names the file and key of what is missing, dangerous or cannot be expressed, and what to do.
    """
    options = options or BundleOptions()
    files = open_bundle(path)
    _refuse_code(files)
    metadata = read_metadata(files)
    first, *others = options.configs
    config = read_config(files, [files.config_name(first), *(files.config_name(stem) for stem in others)])
    _check_targets(config)
    network = network_of(config)
    if options.prompts:
        _check_prompts(network, path)
        network = with_prompts(network, options.prompts)
    metadata.check_channels(network)
    weights = weights_name(files, config)
    _check_weights(network, path, weights)
    stage = _stage(config, network, metadata)
    structures = structures_of(metadata.names, network.prompts, stage.after, network.out_channels)
    segments = segments_for(structures, mapped, template)
    stored = _stored(files, weights, network)
    (file,) = stored
    tables = {
        **_described(files, metadata, options),
        "origin": _origin(files, weights, options),
        "digests": {name: hashlib.sha256(content).hexdigest() for name, content in stored.items()},
        "input": Input(modalities=(metadata.modality,), images=network.in_channels),
        "networks": {"main": _network(network, file)},
        "stages": (stage,),
        "segments": segments,
    }
    return Imported(_manifest(tables, path), stored)


def _manifest(tables: Mapping[str, object], path: Path) -> Manifest:
    try:
        return Manifest.model_validate(tables)
    except ValueError as error:  # pydantic's is one
        raise ModelError(f"{path}: {' '.join(str(error).split())[:400]}") from error


def _refuse_code(files: BundleFiles) -> None:
    scripts = sorted(name for name in files.names if name.startswith("scripts/") and name.endswith(".py"))
    if scripts:
        raise ModelError(
            f"{files.path}: scripts/: expected a bundle without code of its own, found {len(scripts)} Python files "
            f"({scripts[0]}, ...), which the node never runs; if inference.json needs none of them, import a copy of "
            f"the bundle without scripts/"
        )


def _check_prompts(network: BundleNetwork, path: Path) -> None:
    if network.name != VISTA3D:
        problem = f"expected a bundle of VISTA3D, found one of {network.name}"
        raise ModelError(f"{path}: prompts: {problem}, which segments what it was trained for; import it without them")


def _check_weights(network: BundleNetwork, path: Path, weights: str) -> None:
    """A program of VISTA3D wants prompts beside the image with every call, which the node does not give."""
    if network.name == VISTA3D and weights.endswith(".ts"):
        raise ModelError(f"{path}: expected the weights of {VISTA3D} as models/model.pt, found the program {weights}")


def _check_targets(config: Config) -> None:
    """Refuse components that no table knows, wherever they stand: one that is not understood may change results."""
    for key, target in config.targets():
        if not _is_known(target.rpartition(".")[2] if target.startswith("monai.") else target):
            problem = f"expected a component that docs/models.md lists, found {shown(target)}"
            raise config.error(f"{key}{SEPARATOR}_target_", f"{problem}; the node runs no other code")


def _is_known(name: str) -> bool:
    transform = dictionary_name(name)
    return name in _AROUND or name in INFERERS or transform in BEFORE or transform in AFTER or bool(network_name(name))


def _stage(config: Config, network: BundleNetwork, metadata: Metadata) -> Stage:
    """What happens around the network, by the components that the evaluator is given."""
    preprocessing = _used(config, "dataset", "transform", "preprocessing")
    inferer = _used(config, "evaluator", "inferer", "inferer")
    postprocessing = _used(config, "evaluator", "postprocessing", "postprocessing")
    before = steps_before(_transforms(preprocessing), network.in_channels, metadata.version("monai_version"))
    output = Output(network.out_channels, before, preprocessing.key, network.prompts)
    return Stage(
        networks=("main",),
        before=tuple(before),
        windows=windows_of(inferer, before),
        after=steps_after(postprocessing, _transforms(postprocessing), output),
    )


def _used(config: Config, user: str, argument: str, convention: str) -> Component:
    """What a component of the config is given as an argument, else what stands at the key that MONAI uses for it."""
    given = f"{user}{SEPARATOR}{argument}"
    key = given if config.has(given) else convention
    found = config.value(key)
    if not isinstance(found, Component):
        raise config.error(key, f"expected a component, found {shown(found)}")
    return found


def _transforms(compose: Component) -> list[Component]:
    """The transforms of a Compose, and of those within it, in order."""
    if compose.name != "Compose":
        return [compose]
    compose.only(_OF_COMPOSE)
    for name in ("lazy", "overrides"):  # resampling once for several transforms gives other voxels
        compose.must_be(name, [None, False])
    found: list[Component] = []
    for item in items_of(compose.get("transforms")):
        if not isinstance(item, Component):
            raise compose.error(f"expected transforms, found {shown(item)}", "transforms")
        found.extend(_transforms(item))
    return found


def _stored(files: BundleFiles, weights: str, network: BundleNetwork) -> dict[str, bytes]:
    if weights.endswith(".ts"):
        return {_TORCHSCRIPT: files.read(weights)}
    return {_SAFETENSORS: safe_weights(files, weights, network)}


def _network(network: BundleNetwork, file: str) -> Network:
    scripted = file == _TORCHSCRIPT
    return Network(
        runner="torchscript" if scripted else "monai",
        name="forward" if scripted else network.name,
        arguments={} if scripted else network.arguments,
        file=file,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
    )


def _described(files: BundleFiles, metadata: Metadata, options: BundleOptions) -> dict[str, object]:
    """What the package says about itself."""
    name = options.name or re.sub(r"[^A-Za-z0-9._-]+", "-", _folder_name(files)).strip("-._")[:64]
    title = metadata.text("name") or metadata.text("task") or name
    sources = (metadata.text("authors"), metadata.text("copyright"), metadata.text("data_source"))
    return {
        "format": 2,
        "name": name or "monai-bundle",
        "version": _printable(metadata.text("version") or "0", 64),
        "title": _printable(title, 64),
        "licence": read_licence(files, metadata),
        "intended_use": metadata.text("intended_use") or "Not stated by the bundle.",
        "diagnostic": False,
        "provenance": ". ".join(part.rstrip(".") for part in ("MONAI bundle", *sources) if part) + ".",
    }


def _folder_name(files: BundleFiles) -> str:
    inside = files.root.rstrip("/")
    return PurePosixPath(inside).name if inside else files.path.resolve().stem


def _printable(text: str, most: int) -> str:
    """Text that a DICOM attribute of VR LO can hold (PS3.5 6.2)."""
    return re.sub(r"[\\\x00-\x1f]", " ", text)[:most].strip() or "-"


def _origin(files: BundleFiles, weights: str, options: BundleOptions) -> Origin:
    configs = [files.config_name(stem) for stem in ("metadata", *options.configs)]
    digests = {name: hashlib.sha256(files.read(name)).hexdigest() for name in (*configs, weights)}
    return Origin(kind="monai-bundle", files=digests)
