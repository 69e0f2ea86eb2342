"""A package made elsewhere, or a program (TorchScript, ONNX) with a manifest written by hand -> a package."""

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from dicomnode.errors import ModelError
from dicomnode.importers.imported import Imported
from dicomnode.inference.runners import RUNNERS
from dicomnode.models import ModelPackage
from dicomnode.models.golden import read_golden
from dicomnode.models.manifest import Manifest, parse_manifest

_MANIFEST, _CARD = "manifest.toml", "MODEL_CARD.md"
_PROGRAMS = (".ts", ".onnx")
_TRIED = ("torchscript", "onnx")  # of the runners


def is_package(path: Path) -> bool:
    """Whether `path` is a folder with a manifest.toml, or a file of a program."""
    return (path / _MANIFEST).is_file() or (path.is_file() and path.suffix in _PROGRAMS)


def import_package(path: Path, manifest_path: Path | None, name: str = "") -> Imported:
    """The manifest and the files that it names.

    Args:
        path: the folder, or the file of a program.
        manifest_path: of a program: the manifest; None: manifest.toml beside it. Its `digests` may be left out: they
            are then taken from what is there.
        name: of the model; "": the manifest's.

    Raises:
        ModelError: a file is missing or has another digest than the manifest says, the manifest cannot be used, or
            weights are not finite or not those of their network, or a golden case is none.
    """
    is_program = path.is_file()
    home = path.parent if is_program else path
    manifest = _manifest(manifest_path or home / _MANIFEST, home, name)
    if is_program and path.name not in manifest.digests:
        raise ModelError(f"{path}: expected a network with file = {path.name!r} in its manifest, found none")
    wanted = {**manifest.digests, **manifest.golden}
    files = {file: _content(home / file, digest) for file, digest in wanted.items()}
    if (home / _CARD).is_file():
        files[_CARD] = _content(home / _CARD)
    _check(ModelPackage(home, manifest), files)
    return Imported(manifest, files)


def _check(package: ModelPackage, files: Mapping[str, bytes]) -> None:
    """Build each network with its weights and read each golden case; programs are tried by who imports."""
    for name, network in package.manifest.networks.items():
        if network.runner not in _TRIED:
            RUNNERS[network.runner](package, name)
    for file in package.manifest.golden:
        read_golden(files[file], str(package.folder / file))


def _manifest(path: Path, home: Path, name: str) -> Manifest:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); a program needs a manifest written by hand, see docs/models.md"
        ) from error
    except (ValueError, RecursionError) as error:  # TOML, also too deep; or UTF-8
        raise ModelError(f"{path}: expected TOML in UTF-8, found: {error}") from error
    if name:
        document["name"] = name
    networks = document.get("networks")
    if "digests" not in document and isinstance(networks, dict):
        named = {str(n.get("file", "weights.safetensors")) for n in networks.values() if isinstance(n, dict)}
        document["digests"] = {file: hashlib.sha256(_content(home / Path(file).name)).hexdigest() for file in named}
    return parse_manifest(tomli_w.dumps(document), str(path))


def _content(path: Path, expected: str | None = None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); the manifest names this file") from error
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise ModelError(f"{path}: expected SHA-256 {expected}, found {found} ({len(content)} bytes)")
    return content
