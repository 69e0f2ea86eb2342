"""The audit log: what is appended is chained, verifiable, and survives whoever writes it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.audit import AuditEvent, AuditHead, AuditLog, AuditOutcome, AuditRecord, verify
from dicomnode.audit.chain import HEAD_NAME, LOG_NAME
from dicomnode.errors import Unavailable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SENT = AuditRecord(NOON, AuditEvent.SENT, "deliver", study_instance_uid="1.2.3", sop_instance_uids=("1.2.3.4",))


def write(folder: Path, records: int) -> AuditHead:
    log = AuditLog(folder)
    for number in range(records):
        log.append(replace(SENT, detail=f"entry {number}"))
    return log.head()


def lines(folder: Path) -> list[bytes]:
    return (folder / LOG_NAME).read_bytes().splitlines(keepends=True)


def append_many(folder: Path, name: str, records: int) -> None:
    for number in range(records):
        AuditLog(folder).append(replace(SENT, role=name, detail=f"{name} {number}"))


def test_what_was_appended_verifies_and_the_head_counts_it(tmp_path: Path) -> None:
    head = write(tmp_path, 5)
    found = verify(tmp_path)
    assert found.is_intact
    assert (found.records, found.head) == (5, head)
    assert head.records == 5


def test_a_log_that_was_never_written_is_intact_and_empty(tmp_path: Path) -> None:
    assert verify(tmp_path).is_intact
    assert verify(tmp_path).records == 0


def test_a_line_holds_what_was_said_and_nothing_that_was_not(tmp_path: Path) -> None:
    AuditLog(tmp_path).append(replace(SENT, outcome=AuditOutcome.SERIOUS_FAILURE, peer="PACS"))
    line = json.loads(lines(tmp_path)[0])
    del line["previous"]
    assert line == {
        "number": 1,
        "at": "2026-01-01T12:00:00.000+00:00",
        "event": "sent",
        "outcome": 8,
        "role": "deliver",
        "study": "1.2.3",
        "sop_instances": ["1.2.3.4"],
        "peer": "PACS",
    }


def test_a_patient_is_named_by_a_digest_only() -> None:
    with pytest.raises(ValueError, match="patient_key as 64 hexadecimal digits, found 8 characters"):
        replace(SENT, patient_key="Doe^Jane")


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        replace(SENT, at=NOON.replace(tzinfo=None))


def test_a_cut_tail_is_found_by_the_head_file(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / LOG_NAME).write_bytes(b"".join(lines(tmp_path)[:3]))
    found = verify(tmp_path)
    assert found.records == 3
    assert found.problems == ("expected at least 5 records, as a head says, found 3: the end was cut off",)


def test_a_log_written_anew_with_its_head_is_found_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    known = write(tmp_path / "true", 5)
    AuditLog(tmp_path / "forged").append(replace(SENT, detail="nothing happened"))
    write(tmp_path / "forged", 5)
    assert verify(tmp_path / "forged").is_intact
    found = verify(tmp_path / "forged", [known])
    assert found.problems == ("record 5 is not the one that a head vouches for",)


def test_heads_of_earlier_days_still_vouch_for_a_log_that_grew(tmp_path: Path) -> None:
    known = [write(tmp_path, 2), write(tmp_path, 3), write(tmp_path, 4)]
    assert verify(tmp_path, known).is_intact


def test_the_first_break_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, 5)
    changed = [*lines(tmp_path)]
    changed[1] = changed[1].replace(b"entry 1", b"entry 9")
    (tmp_path / LOG_NAME).write_bytes(b"".join(changed))
    found = verify(tmp_path)
    assert found.problems == ("line 3: record 3 does not follow from the line before, which was changed",)


def test_a_removed_head_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / HEAD_NAME).unlink()
    assert verify(tmp_path).problems == ("expected a head file beside 3 records, found none",)


def test_a_torn_last_line_is_a_crash_and_not_tampering(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with (tmp_path / LOG_NAME).open("ab") as log:
        log.write(b'{"number":4,"previous":"00')
    found = verify(tmp_path)
    assert found.is_intact
    assert (found.records, found.torn_bytes) == (3, 26)


def test_a_torn_last_line_is_set_aside_and_recorded_by_the_next_writer(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with (tmp_path / LOG_NAME).open("ab") as log:
        log.write(b'{"number":4,"previous":"00')
    AuditLog(tmp_path).append(SENT)
    events = [json.loads(line)["event"] for line in lines(tmp_path)]
    assert events[3:] == ["torn tail recovered", "sent"]
    assert [path.read_bytes() for path in tmp_path.glob("torn-*.bin")] == [b'{"number":4,"previous":"00']
    assert verify(tmp_path).is_intact


def test_a_whole_record_cut_in_half_is_tampering_because_the_head_names_it(tmp_path: Path) -> None:
    write(tmp_path, 3)
    content = (tmp_path / LOG_NAME).read_bytes()
    (tmp_path / LOG_NAME).write_bytes(content[:-20])
    assert not verify(tmp_path).is_intact


def test_a_writer_that_died_before_the_head_was_replaced_leaves_an_intact_log(tmp_path: Path) -> None:
    write(tmp_path, 2)
    head = (tmp_path / HEAD_NAME).read_bytes()
    AuditLog(tmp_path).append(SENT)
    (tmp_path / HEAD_NAME).write_bytes(head)
    assert verify(tmp_path).is_intact
    AuditLog(tmp_path).append(SENT)
    assert verify(tmp_path).records == 4
    assert verify(tmp_path).is_intact


@pytest.mark.parametrize("damage", ["cut", "cut in half", "emptied", "last line", "head"])
def test_writing_on_does_not_wash_tampering_away(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 4)
    kept = lines(tmp_path)
    match damage:
        case "cut":
            (tmp_path / LOG_NAME).write_bytes(b"".join(kept[:2]))
        case "cut in half":
            (tmp_path / LOG_NAME).write_bytes(b"".join(kept)[:-20])
        case "emptied":
            (tmp_path / LOG_NAME).write_bytes(b"")
        case "last line":
            (tmp_path / LOG_NAME).write_bytes(b"".join(kept[:3]) + b"not a record\n")
        case _:
            (tmp_path / HEAD_NAME).write_bytes(b"{}\n")
    AuditLog(tmp_path).append(SENT)
    AuditLog(tmp_path).append(SENT)
    problems = verify(tmp_path).problems
    assert any("alarm" in problem for problem in problems)
    assert sum(b'"audit alarm"' in line for line in lines(tmp_path)) == 1


def test_three_processes_write_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=append_many, args=(tmp_path, name, 200)) for name in ("listen", "work", "deliver")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(50)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    found = verify(tmp_path)
    assert found.is_intact
    assert found.records == 600
    written = [json.loads(line)["detail"] for line in lines(tmp_path)]
    for name in ("listen", "work", "deliver"):
        assert [detail for detail in written if detail.startswith(name)] == [f"{name} {n}" for n in range(200)]


APPEND_FOREVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dicomnode.audit import AuditEvent, AuditLog, AuditRecord
while True:
    record = AuditRecord(datetime.now(UTC), AuditEvent.SENT, "work", detail="x" * 2000)
    head = AuditLog(Path(sys.argv[1])).append(record)
    print(head.records, flush=True)
"""


def test_a_log_whose_writer_is_killed_keeps_every_record_that_was_confirmed(tmp_path: Path) -> None:
    for kill in range(5):
        writer = subprocess.Popen([sys.executable, "-c", APPEND_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(20 + kill):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        confirmed = [int(line) for line in writer.stdout.read().splitlines() if line.strip()]
        writer.stdout.close()
        writer.wait()
        found = verify(tmp_path)
        assert found.is_intact
        assert found.records >= max(confirmed, default=0)
        AuditLog(tmp_path).append(SENT)
        assert verify(tmp_path).is_intact


def test_a_log_that_cannot_be_written_says_so_and_may_be_retried(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="audit log cannot be written"):
        AuditLog(tmp_path / "audit").append(SENT)


def test_a_copy_of_the_log_on_read_only_ground_can_be_verified(tmp_path: Path) -> None:
    write(tmp_path / "node", 3)
    (tmp_path / "copy").mkdir()
    for name in (LOG_NAME, HEAD_NAME):
        (tmp_path / "copy" / name).write_bytes((tmp_path / "node" / name).read_bytes())
    before = sorted(path.name for path in (tmp_path / "copy").iterdir())
    assert verify(tmp_path / "copy").is_intact
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == before


def test_a_record_longer_than_what_a_writer_first_reads_of_the_log_is_found_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    AuditLog(tmp_path).append(replace(SENT, detail="é" * 10_000))
    assert len(lines(tmp_path)[3]) > 16384
    assert AuditLog(tmp_path).append(SENT).records == 5
    assert verify(tmp_path).is_intact
