"""The workspace: what one step leaves, the next one finds; what a killed step left does not count."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import Unavailable
from dicomnode.imaging import CodedConcept, Geometry, ModelIdentity, Segment, Segmentation, SliceSource, Volume
from dicomnode.workspace import Workspace

LIVER = Segment(
    1,
    "Liver",
    (1,),
    CodedConcept("91723000", "SCT", "Anatomical Structure"),
    CodedConcept("10200004", "SCT", "Liver"),
    None,
    (221, 130, 101),
)
AFFINE = np.array([[0, 0, 0.7, -10], [0, 0.8, 0, -20], [2.5, 0, 0, 30], [0, 0, 0, 1]])


def a_volume() -> Volume:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    return Volume(
        voxels, Geometry(AFFINE, (2, 3, 4), "1.2.3"), (SliceSource("1.1", "1.2"), SliceSource("1.3", "1.2", 7))
    )


def a_segmentation() -> Segmentation:
    volume = a_volume()
    labels = (volume.voxels > 11).astype(np.uint8)
    model = ModelIdentity("torso", "1", "Torso", "0" * 64, diagnostic=False, package_sha256="1" * 64)
    return Segmentation(labels, volume.geometry, volume.sources, (LIVER,), model)


def test_a_segmentation_comes_back_as_it_was(tmp_path: Path):
    made = a_segmentation()
    Workspace(tmp_path).write_segmentation(made)
    back = Workspace(tmp_path).read_segmentation()
    assert np.array_equal(back.labels, made.labels)
    assert back.geometry.is_close_to(made.geometry, 0.0)
    assert (back.segments, back.model, back.sources) == (made.segments, made.model, made.sources)


def test_what_is_not_there_can_be_tried_again_later(tmp_path: Path):
    with pytest.raises(Unavailable, match="retry the order"):
        Workspace(tmp_path / "gone").read_segmentation()


def test_a_cleared_workspace_is_gone_and_clearing_twice_is_no_error(tmp_path: Path):
    workspace = Workspace(tmp_path / "order")
    workspace.write_document("objects", [1])
    workspace.clear()
    workspace.clear()
    assert not (tmp_path / "order").exists()


NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from dicomnode.audit import AuditEvent, AuditLog, AuditRecord
from dicomnode.errors import Unavailable
from dicomnode.steps.recorder import now
from dicomnode.workspace import Workspace
from tests.unit.test_workspace import a_segmentation
folder, what = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file's limit then fails the write, as a full disk does
resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
try:
    if what == "workspace":
        Workspace(folder / "order").write_segmentation(a_segmentation())
    else:
        AuditLog(folder).append(AuditRecord(now(), AuditEvent.ROUTED, "work"))
except Unavailable as error:
    sys.exit(7 if "cannot be written" in str(error) else 8)
"""


@pytest.mark.parametrize("what", ["workspace", "audit"])
def test_a_disk_that_takes_no_more_is_something_to_try_again_and_leaves_nothing_half_written(tmp_path: Path, what: str):
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path), what]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert not (tmp_path / "order" / "volume.npy").exists()
