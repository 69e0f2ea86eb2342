"""From a series to a checked result, without ledger or network: what the node and `dicomnode segment` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dicomnode import __version__
from dicomnode.assembly.gate import inspect
from dicomnode.assembly.prepared import PreparedSlices
from dicomnode.assembly.volume import assemble
from dicomnode.config import Config
from dicomnode.encoding import EncodingRequest, result_uids
from dicomnode.errors import ModelError
from dicomnode.imaging import ModelIdentity, Segmentation, Series, Verdict, Volume
from dicomnode.inference import Engine, Inference, StageRecord
from dicomnode.models import ModelStore
from dicomnode.models.licences import require_licence

# Part of the words a result's UIDs are made of, beside the route. Raise the number when the node encodes the same
# labels differently: a UID must not come back with other bytes.
OPTIONS = "encoding 2"


def assemble_series(
    series: Series, config: Config, prepared: PreparedSlices | None = None
) -> tuple[Volume, str, tuple[Verdict, ...]]:
    """Gate and stack a series: the volume, its modality, and what was odd but acceptable.

    Raises:
        UnusableSeries: the gate refuses it, or its pixels cannot be decoded.
    """
    inspection = inspect(series, config.geometry, config.limits.max_voxels)
    return assemble(inspection, prepared), inspection.modality, inspection.verdicts


@dataclass(frozen=True, slots=True)
class Segmenter:
    """The warm engine and the models it may run."""

    engine: Engine
    store: ModelStore

    def segment(self, volume: Volume, modality: str, model: str) -> tuple[Segmentation, Mapping[str, Any]]:
        """Segment a volume with a model: the labels on the source grid, and how they came about.

        Raises:
            ModelError: the model is not there, was altered, is for another modality, or fails; or its licence was not
                accepted.
            Unavailable: memory is short now.
        """
        package = self.store.package(model)
        require_licence(package)
        modalities = package.manifest.input.modalities
        if modality not in modalities:
            raise ModelError(f"model {model} expects modality {' or '.join(modalities)}, found {modality}")
        inference = self.engine.segment(package, volume)
        segmentation = Segmentation(
            inference.labels, volume.geometry, volume.sources, package.segments, package.identity
        )
        return segmentation, _provenance(inference, package.identity)


def stages_without_sight(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a model that were shown nothing, so that what they would have found was not looked for."""
    return tuple(stage["stage"] for stage in provenance["stages"] if not stage["windows"])


def nothing_found_because(unseen: Sequence[str]) -> str:
    """The sentence of an order without results; it says so where that is not because nothing is there."""
    named = " and ".join(f"stage {name}" for name in unseen)
    return f"nothing found; {named} had nothing to look at" if unseen else "nothing found: no structure has a voxel"


def _provenance(inference: Inference, model: ModelIdentity) -> dict[str, Any]:
    return {
        "package_sha256": model.package_sha256,
        "stages": [_stage_provenance(stage) for stage in inference.stages],
        "seconds": {name: round(seconds, 3) for name, seconds in inference.seconds_by_phase.items()},
    }


def _stage_provenance(stage: StageRecord) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "networks": stage.networks,
        "device": stage.device,
        "precision": str(stage.precision),
        "backend": stage.backend,
        "window": stage.window,
        "windows": stage.windows,
        "memory_steps": stage.steps,
        "predicted_bytes": stage.predicted_bytes,
        "seconds": {name: round(seconds, 3) for name, seconds in stage.seconds_by_phase.items()},
    }


def encoding_request(
    series: Series, model: ModelIdentity, kind: str, created_at: datetime, options: str = OPTIONS
) -> EncodingRequest:
    """Under which UIDs and times a result of this series and model is written: always the same ones."""
    uids = result_uids(series.content, model, options, kind)
    return EncodingRequest(
        series_uid=uids.series_uid,
        instance_uid=uids.instance_uid,
        created_at=created_at,
        software_version=__version__,
    )


def sources_of(series: Series) -> dict[str, Path]:
    """Where the instances of a series are, by SOP Instance UID."""
    return {instance.sop_instance_uid: instance.path for instance in series.instances}
