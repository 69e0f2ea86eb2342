"""Where model packages are: folders of packages, each a folder with `manifest.toml` and the files it names.

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


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model that the node can run: what it says of itself, and where its weights are."""

    folder: Path
    manifest: Manifest

    @property
    def identity(self) -> ModelIdentity:
        """What stands in every result and record."""
        m = self.manifest
        return ModelIdentity(m.name, m.version, m.title, m.digest, m.diagnostic)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The structures of its result, numbered from 1."""
        return tuple(table.segment for table in self.manifest.segments)

    @property
    def manifest_path(self) -> Path:
        """Where its manifest is."""
        return self.folder / _MANIFEST

    def read_file(self, name: str) -> bytes:
        """The bytes of one of its files, which have the digest that the manifest names.

        The bytes are handed out, not the path, so that what was checked is what is loaded.

        Raises:
            ModelError: the file is missing or was altered.
        """
        path, again = self.folder / name, f"install model {self.manifest.name!r} again"
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); {again}") from error
        known = {**self.manifest.digests, **self.manifest.golden}
        found, expected = hashlib.sha256(contents).hexdigest(), known[name]
        if found != expected:
            problem = f"{path}: expected SHA-256 {expected}, found {found} ({len(contents)} bytes)"
            raise ModelError(f"{problem}; the file was altered: {again}")
        return contents

    def check_files(self) -> None:
        """Read every file once.

        Raises:
            ModelError: one is missing or was altered.
        """
        for name in (*self.manifest.digests, *self.manifest.golden):
            self.read_file(name)


@dataclass(frozen=True, slots=True)
class ModelStore:
    """The packages in some folders, e.g. those that are shipped and those of the site."""

    folders: Sequence[Path] = (SHIPPED_PACKAGES,)

    def names(self) -> tuple[str, ...]:
        """The names of all packages, whether they can be used or not."""
        found = {manifest.parent.name for folder in self.folders for manifest in folder.glob(f"*/{_MANIFEST}")}
        return tuple(sorted(name for name in found if not name.startswith(".")))  # with a dot: being written

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
