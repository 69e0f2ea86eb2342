"""nnU-Net v2 result folders: plans, data set and the checkpoints of some folds become a package.

nnU-Net takes the array of an image file as it is stored. A node has no such files, so the package says along which axes
the training images were stored: "SPL" where they kept the order that a scanner gives an axial CT.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported, digest_of
from dicomnode.importers.licences import licence_of
from dicomnode.importers.naming import Mapped, segments_for
from dicomnode.importers.nnunet_architecture import network_of
from dicomnode.importers.nnunet_axes import StoredAxes, stored_axes
from dicomnode.importers.nnunet_folder import Fold, check_tensors, is_nnunet_folder, read_folds, result_folder
from dicomnode.importers.nnunet_labels import NnunetLabels, read_labels
from dicomnode.importers.nnunet_plans import Resampling, TrainedConfiguration, read_configuration
from dicomnode.importers.nnunet_zip import unpacked
from dicomnode.importers.totalsegmentator_tasks import catalogue
from dicomnode.models.after import AfterStep, Back
from dicomnode.models.before import (
    AddLabels,
    BeforeStep,
    Clip,
    CropNonzero,
    Orient,
    Resample,
    ScaleOfVolume,
    Standardise,
    ZScore,
)
from dicomnode.models.manifest import Input, Licence, Manifest, Origin
from dicomnode.models.stages import Network, Stage, Windows

__all__ = ["NnunetOptions", "NnunetPart", "import_nnunet", "is_nnunet_folder", "read_part"]

_ANISOTROPY = 3.0  # above which nnU-Net samples the coarse axis apart
_LEAST_DEVIATION = 1e-8
_MR_CHANNELS = ("mr", "t1", "t2", "flair", "adc", "dwi", "dce", "pd")


@dataclass(frozen=True, slots=True)
class NnunetOptions:
    """What the person who imports may say beside the folder."""

    name: str = ""  # of the model; "": data set and configuration
    version: str = "1"
    folds: tuple[str, ...] = ()  # "0" to "4" or "all"; none: every one that is there
    checkpoint: str | None = None  # file name; None: checkpoint_final.pth, else checkpoint_best.pth
    previous: Path | None = None  # of a cascade: the folder of its first stage; None: beside this one
    orientation: str | None = None  # of the training arrays; None: by the reader that the plans name
    modality: str | None = None  # None: by the names of the channels
    step: float = 0.5  # between windows, in patches (nnU-Net's tile_step_size)
    mirroring: bool = True  # along the axes that the training allows
    licence: Licence | None = None  # None: as dataset.json states it


@dataclass(frozen=True, slots=True, eq=False)
class NnunetPart:
    """One trained configuration as a stage and its networks."""

    trained: TrainedConfiguration
    labels: NnunetLabels
    stage: Stage
    networks: Mapping[str, Network]
    folds: Sequence[Fold]
    files: Mapping[str, bytes]


def import_nnunet(path: Path, mapped: Mapped, template: Path, options: NnunetOptions | None = None) -> Imported:
    """A result folder as a package.

    Args:
        path: the folder with plans.json, or a folder or .zip that holds just one such.
        mapped: codes of labels, beside those of our table.
        template: where a mapping file is written if labels have no code.
        options: what is not in the folder.

    Raises:
        ModelError: names the file and key of what is missing, dangerous, contradictory or unknown, and what to do.
    """
    with unpacked(path) as place:
        return _imported(result_folder(place), mapped, template, options or NnunetOptions())


def _imported(folder: Path, mapped: Mapped, template: Path, options: NnunetOptions) -> Imported:
    last = read_part(folder, options)
    trained, parts = last.trained, [last]
    _refuse_totalsegmentator(trained)
    stored = stored_axes(trained, options.orientation)
    if previous := trained.configuration.previous_stage:
        first = read_part(_previous_folder(folder, previous, options), options)
        _check_cascade(first, last)
        parts.insert(0, replace(first, stage=first.stage.model_copy(update={"writes": "nothing"})))
    segments = segments_for(last.labels.structures, mapped, template)
    files = {name: content for part in parts for name, content in part.files.items()}
    manifest = Manifest(
        format=2,
        name=options.name or _name(trained),
        version=options.version,
        title=_title(trained),
        licence=options.licence or licence_of((trained.dataset.licence or "").strip()),
        intended_use="Not stated by those who trained it; not for diagnostic use.",
        diagnostic=False,
        provenance=_provenance(parts, stored),
        origin=Origin(kind="nnunet", files=_origin(parts)),
        digests={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        input=Input(modalities=(options.modality or _modality(trained),), images=len(trained.dataset.channels)),
        networks={name: network for part in parts for name, network in part.networks.items()},
        stages=tuple(part.stage for part in parts),
        segments=segments,
    )
    return Imported(manifest, files, stored.notes)


def _refuse_totalsegmentator(trained: TrainedConfiguration) -> None:
    """Its program does more around nnU-Net, and its licences are not in the folder."""
    name = trained.plans.dataset_name
    if name in {dataset.folder for dataset in catalogue().datasets.values()}:
        problem = (
            f"these are TotalSegmentator's weights; name the folder above {name}, which has to be called so, and --task"
        )
        raise ModelError(f"{trained.plans_file}: dataset_name: {problem}")


def read_part(folder: Path, options: NnunetOptions) -> NnunetPart:
    """One result folder as a stage, its networks and their files; a cascade's second stage looks at its first by name.

    Raises:
        ModelError: names the file and key of what is missing, dangerous, contradictory or unknown.
    """
    folds = read_folds(folder, options.folds, options.checkpoint)
    trained = read_configuration(folder, folds[0].configuration)
    labels = read_labels(trained.dataset, folder / "dataset.json")
    network = _network(trained, labels, folds[0])
    names = {fold: f"{trained.name}-fold-{fold.name}" for fold in folds}
    for fold in folds:
        check_tensors(fold, network, f"{trained.plans_file}: configurations.{trained.name}")
    networks = {name: network.model_copy(update={"file": f"{name}.safetensors"}) for name in names.values()}
    files = {f"{name}.safetensors": _encoded(fold) for fold, name in names.items()}
    return NnunetPart(
        trained, labels, _stage(trained, labels, folds[0], options, tuple(networks)), networks, folds, files
    )


def _encoded(fold: Fold) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in fold.tensors.items()})


def _network(trained: TrainedConfiguration, labels: NnunetLabels, fold: Fold) -> Network:
    name, arguments = network_of(trained, fold.trainer)
    of_cascade = len(labels.foreground) if trained.configuration.previous_stage else 0
    return Network(
        runner="nnunet",
        name=name,
        arguments=arguments,
        dimensions=2 if len(trained.configuration.patch_size) == 2 else 3,
        in_channels=len(trained.dataset.channels) + of_cascade,
        out_channels=labels.outputs,
    )


def _stage(
    trained: TrainedConfiguration, labels: NnunetLabels, fold: Fold, options: NnunetOptions, networks: tuple[str, ...]
) -> Stage:
    configuration = trained.configuration
    kwargs, is_torch = configuration.resampling_fn_data_kwargs, configuration.resampling_fn_data == _TORCH_RESAMPLING
    spacing = configuration.spacing if len(configuration.spacing) == 3 else ("keep", *configuration.spacing)
    resample = Resample(
        step="resample",
        spacing_mm=spacing,  # pyright: ignore[reportArgumentType] # two or three numbers: checked with the plans
        grid="centres",
        order=1 if is_torch else kwargs.order,  # pyright: ignore[reportArgumentType] # 0 to 3: checked with the plans
        apart_above=_apart(kwargs),
        apart_order=0 if is_torch else kwargs.order_z,  # pyright: ignore[reportArgumentType]
    )
    before: list[BeforeStep] = [
        Orient(step="orient", axes=_axes(trained, options)),
        CropNonzero(step="crop-nonzero"),
        *_normalisation(trained),
        resample,
    ]
    if previous := configuration.previous_stage:
        before.append(AddLabels(step="add-labels", stage=previous, labels=labels.foreground))
    return Stage(
        name=trained.name,
        networks=networks,
        before=tuple(before),
        windows=_windows(trained, fold, options),
        after=(_back(trained), *labels.steps),
    )


_TORCH_RESAMPLING = "resample_torch_fornnunet"


def _apart(kwargs: Resampling) -> float | None:
    return None if kwargs.force_separate_z is False else _ANISOTROPY


def _back(trained: TrainedConfiguration) -> AfterStep:
    configuration = trained.configuration
    kwargs = configuration.resampling_fn_probabilities_kwargs
    if configuration.resampling_fn_probabilities == _TORCH_RESAMPLING:
        return Back(step="back", order=1, apart_above=_apart(kwargs), apart_order=0)
    order, apart_order = kwargs.order, kwargs.order_z
    return Back(step="back", order=order, apart_above=_apart(kwargs), apart_order=apart_order, halves=True)  # pyright: ignore[reportArgumentType]


def _windows(trained: TrainedConfiguration, fold: Fold, options: NnunetOptions) -> Windows:
    patch = trained.configuration.patch_size
    if not 0 < options.step <= 1:
        raise ModelError(f"step: expected more than 0 and up to 1, found {options.step}")
    if any(axis >= len(patch) for axis in fold.mirror_axes):
        problem = f"expected axes of a patch of {len(patch)}, found {list(fold.mirror_axes)}"
        raise ModelError(f"{fold.path}: inference_allowed_mirroring_axes: {problem}")
    mirror = tuple(axis + 3 - len(patch) for axis in fold.mirror_axes) if options.mirroring else ()
    return Windows(patch=patch, overlap=round(1 - options.step, 12), style="nnunet", mirror_axes=mirror)


def _axes(trained: TrainedConfiguration, options: NnunetOptions) -> str:
    """The axes of the network: those of the array as stored, turned by transpose_forward."""
    stored = stored_axes(trained, options.orientation)
    return "".join(stored.axes[axis] for axis in trained.plans.transpose_forward)


def _normalisation(trained: TrainedConfiguration) -> list[BeforeStep]:
    schemes, masks = trained.configuration.normalization_schemes, trained.configuration.use_mask_for_norm
    if set(schemes) == {"ZScoreNormalization"} and len(set(masks)) == 1:
        return [ZScore(step="z-score", over="body" if masks[0] else "all")]
    steps: list[BeforeStep] = []
    for channel, (scheme, masked) in enumerate(zip(schemes, masks, strict=True)):
        steps.extend(_of_channel(trained, channel if len(schemes) > 1 else None, scheme, masked=masked))
    return steps


def _of_channel(
    trained: TrainedConfiguration, channel: int | None, scheme: str, *, masked: bool
) -> Sequence[BeforeStep]:
    match scheme:
        case "CTNormalization":
            known = trained.plans.intensities[str(channel or 0)]
            if known.percentile_00_5 >= known.percentile_99_5:
                key = f"foreground_intensity_properties_per_channel.{channel or 0}"
                found = f"{known.percentile_00_5} and {known.percentile_99_5}"
                raise ModelError(f"{trained.plans_file}: {key}: expected percentiles that ascend, found {found}")
            return (
                Clip(step="clip", to=(known.percentile_00_5, known.percentile_99_5), channel=channel),
                Standardise(
                    step="standardise", mean=known.mean, deviation=max(known.std, _LEAST_DEVIATION), channel=channel
                ),
            )
        case "ZScoreNormalization":
            return (ZScore(step="z-score", over="body" if masked else "all", channel=channel),)
        case "RescaleTo01Normalization":
            return (ScaleOfVolume(step="scale-of-volume", channel=channel),)
        case "RGBTo01Normalization":
            return (Standardise(step="standardise", mean=0.0, deviation=255.0, channel=channel),)
        case _:  # NoNormalization; others are refused with the plans
            return ()


def _previous_folder(folder: Path, previous: str, options: NnunetOptions) -> Path:
    """Where the first stage of a cascade is: as said, else under its usual name beside the second."""
    if options.previous:
        return result_folder(options.previous)
    beside = folder.parent / f"{folder.name.rpartition('__')[0]}__{previous}"
    if not is_nnunet_folder(beside):
        problem = f"expected the folder of the first stage, {previous}, at {beside}; found none"
        raise ModelError(
            f"{folder}: previous_stage: {problem}; both folders of a cascade are needed, name the other one"
        )
    return result_folder(beside)


def _check_cascade(first: NnunetPart, last: NnunetPart) -> None:
    wanted, found = last.trained.configuration.previous_stage, first.trained.name
    if wanted != found:
        raise last.trained.error("previous_stage", f"expected the folder of {wanted!r}, found one of {found!r}")
    if first.trained.dataset.labels != last.trained.dataset.labels:
        path = first.trained.plans_file.parent / "dataset.json"
        raise ModelError(f"{path}: labels: expected those of the second stage, found others")


def _modality(trained: TrainedConfiguration) -> str:
    names = [name.lower() for name in trained.dataset.channels]
    if all(name == "ct" for name in names):
        return "CT"
    if all(name.startswith(_MR_CHANNELS) for name in names):
        return "MR"
    path = trained.plans_file.parent / "dataset.json"
    raise ModelError(f"{path}: channel_names: expected CT or MR sequences, found {names}; name the modality")


def _name(trained: TrainedConfiguration) -> str:
    wanted = f"{trained.plans.dataset_name}-{trained.name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:64] or "nnunet"


def _title(trained: TrainedConfiguration) -> str:
    title = f"{trained.plans.dataset_name} {trained.name} (nnU-Net v2)"
    return re.sub(r"[\\\x00-\x1f]", " ", title)[:64]


def _provenance(parts: Sequence[NnunetPart], stored: StoredAxes) -> str:
    trainings = [
        f"{part.trained.name} by {part.folds[0].trainer} with {part.trained.plans.plans_name}, "
        f"folds {', '.join(fold.name for fold in part.folds)}"
        for part in parts
    ]
    described = "; ".join((*trainings, f"{stored.sentence}, {stored.reason}"))
    return f"nnU-Net v2, {parts[-1].trained.plans.dataset_name}: {described}."


def _origin(parts: Sequence[NnunetPart]) -> dict[str, str]:
    files: dict[str, str] = {}
    for part in parts:
        folder = part.trained.plans_file.parent
        for path in (folder / "plans.json", folder / "dataset.json", *(fold.path for fold in part.folds)):
            files[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = digest_of(path)
    return files
