"""TotalSegmentator's weights: the networks of one of its tasks become one package.

Its program turns a volume to RAS, samples it with scipy's zoom, cuts the values to whole numbers, gives that to nnU-Net
as if it came from a file, and takes the labels back by the nearest voxel; each network of a task after the other, later
labels over earlier ones. Nothing is fetched and nobody is told: the weights are files that somebody put there.

Where a task is cut down to some classes, only their networks are taken, and voxels on which two networks disagree go to
the classes wanted. Volumes of more than 236 million voxels at the network's spacing, which its program cuts into three,
are run in one piece here.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported, digest_of
from dicomnode.importers.naming import Mapped, Structure, segments_for
from dicomnode.importers.nnunet import NnunetOptions, NnunetPart, read_part
from dicomnode.importers.totalsegmentator_tasks import (
    Crop,
    Grade,
    GradeName,
    LicenceKind,
    Part,
    Spacing,
    Task,
    catalogue,
)
from dicomnode.importers.totalsegmentator_weights import LICENCE_PAGE, holds_weights, weights_of
from dicomnode.models.after import AfterStep, Back, LargestComponents, MinimumVolume
from dicomnode.models.before import BeforeStep, CropToStage, Orient, Resample, Truncate
from dicomnode.models.manifest import Input, Licence, Manifest, Origin
from dicomnode.models.stages import Network, Stage

__all__ = ["GradeName", "TotalSegmentatorOptions", "import_totalsegmentator", "is_totalsegmentator"]

_STORED_AXES = "SAR"  # of the array that nnU-Net reads from a NIfTI file in RAS
_SIDES = ("RL", "AP", "SI")  # of a spacing's three numbers
_SAME_SPACING = 1e-4  # less than half a voxel in 5,000: nnU-Net does not sample again
_ON_REQUEST = (
    "The weights of this task are not openly available. Their authors give licences, free of charge for non-commercial "
    f"use at {LICENCE_PAGE}, otherwise by jakob.wasserthal@usb.ch. Whoever accepts states that such a licence is held."
)
_NON_COMMERCIAL = "CC BY-NC 4.0, https://creativecommons.org/licenses/by-nc/4.0/: no commercial use."
LICENCES: Final[Mapping[LicenceKind, Licence]] = {
    "open": Licence(name="Apache-2.0"),
    "on-request": Licence(name="TotalSegmentator, on request", must_be_accepted=True, text=_ON_REQUEST),
    "non-commercial": Licence(name="CC BY-NC 4.0", must_be_accepted=True, text=_NON_COMMERCIAL),
}


@dataclass(frozen=True, slots=True)
class TotalSegmentatorOptions:
    """What the person who imports wants of the weights."""

    task: str = "total"
    grade: GradeName = "default"  # "fast" and "fastest": one network on coarser voxels
    roi: tuple[str, ...] = ()  # classes; none: all
    name: str = ""  # of the model; "": by task, grade and classes


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A network of the package, and where it came from."""

    part: NnunetPart
    stage: Stage
    origin: Mapping[str, str]  # SHA-256 by file


def is_totalsegmentator(path: Path) -> bool:
    """Whether `path` holds, or is, weights of TotalSegmentator: unpacked or as archives."""
    return holds_weights(path)


def import_totalsegmentator(
    path: Path, mapped: Mapped, template: Path, options: TotalSegmentatorOptions | None = None
) -> Imported:
    """One task as a package.

    Args:
        path: the folder with the data sets' folders (`~/.totalsegmentator` or its nnunet/results), or with their .zip.
        mapped: codes of classes, beside those of our table.
        template: where a mapping file is written if classes have no code.
        options: which task, how, and which of its classes.

    Raises:
        ModelError: a folder is missing or of another version, the task cannot be expressed, or the weights are not
            what they should be; says what is expected and where to get it.
    """
    options = options or TotalSegmentatorOptions()
    task = catalogue().task(options.task)
    if task.unsupported:
        raise ModelError(f"task {options.task!r}: cannot be imported: {task.unsupported}; no package can say that yet")
    wanted = task.labels_of(options.roi)
    grade = task.grade(options.grade)
    structures = [Structure(task.classes[label - 1], (label,)) for label in wanted]
    segments = segments_for(structures, mapped, template)
    shown = {label for segment in segments for label in segment.labels}  # without those that the mapping skips
    pieces = list(_pieces(path, options.task, options.grade, sorted(shown)))
    files = {name: content for piece in pieces for name, content in piece.part.files.items()}
    manifest = Manifest(
        format=2,
        name=options.name or _name(options),
        version=_version(grade),
        title=f"TotalSegmentator {options.task}" + ("" if options.grade == "default" else f" {options.grade}"),
        licence=LICENCES[task.licence],
        intended_use="Research; its authors do not offer it as a medical device. Not for diagnostic use.",
        diagnostic=False,
        provenance=_provenance(options, pieces),
        origin=Origin(kind="totalsegmentator", files={k: v for piece in pieces for k, v in piece.origin.items()}),
        digests={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        input=Input(modalities=(task.modality,)),
        networks={name: network for piece in pieces for name, network in piece.part.networks.items()},
        stages=tuple(piece.stage for piece in pieces),
        segments=segments,
    )
    return Imported(manifest, files)


def _pieces(path: Path, name: str, grade_name: GradeName, wanted: Sequence[int]) -> Iterator[_Piece]:
    """The networks of a task that find the labels wanted, behind those that it is cropped by."""
    task = catalogue().task(name)
    if task.crop:
        yield from (_unseen(piece) for piece in _pieces_of_crop(path, task.crop))
    for part in task.grade(grade_name).parts:
        if writes := part.writes(wanted):
            yield _piece(path, task, task.grade(grade_name), part, writes)


def _pieces_of_crop(path: Path, crop: Crop) -> Iterator[_Piece]:
    return _pieces(path, crop.task, crop.grade, catalogue().task(crop.task).labels_of(crop.labels))


def _unseen(piece: _Piece) -> _Piece:
    return replace(piece, stage=piece.stage.model_copy(update={"writes": "nothing"}))


def _piece(path: Path, task: Task, grade: Grade, part: Part, writes: Mapping[int, int]) -> _Piece:
    """One network: nnU-Net's own stage within what TotalSegmentator does around it."""
    dataset = catalogue().datasets[part.dataset]
    options = NnunetOptions(
        folds=tuple(map(str, grade.folds)),
        checkpoint="checkpoint_final.pth",
        orientation=_STORED_AXES,
        step=1 - task.overlap,
        mirroring=False,
    )
    with weights_of(path, dataset, grade) as folder:
        read = read_part(folder, options)
        origin = {f"{dataset.folder}/{name}": digest for name, digest in _digests(folder, read).items()}
    _check_labels(read, part)
    renamed = _renamed(read, part.dataset)
    stage = renamed.stage.model_copy(
        update={
            "name": _stage_name(part.dataset),
            "before": (*_cropped(task.crop), *_before(read, grade.spacing_mm)),
            "after": _after(read, task, grade.spacing_mm),
            "writes": dict(writes),
        }
    )
    return _Piece(renamed, stage, origin)


def _stage_name(dataset: int) -> str:
    return f"dataset-{dataset}"


def _digests(folder: Path, read: NnunetPart) -> dict[str, str]:
    files = (folder / "plans.json", folder / "dataset.json", *(fold.path for fold in read.folds))
    return {f"{folder.name}/{file.relative_to(folder).as_posix()}": digest_of(file) for file in files}


def _check_labels(read: NnunetPart, part: Part) -> None:
    """TotalSegmentator goes by numbers, whatever dataset.json calls them."""
    classes = part.last - part.first + 1
    if read.labels.regions is not None or read.labels.outputs <= classes:
        path = read.trained.plans_file.with_name("dataset.json")
        raise ModelError(f"{path}: labels: expected {classes} beside the background, found {read.labels.outputs - 1}")


def _renamed(read: NnunetPart, dataset: int) -> NnunetPart:
    """Its networks and files named by the data set, as those of all parts lie beside each other."""
    names = {name: f"{dataset}-fold-{fold.name}" for name, fold in zip(read.networks, read.folds, strict=True)}
    files = {network.file: f"{names[name]}.safetensors" for name, network in read.networks.items()}
    networks: dict[str, Network] = {
        names[name]: network.model_copy(update={"file": files[network.file]}) for name, network in read.networks.items()
    }
    return replace(
        read,
        stage=read.stage.model_copy(update={"networks": tuple(networks)}),
        networks=networks,
        files={files[name]: content for name, content in read.files.items()},
    )


def _cropped(crop: Crop | None) -> tuple[BeforeStep, ...]:
    """The box of what an earlier task found; where it found nothing, this one says nothing."""
    if crop is None:
        return ()
    earlier = catalogue().task(crop.task)
    (part,) = earlier.grade(crop.grade).parts
    labels = tuple(part.writes(earlier.labels_of(crop.labels)))
    stage = _stage_name(part.dataset)
    box = CropToStage(step="crop-to-stage", stage=stage, labels=labels, margin_mm=crop.margin_mm, if_none="skip")
    return (box, Truncate(step="truncate"))  # cropping casts to int32


def _before(read: NnunetPart, spacing_mm: Spacing | None) -> tuple[BeforeStep, ...]:
    """To RAS, to the task's spacing, to whole numbers, then nnU-Net's own steps; it has nothing to sample any more."""
    orient, *others = read.stage.before
    if not isinstance(orient, Orient):
        raise ModelError(f"{read.trained.plans_file}: expected the turn first, found {orient.step!r}")
    if spacing_mm is None:
        return (orient, *others)
    wanted = _along(orient.axes, spacing_mm)
    _check_spacing(read, wanted)
    sample = Resample(step="resample", spacing_mm=wanted, grid="corners", order=1)
    kept = [step for step in others if not isinstance(step, Resample)]
    return (orient, sample, Truncate(step="truncate"), *kept)


def _along(axes: str, spacing_mm: Spacing) -> Spacing:
    """The spacing in the order of the axes."""
    by_letter = {letter: mm for sides, mm in zip(_SIDES, spacing_mm, strict=True) for letter in sides}
    first, second, third = (by_letter[letter] for letter in axes)
    return first, second, third


def _check_spacing(read: NnunetPart, wanted: Spacing) -> None:
    planned = read.trained.configuration.spacing
    if len(planned) != 3 or any(abs(p / w - 1) > _SAME_SPACING for p, w in zip(planned, wanted, strict=True)):
        raise read.trained.error("spacing", f"expected {list(wanted)} mm, as the task has it, found {list(planned)}")


def _after(read: NnunetPart, task: Task, spacing_mm: Spacing | None) -> tuple[AfterStep, ...]:
    """Labels are decided where TotalSegmentator's file for nnU-Net is: on the scanner's grid, or at the spacing."""
    if spacing_mm is None:
        return read.stage.after
    steps: list[AfterStep] = list(read.labels.steps)
    if task.largest:
        steps.append(LargestComponents(step="largest-components", keep=dict.fromkeys(task.largest, 1)))
    if task.smallest_ml:
        steps.append(MinimumVolume(step="minimum-volume", volume_ml=task.smallest_ml))
    return (*steps, Back(step="back", order=0))


def _name(options: TotalSegmentatorOptions) -> str:
    parts = ["totalsegmentator", options.task, *([] if options.grade == "default" else [options.grade])]
    whole = "-".join([*parts, *sorted(set(options.roi))])
    if len(whole) <= 64:
        return whole
    return "-".join([*parts, hashlib.sha256(whole.encode()).hexdigest()[:8]])


def _version(grade: Grade) -> str:
    """The release that has the first of its networks."""
    return catalogue().datasets[grade.parts[0].dataset].release.removesuffix("-weights") or "licensed"


def _provenance(options: TotalSegmentatorOptions, pieces: Sequence[_Piece]) -> str:
    networks = ", ".join(piece.part.trained.plans.dataset_name for piece in pieces)
    return f"TotalSegmentator (Wasserthal et al. 2023), task {options.task}: nnU-Net v2 networks {networks}."
