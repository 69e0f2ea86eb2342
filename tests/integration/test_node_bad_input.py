"""A bad morning: broken series arrive between good ones. Each gets its own named outcome, the good ones get through."""

import socket
from collections.abc import Callable, Iterator

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import MRImageStorage

from dicomnode.demo.archive import StandInArchive
from dicomnode.ledger import OrderState
from tests.site import AE_TITLE, Site, torso_series

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SPACING_MM = (24.0, 6.0, 6.0)
Spoil = Callable[[list[FileDataset]], list[FileDataset]]


def a_gap(slices: list[FileDataset]) -> list[FileDataset]:
    return slices[:5] + slices[6:]


def two_patients(slices: list[FileDataset]) -> list[FileDataset]:
    for ds in slices[3:]:
        ds.PatientID = "SOMEBODY-ELSE"
    return slices


def one_slice(slices: list[FileDataset]) -> list[FileDataset]:
    return slices[:1]


def localizers(slices: list[FileDataset]) -> list[FileDataset]:
    for ds in slices:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return slices


def one_uid_with_two_contents(slices: list[FileDataset]) -> list[FileDataset]:
    again = dcmread(str(slices[4].filename))
    again.PixelData = bytes(len(again.PixelData))
    return [*slices, again]


def truncated_pixels(slices: list[FileDataset]) -> list[FileDataset]:
    slices[2].PixelData = slices[2].PixelData[: len(slices[2].PixelData) // 2]
    return slices


def another_modality(slices: list[FileDataset]) -> list[FileDataset]:
    for ds in slices:
        ds.Modality = "MR"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    return slices


# what is done to a series -> what the node must say of it, and where (order or series)
SPOILED: dict[Spoil, str] = {
    a_gap: "missing_slices",
    two_patients: "mixed_patients",
    one_slice: "expected number_of_instances min 3, found 1",
    localizers: "localizer",
    one_uid_with_two_contents: "conflicting_instance",
    truncated_pixels: "truncated_pixels",
    another_modality: "expected Modality equals 'CT'",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, StandInArchive, dict[str, Spoil]]]:
    folder = tmp_path_factory.mktemp("morning")
    port = free_port()
    with (
        StandInArchive(folder / "archive", "ARCHIVE", callers={AE_TITLE: ("127.0.0.1", port)}) as archive,
        Site(folder / "node", port, ("ARCHIVE", archive.port)) as site,
    ):
        site.start()
        site.send(torso_series(folder / "first", 100, SPACING_MM), "ARCHIVE")
        sent: dict[str, Spoil] = {}
        for seed, spoil in enumerate(SPOILED):
            series = spoil([dcmread(p) for p in torso_series(folder / f"{seed}", seed, SPACING_MM)])
            paths = [folder / f"{seed}" / f"spoiled-{number}.dcm" for number in range(len(series))]
            for ds, path in zip(series, paths, strict=True):
                ds.save_as(path)
            site.send(paths, "ARCHIVE")
            sent[str(series[0].SeriesInstanceUID)] = spoil
        site.send(torso_series(folder / "last", 101, SPACING_MM), "ARCHIVE")
        site.wait_for(lambda: len(archive.kept(SEG)) == 2 and _all_answered(site))
        yield site, archive, sent


def _all_answered(site: Site) -> bool:
    """Every series has been routed, and every order done or set aside."""
    states = [v["state"] for v in site.ledger.received.versions()]
    finished = all(o.state in {OrderState.DONE, OrderState.PARKED} for o in site.orders())
    return len(states) == len(SPOILED) + 2 and "complete" not in states and finished


def test_the_good_series_are_segmented_and_committed(morning: tuple[Site, StandInArchive, dict[str, Spoil]]):
    site, archive, _ = morning
    assert len([o for o in site.orders() if o.state is OrderState.DONE]) == 2
    assert len(archive.kept(SEG)) == 2


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_series_gets_its_own_named_outcome(
    morning: tuple[Site, StandInArchive, dict[str, Spoil]], spoil: Spoil
):
    site, _, sent = morning
    series_uid = next(uid for uid, how in sent.items() if how is spoil)
    [version] = site.ledger.received.versions({"series_instance_uid": series_uid})
    orders = site.ledger.ordered.orders_of(str(version["version_id"]))
    said = orders[0].detail if orders else str(version["detail"])
    assert SPOILED[spoil] in said
    assert all(o.state is OrderState.PARKED for o in orders)


def test_no_patient_is_named_in_any_log_or_record(morning: tuple[Site, StandInArchive, dict[str, Spoil]]):
    site, _, _ = morning
    written = "".join(site.log(role) for role in ("listen", "work", "deliver"))
    written += (site.audit_dir / "audit.jsonl").read_text()
    written += "".join(o.detail for o in site.orders())
    assert "series complete" in written
    for identity in ("PHANTOM-1", "SOMEBODY-ELSE", "Phantom^Torso"):
        assert identity not in written
