"""Other people's models -> packages: one file per kind of model, one line in the table below.

Nothing that is imported is executed on the way: configurations are read as data, weights through an unpickler that
knows tensors and numbers only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported
from dicomnode.importers.monai_bundle import BundleOptions, import_monai_bundle, is_monai_bundle
from dicomnode.importers.naming import Mapped, read_mapping
from dicomnode.importers.nnunet import NnunetOptions, import_nnunet, is_nnunet_folder
from dicomnode.importers.packaged import import_package, is_package
from dicomnode.importers.programs import tried
from dicomnode.importers.totalsegmentator import (
    GradeName,
    TotalSegmentatorOptions,
    import_totalsegmentator,
    is_totalsegmentator,
)

__all__ = ["IMPORTERS", "Imported", "Request", "import_from"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks to be imported; what a kind of model has no use for has to stay as it is."""

    path: Path
    template: Path  # where a mapping file is written if labels have no code
    name: str = ""
    mapping: Path | None = None
    manifest: Path | None = None  # TorchScript, ONNX: written by hand
    orientation: str | None = None  # nnU-Net: of the training arrays
    modality: str | None = None  # nnU-Net: where the channels' names do not tell
    folds: tuple[str, ...] = ()  # nnU-Net
    prompts: tuple[int, ...] = ()  # VISTA3D: classes
    task: str = ""  # TotalSegmentator
    grade: GradeName = "default"  # TotalSegmentator
    roi: tuple[str, ...] = ()  # TotalSegmentator: classes

    @property
    def mapped(self) -> Mapped:
        """The codes of labels that the mapping file gives.

        Raises:
            ModelError: it cannot be read, or an entry is not right.
        """
        return read_mapping(self.mapping) if self.mapping else {}


@dataclass(frozen=True, slots=True)
class Importer:
    """One kind of model: how it is recognised, how it is read, and what may be said beside it."""

    kind: str
    recognises: Callable[[Path], bool]
    read: Callable[[Request], Imported]
    takes: frozenset[str]  # fields of Request beside path, template and name


def _from_bundle(request: Request) -> Imported:
    options = BundleOptions(name=request.name, prompts=request.prompts)
    return import_monai_bundle(request.path, request.mapped, request.template, options)


def _from_nnunet(request: Request) -> Imported:
    options = NnunetOptions(
        name=request.name, orientation=request.orientation, modality=request.modality, folds=request.folds
    )
    return import_nnunet(request.path, request.mapped, request.template, options)


def _from_totalsegmentator(request: Request) -> Imported:
    options = TotalSegmentatorOptions(
        task=request.task or "total", grade=request.grade, roi=request.roi, name=request.name
    )
    return import_totalsegmentator(request.path, request.mapped, request.template, options)


def _from_package(request: Request) -> Imported:
    return import_package(request.path, request.manifest, request.name)


# Asked in this order: TotalSegmentator's folders are nnU-Net's as well.
IMPORTERS = (
    Importer("package", is_package, _from_package, frozenset({"manifest"})),
    Importer("monai-bundle", is_monai_bundle, _from_bundle, frozenset({"mapping", "prompts"})),
    Importer(
        "totalsegmentator", is_totalsegmentator, _from_totalsegmentator, frozenset({"mapping", "task", "grade", "roi"})
    ),
    Importer("nnunet", is_nnunet_folder, _from_nnunet, frozenset({"mapping", "orientation", "modality", "folds"})),
)


def import_from(request: Request) -> tuple[str, Imported]:
    """Recognise what is at the path and read it: the kind, and the package that it becomes.

    Raises:
        ModelError: nothing of a known kind is there, it cannot be expressed as a package, or something was said that
            this kind has no use for.
    """
    if not request.path.exists():
        raise ModelError(f"{request.path}: there is no such file or folder")
    for importer in IMPORTERS:
        if importer.recognises(request.path):
            _refuse_unused(request, importer)
            return importer.kind, tried(_read(request, importer), str(request.path))
    kinds = ", ".join(importer.kind for importer in IMPORTERS)
    raise ModelError(
        f"{request.path}: expected one of {kinds}, recognised none; a bundle has configs/inference.json, an nnU-Net "
        "result folder plans.json and dataset.json, a package or a program (.ts, .onnx) a manifest.toml"
    )


def _read(request: Request, importer: Importer) -> Imported:
    try:
        return importer.read(request)
    except ValidationError as error:  # a value that the format of packages has no room for
        first = error.errors()[0]
        key = ".".join((error.title, *(str(part) for part in first["loc"])))
        problem = f"{first['msg'].removeprefix('Value error, ')}; found {str(first['input'])[:80]!r}"
        raise ModelError(f"{request.path}: {key}: {problem}; docs/models.md has what a manifest can say") from error


def _refuse_unused(request: Request, importer: Importer) -> None:
    plain = Request(request.path, request.template)
    fields = ("mapping", "manifest", "orientation", "modality", "folds", "prompts", "task", "grade", "roi")
    said = {field for field in fields if getattr(request, field) != getattr(plain, field)}
    if unused := sorted(said - importer.takes):
        raise ModelError(f"{request.path} is of kind {importer.kind}, which has no use for {', '.join(unused)}")
