"""An archive as destination: C-STORE with every status looked at, storage commitment, C-FIND, C-ECHO.

Waits without number are bounded by the destination's `timeout_s`; what a connection loses is sent again on
a new one, a few times. Longer patience is the delivery's (see `progress`), which holds no thread meanwhile.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # pyright: ignore[reportAttributeAccessIssue]
    StorageCommitmentPushModelInstance,  # pyright: ignore[reportAttributeAccessIssue]
    StudyRootQueryRetrieveInformationModelFind,  # pyright: ignore[reportAttributeAccessIssue]
    Verification,  # pyright: ignore[reportAttributeAccessIssue]
)

from dicomnode.config import Destination, Peer
from dicomnode.destinations.association import Line, associated, context_for
from dicomnode.destinations.commitment import (
    REQUEST_STORAGE_COMMITMENT,
    build_commitment_request,
    parse_commitment_report,
)
from dicomnode.destinations.files import CONVERTIBLE, DicomFile, read_dicom_file
from dicomnode.destinations.port import Outcome, Stored
from dicomnode.destinations.statuses import TRANSIENT_FAILURES, status_sentence, store_outcome
from dicomnode.errors import DestinationRefused, Unavailable
from dicomnode.ledger.records import CommitmentReport, Rung

_TRIES = 3  # of one instance, and of associations in a row that bring no answer at all
_KINDS_PER_ASSOCIATION = 64  # PS3.8 9.3.2.2: 128 presentation contexts, and a kind may need two
_PENDING = {0xFF00, 0xFF01}
_LITTLE_ENDIAN = [str(uid) for uid in CONVERTIBLE]
_MAX_MESSAGE_ID = 0xFFFF
Progress = Callable[[int, int], None]


class Archive:
    """One peer that keeps DICOM objects; holds no connection between calls."""

    store_reaches = Rung.ACCEPTED

    def __init__(self, destination: Destination, peer: Peer, our_ae_title: str) -> None:
        self._line = Line(our_ae_title, peer, destination.timeout_s)
        self._commitment = destination.commitment

    @property
    def goal(self) -> Rung:
        """Committed where the site asks for commitment, else accepted."""
        return Rung.COMMITTED if self._commitment else Rung.ACCEPTED

    def store(self, paths: Sequence[Path]) -> tuple[Stored, ...]:
        """Send every file; all are kept by the archive when this returns.

        Raises:
            Unavailable: no connection, no answer, or out of resources (0xA7xx, 0x0110, 0x0213).
            DestinationRefused: any other failure status, or the kind of object is not accepted at all.
        """
        answers = self.send(paths)
        for answer in answers:
            self._insist(answer)
        return answers

    def send(self, paths: Sequence[Path], on_progress: Progress | None = None) -> tuple[Stored, ...]:
        """Send many files in the encoding that they have; one answer for each, in the order of `paths`.

        What was not answered is sent again on a new association. `on_progress(answered, total)` follows.

        Raises:
            Unavailable: no association, or three in a row without any answer.
            NodeError: a path is not a DICOM file; nothing is sent then.
        """
        files = [read_dicom_file(path) for path in paths]
        round_ = _Round(len(files), on_progress)
        for batch in _batches(files):
            self._send_batch(batch, round_)
        return tuple(round_.answers[file.path] for file in files)

    def request_commitment(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], wait_s: float
    ) -> CommitmentReport | None:
        """Ask for commitment; the report if it comes on the same association within `wait_s`, else None.

        Many archives report on an association of their own instead, which our listener takes.

        Raises:
            Unavailable: no connection, no answer, or the archive failed to process the request.
            DestinationRefused: it does not offer storage commitment, or refuses the request.
        """
        inbox = _ReportInbox(transaction_uid)
        contexts = [context_for(StorageCommitmentPushModel, _LITTLE_ENDIAN)]
        deadline_s = 3 * self._line.timeout_s + wait_s
        with associated(self._line, contexts, deadline_s, [(evt.EVT_N_EVENT_REPORT, inbox.receive)]) as association:
            answer, _ = association.send_n_action(
                build_commitment_request(transaction_uid, references),
                REQUEST_STORAGE_COMMITMENT,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            self._expect_success(answer, "the storage commitment request")
            return inbox.wait(wait_s)

    def echo(self) -> None:
        """Ask whether the peer is there and speaks to us (C-ECHO).

        Raises:
            Unavailable: no connection, no answer, or rejected.
            DestinationRefused: it answers with another status than success.
        """
        with associated(
            self._line, [context_for(Verification, _LITTLE_ENDIAN)], 3 * self._line.timeout_s
        ) as association:
            self._expect_success(association.send_c_echo(), "C-ECHO")

    def count_instances(self, study_uid: str, series_uid: str) -> int | None:
        """How many instances of a series the peer has (C-FIND, study root); None when it cannot say.

        Raises:
            Unavailable: no connection, or no answer.
        """
        contexts = [context_for(StudyRootQueryRetrieveInformationModelFind, _LITTLE_ENDIAN)]
        try:
            with associated(self._line, contexts, 10 * self._line.timeout_s) as association:
                return self._count(association, study_uid, series_uid)
        except DestinationRefused:
            return None

    def _send_batch(self, files: Sequence[DicomFile], round_: "_Round") -> None:
        silent = 0
        while waiting := round_.waiting(files):
            before = len(round_.answers)
            self._send_on_one_association(waiting, round_)
            silent = silent + 1 if len(round_.answers) == before else 0
            if silent == _TRIES and round_.waiting(files):
                raise Unavailable(self._silence(round_))

    def _send_on_one_association(self, files: Sequence[DicomFile], round_: "_Round") -> None:
        deadline_s = self._line.timeout_s * (len(files) + 2)
        try:
            with associated(self._line, _proposals(files), deadline_s) as association:
                accepted = {_accepted_kind(context) for context in association.accepted_contexts}
                for message_id, file in enumerate(files):
                    if not self._send_file(association, file, accepted, message_id, round_):
                        return
        except DestinationRefused as refusal:  # not one context: each file has its answer
            for file in files:
                round_.answered(file, Stored(file.sop_instance_uid, Outcome.REFUSED, None, str(refusal)))

    def _send_file(
        self,
        association: Association,
        file: DicomFile,
        accepted: set[tuple[str, str]],
        message_id: int,
        round_: "_Round",
    ) -> bool:
        content = _as_accepted(file, accepted)
        if content is None:
            sentence = f"{self._line.words} does not accept {file.kind_in_words}"
            round_.answered(file, Stored(file.sop_instance_uid, Outcome.REFUSED, None, sentence))
            return True
        status = _c_store(association, content, message_id % _MAX_MESSAGE_ID + 1)
        if status is None:
            round_.unanswered(file)
            return False
        round_.answered(file, Stored(file.sop_instance_uid, store_outcome(status), status, status_sentence(status)))
        return True

    def _silence(self, round_: "_Round") -> str:
        # Orthanc accepts the association of an AE title that it does not know and aborts at the first C-STORE.
        return (
            f"{self._line.words}: {_TRIES} associations in a row brought no answer to C-STORE, aborted or silent for "
            f"{self._line.timeout_s:g} s; {len(round_.answers)} of {round_.total} instances were answered; "
            f"does it know {self._line.our_ae_title} and let it store?"
        )

    def _insist(self, answer: Stored) -> None:
        if answer.kept:
            return
        sentence = f"{self._line.words}: instance {answer.sop_instance_uid}: {answer.sentence}"
        if answer.outcome is Outcome.REFUSED:
            raise DestinationRefused(sentence)
        raise Unavailable(sentence)

    def _expect_success(self, answer: Dataset, what: str) -> None:
        status = answer.get("Status")
        if status is None:
            raise Unavailable(f"{self._line.words}: no answer to {what} within {self._line.timeout_s:g} s")
        if status == 0x0000:
            return
        sentence = f"{self._line.words}: {what} was answered with {status_sentence(int(status))}"
        if status in TRANSIENT_FAILURES:
            raise Unavailable(sentence)
        raise DestinationRefused(sentence)

    def _count(self, association: Association, study_uid: str, series_uid: str) -> int | None:
        series = self._find(association, _series_query(study_uid, series_uid))
        numbers = [int(match.NumberOfSeriesRelatedInstances) for match in series if _has_count(match)]
        if numbers:
            return numbers[0]
        if not series:
            return None
        return len(self._find(association, _image_query(study_uid, series_uid))) or None

    def _find(self, association: Association, query: Dataset) -> list[Dataset]:
        matches: list[Dataset] = []
        last: int | None = None
        with suppress(RuntimeError):  # the association is gone; `last` tells
            for answer, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                last = answer.get("Status")
                if last in _PENDING and identifier is not None:
                    matches.append(identifier)
        if last is None or last in _PENDING:
            raise Unavailable(
                f"{self._line.words}: C-FIND was not answered to its end within {self._line.timeout_s:g} s"
            )
        if last != 0x0000:
            raise DestinationRefused(f"{self._line.words}: C-FIND was answered with {status_sentence(last)}")
        return matches


class _Round:
    """The answers of one `send` so far, and how often each unanswered file was tried."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.total = total
        self.answers: dict[Path, Stored] = {}
        self._tries: dict[Path, int] = {}
        self._on_progress = on_progress

    def waiting(self, files: Sequence[DicomFile]) -> list[DicomFile]:
        """Files without an answer; those that were tried before come last, lest one holds up the others."""
        rest = [file for file in files if file.path not in self.answers]
        return sorted(rest, key=lambda file: self._tries.get(file.path, 0))

    def answered(self, file: DicomFile, answer: Stored) -> None:
        self.answers[file.path] = answer
        if self._on_progress is not None:
            self._on_progress(len(self.answers), self.total)

    def unanswered(self, file: DicomFile) -> None:
        tries = self._tries[file.path] = self._tries.get(file.path, 0) + 1
        if tries == _TRIES and self.answers:
            sentence = f"sent {tries} times on {tries} associations, never answered"
            self.answered(file, Stored(file.sop_instance_uid, Outcome.UNANSWERED, None, sentence))


class _ReportInbox:
    """Waits for the N-EVENT-REPORT of one transaction on the association that asked."""

    def __init__(self, transaction_uid: str) -> None:
        self._transaction_uid = transaction_uid
        self._report: CommitmentReport | None = None
        self._arrived = threading.Event()

    def receive(self, event: Event) -> tuple[int, None]:
        """Answer the archive: success for our transaction, processing failure for what we cannot use."""
        try:
            report = parse_commitment_report(event.event_information)
        except (ValueError, AttributeError, TypeError):  # what reading a peer's malformed data set raises
            return 0x0110, None
        if report.transaction_uid != self._transaction_uid:
            return 0x0110, None  # not lost: the archive may report it to our listener
        self._report = report
        self._arrived.set()
        return 0x0000, None

    def wait(self, wait_s: float) -> CommitmentReport | None:
        """The report, or None when none came within `wait_s`."""
        self._arrived.wait(wait_s)
        return self._report


def _batches(files: Sequence[DicomFile]) -> Iterator[list[DicomFile]]:
    """Files in groups whose kinds fit into one association's presentation contexts."""
    kinds = list(dict.fromkeys(file.kind for file in files))
    for start in range(0, len(kinds), _KINDS_PER_ASSOCIATION):
        chosen = set(kinds[start : start + _KINDS_PER_ASSOCIATION])
        yield [file for file in files if file.kind in chosen]


def _proposals(files: Sequence[DicomFile]) -> list[PresentationContext]:
    """For each kind its own syntax alone, and for little endian ones the sibling in a second context."""
    proposals: dict[tuple[str, str], None] = {}
    for file in files:
        proposals[file.kind] = None
        if file.transfer_syntax_uid in _LITTLE_ENDIAN:
            proposals.update({(file.sop_class_uid, syntax): None for syntax in _LITTLE_ENDIAN})
    return [context_for(sop_class, [syntax]) for sop_class, syntax in proposals]


def _accepted_kind(context: PresentationContext) -> tuple[str, str]:
    return str(context.abstract_syntax), str(context.transfer_syntax[0])


def _as_accepted(file: DicomFile, accepted: set[tuple[str, str]]) -> Path | Dataset | None:
    """The file itself where its encoding was accepted, its data set where it can be converted, else None."""
    if file.kind in accepted:
        return file.path
    siblings = {(file.sop_class_uid, syntax) for syntax in _LITTLE_ENDIAN}
    if file.transfer_syntax_uid in _LITTLE_ENDIAN and siblings & accepted:
        return dcmread(file.path)
    return None


def _c_store(association: Association, content: Path | Dataset, message_id: int) -> int | None:
    """The status of one C-STORE, None when the association was lost before an answer."""
    try:
        return association.send_c_store(content, msg_id=message_id).get("Status")
    except RuntimeError:  # pynetdicom: the association ended before this request
        return None


def _series_query(study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.NumberOfSeriesRelatedInstances = None
    return query


def _image_query(study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.SOPInstanceUID = ""
    return query


def _has_count(match: Dataset) -> bool:
    return match.get("NumberOfSeriesRelatedInstances") not in {None, ""}
