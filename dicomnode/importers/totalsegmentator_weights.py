"""Where TotalSegmentator's weights lie: unpacked folders as its program keeps them, or the archives they come in."""

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dicomnode.errors import ModelError
from dicomnode.importers.archives import require_sound
from dicomnode.importers.totalsegmentator_tasks import Dataset, Grade, catalogue

_RELEASES = "https://github.com/wasserth/TotalSegmentator/releases/download"
LICENCE_PAGE = "https://backend.totalsegmentator.com/license-academic/"
_WITHIN = ("", "nnunet/results")  # below the folder that is named: itself, and as in ~/.totalsegmentator
_MOST_BYTES = 4 << 30  # of one file in an archive
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # zipfile raises all of these


def holds_weights(path: Path) -> bool:
    """Whether weights of TotalSegmentator lie in `path`, or are `path`."""
    known = {dataset.folder for dataset in catalogue().datasets.values()}
    return any(_plain_name(found) in known for found in _there(path))


@contextmanager
def weights_of(path: Path, dataset: Dataset, grade: Grade) -> Generator[Path]:
    """The folder that nnU-Net wrote for a network; of an archive, a copy that lasts as long as the context.

    Raises:
        ModelError: it is not there, or it is of another version; says what is expected and where to get it.
    """
    place = next((found for found in _there(path) if _plain_name(found) == dataset.folder), None)
    if place is None:
        raise ModelError(f"{path}: expected {dataset.folder}, found {_found(path)}; {_by_hand(path, dataset)}")
    if place.is_dir():
        yield _trained(place, grade, [found.name for found in place.iterdir()], dataset)
        return
    with tempfile.TemporaryDirectory(prefix="totalsegmentator-") as folder:
        yield _unpacked(place, Path(folder), grade, dataset)


def _there(path: Path) -> list[Path]:
    """Folders and archives that may hold a data set."""
    listed = [found for below in _WITHIN if (path / below).is_dir() for found in sorted((path / below).iterdir())]
    return [path, *listed]


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".zip") if path.is_file() else path.name


def _found(path: Path) -> str:
    names = [found.name for found in _there(path)[1:] if found.name.startswith(("Dataset", "Task"))]
    if (path / "nnUNet").is_dir() or any(name.startswith("Task") for name in names):
        return "weights of TotalSegmentator 1, which are of nnU-Net v1"
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "no weights of TotalSegmentator"


def _by_hand(path: Path, dataset: Dataset) -> str:
    if dataset.release:
        return f"fetch {_RELEASES}/{dataset.release}/{dataset.folder}.zip by hand and put it into {path}"
    return f"ask for a licence at {LICENCE_PAGE}, let TotalSegmentator fetch it elsewhere and copy the folder to {path}"


def _trained(place: Path, grade: Grade, names: list[str], dataset: Dataset) -> Path:
    if grade.folder not in names:
        found = ", ".join(sorted(name for name in names if "__" in name)) or "nothing trained"
        problem = f"expected {grade.folder}, as TotalSegmentator 2.16 and later have it, found {found}"
        raise ModelError(f"{place}: {problem}; {_by_hand(place.parent, dataset)}")
    return place / grade.folder


def _unpacked(archive: Path, folder: Path, grade: Grade, dataset: Dataset) -> Path:
    """Only the files that an import reads, under the names that they have within the trained folder."""
    try:
        with zipfile.ZipFile(archive) as file:
            inside = [PurePosixPath(name).parts for name in file.namelist()]
            names = sorted({parts[1] for parts in inside if len(parts) > 1 and parts[0] == dataset.folder})
            trained = folder / _trained(archive, grade, names, dataset).name
            for member in file.infolist():
                parts = PurePosixPath(member.filename).parts
                if parts[:2] == (dataset.folder, grade.folder) and _is_read(parts[2:]):
                    _copy(file, member, trained.joinpath(*parts[2:]), archive)
    except OSError as error:
        raise ModelError(f"{archive}: cannot be unpacked ({error.strerror or error})") from error
    except _DAMAGE as error:
        raise ModelError(
            f"{archive}: expected a complete .zip, found a damaged one: {error}; fetch it again"
        ) from error
    return trained


def _is_read(parts: tuple[str, ...]) -> bool:
    match parts:
        case ("plans.json",) | ("dataset.json",):
            return True
        case (fold, "checkpoint_final.pth"):
            return fold.removeprefix("fold_") in {"all", *map(str, range(10))}
        case _:
            return False


def _copy(file: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path, archive: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        require_sound([member], _MOST_BYTES, to.parent)
    except ValueError as error:
        raise ModelError(f"{archive}: {member.filename}: {error}") from error
    with file.open(member) as source, to.open("wb") as target:  # never reads beyond file_size
        shutil.copyfileobj(source, target, 1 << 20)
