"""Where the steps of one order leave labels and objects for each other: a folder that goes when the order is done.

Arrays are plain .npy files, read back memory-mapped; what belongs to them is JSON beside them. Everything is
written under a temporary name and renamed, so a step that was killed has written nothing.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import Unavailable
from dicomnode.imaging import CodedConcept, Geometry, ModelIdentity, Segment, Segmentation, SliceSource

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one order."""

    folder: Path

    def write_segmentation(self, segmentation: Segmentation) -> None:
        """Leave a segmentation.

        Raises:
            Unavailable: the disk does not take it.
        """
        document = _placed(segmentation.geometry, segmentation.sources)
        document["segments"] = [asdict(s) for s in segmentation.segments]
        document["model"] = asdict(segmentation.model)
        self._write("labels", segmentation.labels, document)

    def read_segmentation(self) -> Segmentation:
        """The segmentation, memory-mapped.

        Raises:
            Unavailable: it is not there (any more).
        """
        labels, document = self._read("labels")
        segments = tuple(_segment(s) for s in document["segments"])
        return Segmentation(
            labels, _geometry(document), _sources(document), segments, ModelIdentity(**document["model"])
        )

    def write_document(self, name: str, document: object) -> None:
        """Leave a small JSON document for a later step.

        Raises:
            Unavailable: the disk does not take it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{name}.json"
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.replace(self.folder / f"{name}.json")
        except OSError as error:
            raise Unavailable(f"the workspace cannot be written: {error.strerror}; free disk space") from error

    def read_document(self, name: str) -> Any:
        """A JSON document an earlier step left.

        Raises:
            Unavailable: it is not there (any more).
        """
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise Unavailable(f"the workspace has no {name}: {error.strerror}; retry the order") from error

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, array: NDArray[Any], document: Document) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{name}.{os.getpid()}.npy"
            np.save(temporary, array)
            temporary.replace(self.folder / f"{name}.npy")
        except OSError as error:
            raise Unavailable(f"the workspace cannot be written: {error.strerror}; free disk space") from error
        self.write_document(name, document)

    def _read(self, name: str) -> tuple[NDArray[Any], Document]:
        document = self.read_document(name)
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False), document
        except (OSError, ValueError) as error:
            raise Unavailable(f"the workspace's {name} cannot be read; retry the order") from error


def _placed(geometry: Geometry, sources: tuple[SliceSource, ...]) -> Document:
    return {
        "affine": geometry.affine.tolist(),
        "shape": geometry.shape,
        "frame_of_reference_uid": geometry.frame_of_reference_uid,
        "sources": [asdict(s) for s in sources],
    }


def _geometry(document: Document) -> Geometry:
    first, second, third = document["shape"]
    return Geometry(np.array(document["affine"]), (first, second, third), document["frame_of_reference_uid"])


def _sources(document: Document) -> tuple[SliceSource, ...]:
    return tuple(SliceSource(**s) for s in document["sources"])


def _segment(document: Document) -> Segment:
    red, green, blue = document["colour_rgb"]
    return Segment(
        number=document["number"],
        name=document["name"],
        labels=tuple(document["labels"]),
        category=CodedConcept(**document["category"]),
        type=CodedConcept(**document["type"]),
        modifier=CodedConcept(**document["modifier"]) if document["modifier"] else None,
        colour_rgb=(red, green, blue),
    )
