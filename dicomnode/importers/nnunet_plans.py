"""plans.json and dataset.json of nnU-Net v2, old and new, checked against each other before they are believed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dicomnode.errors import ModelError

_MOST_JSON_BYTES = 64 << 20  # plans of a large data set hold a fingerprint
_DEEPEST_INHERITANCE = 8
_RESAMPLING = ("resample_data_or_seg_to_shape", "resample_torch_fornnunet")

Count = Annotated[int, Field(ge=1, le=1024)]
Millimetres = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Scheme = Literal[
    "CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"
]


class _Json(BaseModel):
    """What is read of a file that holds more than we need."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Intensities(_Json):
    """Of one channel, over the training cases."""

    mean: Number
    std: Number
    percentile_00_5: Number
    percentile_99_5: Number


class Resampling(_Json):
    """Arguments of a resampling function."""

    order: Annotated[int, Field(ge=0, le=3)] = 3
    order_z: Annotated[int, Field(ge=0, le=3)] = 0
    force_separate_z: Literal[False] | None = False
    mode: Literal["linear"] = "linear"  # these two are of the torch function
    aniso_axis_mode: Literal["nearest-exact"] = "nearest-exact"


class Configuration(_Json):
    """One entry of `configurations`, what it inherits filled in."""

    patch_size: tuple[Count, Count] | tuple[Count, Count, Count]
    spacing: tuple[Millimetres, ...]
    normalization_schemes: tuple[Scheme, ...]
    use_mask_for_norm: tuple[bool, ...]
    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    resampling_fn_data: Literal["resample_data_or_seg_to_shape", "resample_torch_fornnunet"] = _RESAMPLING[0]
    resampling_fn_data_kwargs: Resampling = Resampling()
    resampling_fn_probabilities: Literal["resample_data_or_seg_to_shape", "resample_torch_fornnunet"] = _RESAMPLING[0]
    resampling_fn_probabilities_kwargs: Resampling = Resampling()
    previous_stage: str | None = None


class Plans(_Json):
    """The parts of plans.json that all configurations have in common."""

    dataset_name: str
    plans_name: str = "nnUNetPlans"
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    label_manager: Literal["LabelManager"] = "LabelManager"
    configurations: Mapping[str, Mapping[str, JsonValue]]
    foreground_intensity_properties_per_channel: Mapping[str, Intensities] = {}
    foreground_intensity_properties_by_modality: Mapping[str, Intensities] = {}

    @property
    def intensities(self) -> Mapping[str, Intensities]:
        """By channel; older plans call it otherwise."""
        return self.foreground_intensity_properties_per_channel or self.foreground_intensity_properties_by_modality


LabelValue = int | tuple[int, ...]


class Dataset(_Json):
    """dataset.json."""

    channel_names: Mapping[str, str] = {}
    modality: Mapping[str, str] = {}
    labels: Mapping[str, LabelValue]
    regions_class_order: tuple[int, ...] | None = None
    licence: str | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple((self.channel_names or self.modality).values())


@dataclass(frozen=True, slots=True)
class TrainedConfiguration:
    """One configuration of a folder, and what it came with."""

    plans_file: Path
    name: str
    plans: Plans
    dataset: Dataset
    configuration: Configuration
    raw: Mapping[str, JsonValue]  # the configuration as it stands in the file, for the network's description

    def error(self, key: str, problem: str) -> ModelError:
        """What is wrong with a key of this configuration."""
        return ModelError(f"{self.plans_file}: configurations.{self.name}.{key}: {problem}")


def read_plans(folder: Path) -> Plans:
    """plans.json of a result folder.

    Raises:
        ModelError: it is missing, or not plans of nnU-Net v2.
    """
    plans = cast(Plans, _parsed(Plans, _json(folder / "plans.json"), str(folder / "plans.json")))
    forward, backward = plans.transpose_forward, plans.transpose_backward
    if sorted(forward) != [0, 1, 2] or tuple(forward[axis] for axis in backward) != (0, 1, 2):
        problem = f"expected two turns that undo each other, found {list(forward)} and {list(backward)}"
        raise ModelError(f"{folder / 'plans.json'}: transpose_forward, transpose_backward: {problem}")
    return plans


def read_dataset(folder: Path) -> Dataset:
    """dataset.json of a result folder.

    Raises:
        ModelError: it is missing, or not of nnU-Net v2.
    """
    path = folder / "dataset.json"
    raw = _json(path)
    labels = raw.get("labels")
    if isinstance(labels, dict) and labels and all(key.isdecimal() for key in labels):
        raise ModelError(f"{path}: labels: expected names with numbers, found nnU-Net v1's numbers with names")
    dataset = cast(Dataset, _parsed(Dataset, raw, str(path)))
    if not dataset.channels:
        raise ModelError(f"{path}: channel_names: expected at least one channel, found none")
    return dataset


def read_configuration(folder: Path, name: str) -> TrainedConfiguration:
    """The configuration `name` of a result folder, checked against its data set.

    Raises:
        ModelError: it is missing, asks for what is not known here, or contradicts itself or the data set.
    """
    path, plans, dataset = folder / "plans.json", read_plans(folder), read_dataset(folder)
    raw = _inherited(plans, name, path)
    configuration = cast(Configuration, _parsed(Configuration, raw, f"{path}: configurations.{name}"))
    trained = TrainedConfiguration(path, name, plans, dataset, configuration, raw)
    _check(trained)
    return trained


def _inherited(plans: Plans, name: str, path: Path) -> dict[str, JsonValue]:
    chain: list[Mapping[str, JsonValue]] = []
    wanted: JsonValue = name
    while wanted is not None:
        if not isinstance(wanted, str) or wanted not in plans.configurations:
            known = ", ".join(plans.configurations)
            raise ModelError(f"{path}: configurations: expected {wanted!r} among {known}; found none of that name")
        if len(chain) > _DEEPEST_INHERITANCE:
            raise ModelError(f"{path}: configurations.{name}: expected inherits_from to come to an end, found a circle")
        chain.append(plans.configurations[wanted])
        wanted = chain[-1].get("inherits_from")
    merged: dict[str, JsonValue] = {}
    for configuration in reversed(chain):
        merged.update(configuration)
    return merged


def _check(trained: TrainedConfiguration) -> None:
    configuration, channels = trained.configuration, len(trained.dataset.channels)
    if (found := len(configuration.spacing)) != (axes := len(configuration.patch_size)):
        raise trained.error("spacing", f"expected {axes} numbers as in patch_size, found {found}")
    for key in ("normalization_schemes", "use_mask_for_norm"):
        if (found := len(getattr(configuration, key))) != channels:
            raise trained.error(key, f"expected one for each of {channels} channels of dataset.json, found {found}")
    for index, scheme in enumerate(configuration.normalization_schemes):
        if scheme == "CTNormalization" and str(index) not in trained.plans.intensities:
            key = "foreground_intensity_properties_per_channel"
            raise ModelError(f"{trained.plans_file}: {key}: expected channel {index}, which CTNormalization needs")


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path}: expected at most {_MOST_JSON_BYTES} bytes, found {path.stat().st_size}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise ModelError(f"{path}: {problem}; import the folder that nnU-Net wrote, with all its files") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: expected JSON, found: {str(error)[:120]}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected an object, found {type(content).__name__}")
    return cast(dict[str, Any], content)


def _parsed(kind: type[_Json], content: Mapping[str, Any], where: str) -> _Json:
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ModelError(f"{where}: key {key!r} is missing; is this of nnU-Net v2?") from error
        message = first["msg"].removeprefix("Input should be ")
        raise ModelError(f"{where}: key {key!r}: expected {message}; found {str(first['input'])[:80]!r}") from error
