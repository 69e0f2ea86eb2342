"""The benchmark: its steps do the same work as the peers beside them, and a missed budget is said."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode.demo.bench import Row, describe_machine, rows_of
from dicomnode.demo.bench_place import ENCODINGS, MIB, MODEL, Detail, Place, Size, Stopwatch, peak_mib
from dicomnode.demo.bench_sender import read_loaded, renamed, send_loaded
from dicomnode.demo.bench_steps import STEPS
from dicomnode.demo.series import write_series
from dicomnode.errors import NodeError
from dicomnode.models import ModelStore
from tests.listening import ct_data_sets, listening, listening_config

SMALL = Size(slices=12, rows=64, slice_mm=5.0, pixel_mm=6.0, waiting=6, routed=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("bench"), SMALL)
    STEPS["material"](made, Stopwatch())
    return made


@pytest.fixture(scope="module")
def details(place: Place) -> dict[str, Detail]:
    read = ("assemble", "simpleitk", "assemble-jls", "simpleitk-jls", "assemble-j2k", "simpleitk-j2k")
    network = ("infer", "infer-25", "infer-118", "infer-fp32", "monai")
    names = ("find", "gate", *read, "resample", *network, "encode", "highdicom", "check", "whole")
    return {name: STEPS[name](place, Stopwatch()) for name in names}


def test_the_node_and_simpleitk_read_the_same_grid(details: dict[str, Detail]):
    assert details["assemble"]["shape"] == details["simpleitk"]["shape"] == (12, 64, 64)
    assert details["gate"]["verdicts"] == []
    assert details["find"]["instances"] == 12


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_compressed_copies_are_smaller_and_the_same_voxels(encoding: str, place: Place, details: dict[str, Detail]):
    original, smaller = (_bytes_in(folder) for folder in (place.series_folder, place.compressed_folder(encoding)))
    assert smaller < original
    assert details[f"assemble-{encoding}"]["identical"]
    assert details[f"simpleitk-{encoding}"]["shape"] == (12, 64, 64)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_node_and_highdicom_write_the_same_frames(details: dict[str, Detail]):
    assert details["encode"]["segments"] == details["highdicom"]["segments"] == 4
    assert details["encode"]["file_mb"] == pytest.approx(details["highdicom"]["file_mb"], abs=0.1)


def test_the_network_sees_as_many_windows_in_the_whole_path_as_alone(details: dict[str, Detail]):
    assert details["whole"]["inference"]["stages"][0]["windows"] == details["infer"]["windows"] > 1
    assert set(details["infer"]["phases"]) >= {"windows", "back"}
    assert 0 < details["whole"]["neighbours_differ"] < 1


def test_the_networks_are_shown_as_many_windows_whatever_their_classes_and_monai_labels_the_same_grid(
    details: dict[str, Detail],
):
    steps = ("infer", "infer-25", "infer-118", "infer-fp32")
    assert len({details[step]["windows"] for step in steps}) == 1
    assert sorted(details["monai"]["shape"]) == [12, 64, 64]
    assert all(details[step]["cpu_phases"].keys() >= {"windows", "back"} for step in (*steps, "monai"))
    assert 0.9 < details["infer-fp32"]["dice"] <= 1


def test_the_random_weights_are_the_same_every_time(place: Place, tmp_path: Path):
    from dicomnode.demo.bench_material import write_model

    again = Place(tmp_path, SMALL)
    write_model(again)
    digests = [ModelStore([p.models]).package(MODEL).manifest.digest for p in (place, again)]
    assert digests[0] == digests[1]


def test_a_step_prints_one_line_of_json_with_its_seconds_and_memory(place: Place):
    command = [sys.executable, "-m", "dicomnode.demo.bench_steps", "find", str(place.folder), "quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert found["instances"] == 12
    assert found["wall_s"] > 0
    assert 10 < found["peak_mib"] < 200


def test_the_worker_is_watched_while_series_wait(place: Place):
    found = STEPS["waiting"](place, Stopwatch())
    assert (found["waiting_few"], found["peak_mib_few"] > 100) == (4, True)
    assert found["waiting_many"] <= SMALL.waiting - SMALL.routed
    assert found["growth_mib"] == pytest.approx(found["peak_mib_many"] - found["peak_mib_few"], abs=0.11)


def test_a_stopwatch_sees_the_processor_and_the_memory():
    before_mib = peak_mib()
    with Stopwatch() as watch:
        filled = np.ones(int(before_mib + 64) * MIB, np.uint8)
        began = time.process_time()
        while time.process_time() - began < 0.2:
            pass
    assert watch.cpu_s >= 0.2
    assert watch.wall_s >= 0.2
    assert watch.peak_mib > filled.size / MIB


def test_what_the_sender_sends_is_on_the_listeners_disk_whatever_the_number_of_the_message(tmp_path: Path):
    # Among more than 512 message numbers are those whose bytes look like other elements of a response.
    paths = write_series(ct_data_sets("bench", slices=5, pixels=8), tmp_path / "series")
    files = [file.under(number) for number in range(106) for file in map(read_loaded, paths)]
    with listening(listening_config(tmp_path / "node")) as node:
        sent = send_loaded(node.port, files, "SENDER", "NODE")
        node.wait_for_end()
        kept = {instance.sop_instance_uid for instance in node.told.received}
        assert len({instance.series_instance_uid for instance in node.told.received}) == 1
    assert kept == {file.sop_instance_uid for file in files}
    assert (len(files), len(kept)) == (530, 500)  # the same slice sent again is the same file
    assert sent.seconds > 0


def test_a_sender_that_is_refused_says_so(tmp_path: Path):
    paths = write_series(ct_data_sets("bench", slices=1, pixels=8), tmp_path / "series")
    files = [read_loaded(path) for path in paths]
    with listening(listening_config(tmp_path / "node")) as node, pytest.raises(NodeError, match="expected PDU type 2"):
        send_loaded(node.port, files, "STRANGER", "NODE")


def test_a_renamed_uid_has_the_same_length_and_number_0_is_itself():
    names = {renamed("2.25.1234598", number) for number in range(100)}
    assert (len(names), {len(name) for name in names}) == (100, {12})
    assert renamed("2.25.1234598", 0) == "2.25.1234598"


def made_up_results(**changes: Detail) -> dict[str, Detail]:
    """Results of a machine that keeps every budget."""
    step = {"wall_s": 1.0, "cpu_s": 1.0, "peak_mib": 100.0, "cpu_before_s": 2.0}
    seg = {"segments": 4, "file_mb": 40.0, "neighbours_differ": 0.1, "identical": True}
    compressed = ("assemble-jls", "simpleitk-jls", "assemble-j2k", "simpleitk-j2k")
    names = ("find", "gate", "assemble", "simpleitk", "resample", "encode", "highdicom", "check", "whole", "shipped")
    phases = {"windows": 1.0, "back": 1.0}
    infer = {"phases": phases, "cpu_phases": phases, "dice": 0.99, "shipped_dice": 0.9995}
    infer |= {"windows": 48, "device": "cpu", "threads": 1, "precision": "bf16"}
    turn = {"seconds": 8.0, "steps_s": {"infer": 5.0, "encode": 1.0}, "network_s": 4.0, "rest_s": 4.0}
    listener = {
        "mb_per_s": [150.0, 120.0, 90.0],
        "storescu_mb_per_s": [],
        "peak_mib_listener": 100.0,
        "longer_instances": 1200,
        "longer_peak_mib_listener": 101.0,
        "longer_mb_per_s": 150.0,
    }
    waiting = {"waiting_many": 9980, "waiting_few": 40, "peak_mib_many": 500.0, "growth_mib": 0.5}
    network: dict[str, Any] = {
        "turnaround": {"first": turn, "warm": turn, "warm_rest_s": [4.0]},
        "listener": listener,
        "waiting": waiting,
    }
    results: dict[str, Any] = dict.fromkeys((*names, *compressed), step | seg) | network
    results |= dict.fromkeys(("infer", "infer-25", "infer-118", "infer-fp32", "monai"), step | infer)
    results |= dict.fromkeys(("turnaround-shipped", "turnaround-j2k"), results["turnaround"])
    results |= {"disk": {"mb_per_s": [900.0]}}
    return {name: {**found, **changes.get(name, {})} for name, found in results.items()}


def verdicts(rows: list[Row]) -> dict[str, str]:
    return {row.step.strip(): row.kept for row in rows if row.kept}


def test_kept_budgets_are_marked():
    marks = verdicts(rows_of(made_up_results(), quick=False))
    assert len(marks) == 11
    assert set(marks.values()) == {"yes"}


LATE = {"seconds": 9.5, "steps_s": {"infer": 5.0}, "network_s": 4.0, "rest_s": 5.5}


@pytest.mark.parametrize(
    ("step", "found", "missed"),
    [
        ("whole", {"cpu_s": 6.1}, "files to checked SEG, UNet 16..256"),
        ("whole", {"peak_mib": 1332.0}, "files to checked SEG, UNet 16..256"),
        ("infer", {"cpu_phases": {"windows": 2.6, "back": 1.0}}, "its windows"),
        ("infer", {"cpu_phases": {"windows": 2.5, "back": 1.6}}, "its way back to the source grid"),
        ("infer-25", {"peak_mib": 151.0}, "infer, 25 classes"),
        ("infer-118", {"peak_mib": 151.0}, "infer, 118 classes"),
        ("listener", {"mb_per_s": [150.0, 99.0, 98.0]}, "listener, one association"),
        ("listener", {"longer_peak_mib_listener": 117.0}, "1200 instances"),
        ("turnaround", {"warm": LATE}, "last slice to archive, UNet 16..256"),
        ("turnaround-shipped", {"warm": LATE}, "last slice to archive, torso model"),
        ("turnaround-j2k", {"warm": LATE}, "last slice to archive, torso, JPEG 2000"),
        ("waiting", {"growth_mib": 16.1}, "worker while 9980 series wait"),
    ],
)
def test_a_missed_budget_is_said(step: str, found: Detail, missed: str):
    marks = verdicts(rows_of(made_up_results(**{step: found}), quick=False))
    assert [name for name, mark in marks.items() if mark == "NO"] == [missed]


def test_a_quick_run_is_not_held_to_the_budgets_of_the_full_series():
    rows = rows_of(made_up_results(whole={"cpu_s": 99.0}), quick=True)
    assert verdicts(rows) == {}


def test_the_slow_peers_may_be_left_out():
    results = made_up_results()
    del results["monai"]
    assert not any("MONAI" in row.step for row in rows_of(results, quick=False))


def test_a_machine_without_storescu_says_so():
    notes = [row.note for row in rows_of(made_up_results(), quick=False) if "storescu" in row.step]
    assert notes == ["storescu is not installed"]


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert machine["cpu"]
    assert machine["torch"][0].isdigit()
