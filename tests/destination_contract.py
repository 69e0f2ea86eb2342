"""What every destination promises, whatever it is; subclasses say what stands behind the port."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, RLELossless

from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.destinations import DestinationPort
from dicomnode.errors import NodeError, Unavailable
from dicomnode.imaging import Geometry, derived_uid
from dicomnode.ledger.records import CommitmentReport, Rung

NO_SUCH_INSTANCE = 0x0112


def ct_slices(seed: str, slices: int = 3, pixels: int = 16) -> list[FileDataset]:
    """A small CT series with something in it."""
    voxels = np.random.default_rng(len(seed)).integers(-1000, 1000, (slices, pixels, pixels)).astype(np.int16)
    affine = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    identity = SeriesIdentity(seed)
    geometry = Geometry(affine, (slices, pixels, pixels), identity.frame_of_reference_uid)
    return build_ct_slices(voxels, geometry, identity)


def ct_series(folder: Path, seed: str, slices: int = 3, pixels: int = 16) -> list[Path]:
    """`ct_slices` as files."""
    return write_series(ct_slices(seed, slices, pixels), folder / seed)


def uids_of(paths: Sequence[Path]) -> list[str]:
    """SOP Instance UIDs in the order of the files."""
    return [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]


def threads_and_sockets() -> tuple[int, int]:
    """What a call must not leave behind."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    sockets = 0
    for link in links:
        try:
            sockets += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue  # the folder's own descriptor
    return threading.active_count(), sockets


def has_more(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Whether a thread or a socket came in addition."""
    return now[0] > before[0] or now[1] > before[1]


@dataclass(frozen=True)
class Behind:
    """A destination with a view of what it really keeps."""

    port: DestinationPort
    kept: Callable[[], Mapping[str, bytes]]  # SOP Instance UID -> DICOM file
    out_of_reach: DestinationPort
    report: Callable[[str], CommitmentReport | None]  # one that came another way than as the answer


class DestinationContract:
    """Inherit and define the fixture `behind`."""

    @pytest.fixture
    def behind(self, tmp_path: Path) -> Behind:
        raise NotImplementedError

    def test_what_is_stored_is_kept_with_every_pixel(self, behind: Behind, tmp_path: Path) -> None:
        paths = ct_series(tmp_path, "kept")
        answers = behind.port.store(paths)
        assert [answer.sop_instance_uid for answer in answers] == uids_of(paths)
        assert all(answer.kept for answer in answers)
        kept = behind.kept()
        for path in paths:
            sent = dcmread(path)
            found = dcmread(BytesIO(kept[sent.SOPInstanceUID]))
            assert np.array_equal(found.pixel_array, sent.pixel_array)
            assert found.PatientID == sent.PatientID

    def test_compressed_instances_stay_as_they_are_encoded(self, behind: Behind, tmp_path: Path) -> None:
        paths = ct_series(tmp_path, "compressed", slices=1, pixels=64)
        dataset = dcmread(paths[0])
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(paths[0])
        assert behind.port.store(paths)[0].kept
        found = dcmread(BytesIO(behind.kept()[dataset.SOPInstanceUID]))
        assert found.file_meta.TransferSyntaxUID == RLELossless
        assert found.PixelData == dataset.PixelData

    def test_storing_again_is_success_and_makes_no_twin(self, behind: Behind, tmp_path: Path) -> None:
        paths = ct_series(tmp_path, "again")
        behind.port.store(paths)
        before = len(behind.kept())
        assert all(answer.kept for answer in behind.port.store(paths))
        assert len(behind.kept()) == before

    def test_storing_nothing_is_no_work(self, behind: Behind) -> None:
        assert behind.port.store([]) == ()

    def test_a_file_that_is_not_dicom_is_an_error_and_no_other_leaves_with_it(
        self, behind: Behind, tmp_path: Path
    ) -> None:
        (tmp_path / "letter.txt").write_text("not an image")
        with pytest.raises(NodeError, match="expected a DICOM file") as caught:
            behind.port.store([*ct_series(tmp_path, "beside"), tmp_path / "letter.txt"])
        assert not caught.value.retryable
        assert not set(uids_of(ct_series(tmp_path, "beside"))) & set(behind.kept())

    def test_the_destination_says_which_instances_it_commits(self, behind: Behind, tmp_path: Path) -> None:
        paths = ct_series(tmp_path, "committed", slices=2)
        behind.port.store(paths)
        missing = derived_uid("never", "sent")
        transaction = derived_uid("transaction", str(time.time_ns()))
        references = [(CTImageStorage, uid) for uid in [*uids_of(paths), missing]]
        report = behind.port.request_commitment(transaction, references, wait_s=2.0) or behind.report(transaction)
        assert report is not None
        assert report.transaction_uid == transaction
        assert sorted(report.committed) == sorted(uids_of(paths))
        assert report.failed == ((missing, NO_SUCH_INSTANCE),)

    def test_its_goal_can_be_reached(self, behind: Behind) -> None:
        assert Rung.ACCEPTED <= behind.port.store_reaches <= behind.port.goal
        assert behind.port.goal <= max(behind.port.store_reaches, Rung.COMMITTED)

    def test_one_out_of_reach_says_so_soon_and_may_be_retried(self, behind: Behind, tmp_path: Path) -> None:
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            behind.out_of_reach.store(ct_series(tmp_path, "unreachable"))
        assert caught.value.retryable
        assert time.monotonic() - began < 15

    def test_no_thread_and_no_socket_is_left_behind(self, behind: Behind, tmp_path: Path) -> None:
        paths = ct_series(tmp_path, "tidy")
        behind.port.store(paths)
        deadline = time.monotonic() + 10
        before = threads_and_sockets()
        behind.port.store(paths)
        with pytest.raises(Unavailable):
            behind.out_of_reach.store(paths)
        while has_more(threads_and_sockets(), before) and time.monotonic() < deadline:
            time.sleep(0.01)  # the other side of a connection in this process ends a moment later
        assert not has_more(threads_and_sockets(), before)
