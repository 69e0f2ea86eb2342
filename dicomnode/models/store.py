"""Where model packages are: folders of packages, each a folder with `manifest.toml` and the files it names.

Nothing is believed before its digest is right, and a package that is wrong concerns no other package.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import ModelError, Unavailable
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
        return ModelIdentity(m.name, m.version, m.title, m.digest, m.diagnostic, m.package_digest)

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
            Unavailable: the package is being replaced.
        """
        path, again = self.folder / name, f"install model {self.manifest.name!r} again"
        try:
            contents = path.read_bytes()
        except OSError as error:
            self._require_same()
            raise ModelError(f"{path}: cannot be read ({error.strerror}); {again}") from error
        known = {**self.manifest.digests, **self.manifest.golden}
        found, expected = hashlib.sha256(contents).hexdigest(), known[name]
        if found != expected:
            self._require_same()
            problem = f"{path}: expected SHA-256 {expected}, found {found} ({len(contents)} bytes)"
            raise ModelError(f"{problem}; the file was altered: {again}")
        return contents

    def _require_same(self) -> None:
        """What does not fit this manifest may fit the one that is there by now.

        Raises:
            Unavailable: the package is being replaced.
        """
        try:
            is_same = read_manifest(self.manifest_path) == self.manifest
        except ModelError:
            is_same = self.manifest_path.exists()
        if not is_same:
            raise Unavailable(f"model {self.manifest.name!r} is being replaced or removed; try again")

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
            Unavailable: it is being replaced.
        """
        homes = [
            folder / name for folder in self.folders if name in self.names() and (folder / name / _MANIFEST).is_file()
        ]
        if not homes:
            if self._is_on_its_way(name):
                raise Unavailable(f"model {name!r} is being replaced; try again")
            raise ModelError(f"expected one of the models {list(self.names())}, found {name!r}")
        if len(homes) > 1:
            places = " and ".join(str(home) for home in homes)
            raise ModelError(f"expected one model {name!r}, found {places}; remove or rename one of them")
        manifest = _present(name, homes[0] / _MANIFEST)
        if manifest.name != name:
            raise ModelError(
                f"{homes[0] / _MANIFEST}: key 'name': expected the folder's name {name!r}, found {manifest.name!r}"
            )
        return ModelPackage(homes[0], manifest)

    def _is_on_its_way(self, name: str) -> bool:
        """Whether a package that was not there a moment ago was put aside for another, or is there again."""
        asides = [path.name for folder in self.folders for path in folder.glob(".*.old")]
        put_aside = any(aside.startswith(f".{name}.") for aside in asides)
        return put_aside or (
            name in self.names() and any((folder / name / _MANIFEST).is_file() for folder in self.folders)
        )


def _present(name: str, path: Path) -> Manifest:
    """The manifest of a package that was there a moment ago."""
    try:
        return read_manifest(path)
    except ModelError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise Unavailable(f"model {name!r} is being replaced or removed; try again") from error
        raise
