"""Result folders of nnU-Net in a .zip, as `nnUNetv2_export_model_to_zip` writes it, unpacked while they are read."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dicomnode.errors import ModelError
from dicomnode.importers.archives import require_sound

# What is read of a folder; nothing else leaves the archive.
_WANTED = re.compile(r"(?:plans\.json|dataset\.json|fold_[A-Za-z0-9]{1,8}/checkpoint_[a-z]{1,16}\.pth)")
_MOST_BYTES = 32 << 30  # of everything unpacked: a cascade of five folds has fewer than 10 GiB


def folders_in(path: Path) -> list[PurePosixPath]:
    """The result folders within a .zip; none if it is no .zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {PurePosixPath(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return []
    return sorted(
        name.parent for name in names if name.name == "plans.json" and name.with_name("dataset.json") in names
    )


@contextmanager
def unpacked(path: Path) -> Generator[Path]:
    """A folder as it is; a .zip as a folder that is gone afterwards, with its result folders side by side.

    Raises:
        ModelError: the .zip is damaged, too large or holds no result folder.
    """
    if path.is_dir() or not path.exists():
        yield path
        return
    folders = folders_in(path)
    if not folders:
        raise ModelError(f"{path}: expected a folder or .zip with plans.json and dataset.json, found none in it")
    with tempfile.TemporaryDirectory(prefix="dicomnode-nnunet-") as place:
        home = Path(place) / re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, folders, home)
        # zipfile has no class for what it cannot decompress or has no password for.
        except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path}: expected a complete .zip, found: {error}; export the model again") from error
        yield home


def _unpack(archive: zipfile.ZipFile, folders: list[PurePosixPath], home: Path) -> None:
    wanted = [(folder, info) for folder in folders for info in archive.infolist() if _is_wanted(info, folder)]
    require_sound([info for _, info in wanted], _MOST_BYTES, home.parent)
    for folder, info in wanted:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name) or "model"
        target = home / name / PurePosixPath(info.filename).relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _is_wanted(info: zipfile.ZipInfo, folder: PurePosixPath) -> bool:
    path = PurePosixPath(info.filename)
    return path.is_relative_to(folder) and _WANTED.fullmatch(path.relative_to(folder).as_posix()) is not None
