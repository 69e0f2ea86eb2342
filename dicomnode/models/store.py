"""Where model packages are: folders of packages, each a folder with `manifest.toml` and `weights.safetensors`.

Nothing is believed before its digest is right, and a package that is wrong concerns no other package.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import ModelError
from dicomnode.imaging import ModelIdentity, Segment
from dicomnode.models.manifest import Manifest, read_manifest

SHIPPED_PACKAGES = Path(__file__).parent / "packages"
_MANIFEST = "manifest.toml"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model that the node can run: what it says of itself, and where its weights are."""

    folder: Path
    manifest: Manifest

    @property
    def identity(self) -> ModelIdentity:
        """What stands in every result and record."""
        m = self.manifest
        return ModelIdentity(m.name, m.version, m.title, m.weights_sha256, m.diagnostic)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The structures of its result, numbered from 1."""
        return tuple(table.segment for table in self.manifest.segments)

    @property
    def weights_path(self) -> Path:
        """Where its weights are."""
        return self.folder / _WEIGHTS

    def read_weights(self) -> bytes:
        """The bytes of weights.safetensors, which have the digest that the manifest names.

        The bytes are handed out, not the path, so that what was checked is what is loaded.

        Raises:
            ModelError: the file is missing or was altered.
        """
        try:
            weights = self.weights_path.read_bytes()
        except OSError as error:
            problem = f"{self.weights_path}: cannot be read ({error.strerror})"
            raise ModelError(f"{problem}; install model {self.manifest.name!r} again") from error
        found, expected = hashlib.sha256(weights).hexdigest(), self.manifest.weights_sha256
        if found != expected:
            problem = f"{self.weights_path}: expected SHA-256 {expected}, found {found} ({len(weights)} bytes)"
            raise ModelError(f"{problem}; the weights were altered: install model {self.manifest.name!r} again")
        return weights


@dataclass(frozen=True, slots=True)
class ModelStore:
    """The packages in some folders, e.g. those that are shipped and those of the site."""

    folders: Sequence[Path] = (SHIPPED_PACKAGES,)

    def names(self) -> tuple[str, ...]:
        """The names of all packages, whether they can be used or not."""
        found = {manifest.parent.name for folder in self.folders for manifest in folder.glob(f"*/{_MANIFEST}")}
        return tuple(sorted(found))

    def package(self, name: str) -> ModelPackage:
        """The package of that name; its weights are not looked at yet.

        Raises:
            ModelError: there is none, there are two, or its manifest cannot be used.
        """
        homes = [
            folder / name for folder in self.folders if name in self.names() and (folder / name / _MANIFEST).is_file()
        ]
        if not homes:
            raise ModelError(f"expected one of the models {list(self.names())}, found {name!r}")
        if len(homes) > 1:
            places = " and ".join(str(home) for home in homes)
            raise ModelError(f"expected one model {name!r}, found {places}; remove or rename one of them")
        manifest = read_manifest(homes[0] / _MANIFEST)
        if manifest.name != name:
            raise ModelError(
                f"{homes[0] / _MANIFEST}: key 'name': expected the folder's name {name!r}, found {manifest.name!r}"
            )
        return ModelPackage(homes[0], manifest)
