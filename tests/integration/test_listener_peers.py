"""The listener as pynetdicom and dcmtk see it."""

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import (
    CTImageStorage,  # pyright: ignore[reportAttributeAccessIssue] - made at import time
    EnhancedMRImageStorage,  # pyright: ignore[reportAttributeAccessIssue]
    SegmentationStorage,  # pyright: ignore[reportAttributeAccessIssue]
    StorageCommitmentPushModel,  # pyright: ignore[reportAttributeAccessIssue]
    StorageCommitmentPushModelInstance,
    Verification,  # pyright: ignore[reportAttributeAccessIssue]
)

from dicomnode.receive import Outcome
from dicomnode.receive.services import STORAGE_CLASSES, STORAGE_SYNTAXES
from tests.listening import Node, ct_data_sets, ct_files, listening, listening_config
from tests.peers import program, shared_data
from tests.raw_sender import RawSender, associate_request, context

TRANSACTION = "1.2.3.77"


def dcmtk(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of dcmtk without its Nagle delays."""
    env = os.environ | {"TCP_NODELAY": "1"} | environment
    return subprocess.run([program(command[0]), *command[1:]], env=env, capture_output=True, text=True, timeout=60)


def sender_of(contexts: list[tuple[str, list[str]]]) -> ApplicationEntity:
    entity = ApplicationEntity("SENDER")
    for abstract, transfers in contexts:
        entity.add_requested_context(abstract, transfers)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    return entity


def test_an_echo_is_answered(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path)) as node:
        assert dcmtk("echoscu", "-aet", "SENDER", "-aec", "NODE", "127.0.0.1", str(node.port)).returncode == 0
        association = sender_of([(Verification, ["1.2.840.10008.1.2"])]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert association.send_c_echo().Status == 0
        association.release()
        node.wait_for_end(2)
    assert node.kept() == []


def test_a_series_from_pynetdicom_is_kept_byte_for_byte(tmp_path: Path) -> None:
    data_sets = ct_data_sets("series", slices=5)
    with listening(listening_config(tmp_path)) as node:
        association = sender_of([(CTImageStorage, ["1.2.840.10008.1.2.1"])]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert [association.send_c_store(ds).Status for ds in data_sets] == [0] * 5
        association.release()
        end = node.wait_for_end()
    assert [i.sop_instance_uid for i in node.told.received] == [ds.SOPInstanceUID for ds in data_sets]
    assert (end.outcome, end.instances, end.refused) == (Outcome.RELEASED, 5, 0)
    assert end.series_instance_uids == {data_sets[0].SeriesInstanceUID}
    assert end.calling_ae_title == node.told.received[0].calling_ae_title == "SENDER"
    for ds, instance in zip(data_sets, node.told.received, strict=True):
        assert dcmread(node.spool.root / instance.path) == ds


@pytest.mark.parametrize("pdu", ["4096", "131072"])
def test_a_series_from_dcmtk_is_kept(tmp_path: Path, pdu: str) -> None:
    files = ct_files(tmp_path, "series", slices=4, pixels=128)
    with listening(listening_config(tmp_path)) as node:
        arguments = ["-xe", "-pdu", pdu, "-aet", "SENDER", "-aec", "NODE", "127.0.0.1", str(node.port)]
        sent = dcmtk("storescu", *arguments, "+sd", str(tmp_path / "series"))
        assert sent.returncode == 0, sent.stderr
        node.wait_for_end()
    assert sorted(p.read_bytes()[-1000:] for p in node.kept()) == sorted(f.data_set[-1000:] for f in files)


def test_small_messages_from_a_sender_with_nagles_algorithm_do_not_wait_for_our_acknowledgements(
    tmp_path: Path,
) -> None:
    """40 ms per message are the sign of it: 100 small slices would take 4 s."""
    ct_files(tmp_path, "series", slices=100, pixels=8)
    with listening(listening_config(tmp_path)) as node:
        arguments = ["-xe", "-aet", "SENDER", "-aec", "NODE", "127.0.0.1", str(node.port)]
        sent = dcmtk("storescu", *arguments, "+sd", str(tmp_path / "series"), TCP_NODELAY="0")
        assert sent.returncode == 0, sent.stderr
        node.wait_for_end()
        times = [i.received_at for i in node.told.received]
    gaps_s = sorted((later - earlier).total_seconds() for earlier, later in pairwise(times))
    assert len(node.kept()) == 100
    assert gaps_s[50] < 0.03


COMPRESSED = {
    "-xs": ("CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm", "1.2.840.10008.1.2.4.70"),
    "-xt": ("CTImage.dcm_JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm", "1.2.840.10008.1.2.4.80"),
    "-xu": ("CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm", "1.2.840.10008.1.2.4.81"),
    "-xv": ("CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm", "1.2.840.10008.1.2.4.90"),
    "-xw": ("CTImage.dcm_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm", "1.2.840.10008.1.2.4.91"),
    "-xr": ("CTImage.dcm_RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm", "1.2.840.10008.1.2.5"),
    "-xi": ("CTImage.dcm_LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm", "1.2.840.10008.1.2"),
    "-xb": ("CTImage.dcm_BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm", "1.2.840.10008.1.2.2"),
}


@pytest.mark.parametrize("option", COMPRESSED)
def test_a_compressed_instance_is_kept_as_it_is(tmp_path: Path, option: str) -> None:
    name, syntax = COMPRESSED[option]
    source = shared_data("codecs/cornerstone3d") / name
    with listening(listening_config(tmp_path)) as node:
        arguments = [option, "-aet", "SENDER", "-aec", "NODE", "127.0.0.1", str(node.port)]
        sent = dcmtk("storescu", *arguments, str(source))
        assert sent.returncode == 0, sent.stderr
        node.wait_for_end()
    (instance,) = node.told.received
    kept = dcmread(node.spool.root / instance.path)
    assert (instance.transfer_syntax_uid, kept.file_meta.TransferSyntaxUID) == (syntax, syntax)
    assert kept.PixelData == dcmread(source).PixelData


def test_deflated_is_not_agreed_upon(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path)) as node:
        association = sender_of([(CTImageStorage, ["1.2.840.10008.1.2.1.99"])]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert [c.result for c in association.rejected_contexts] == [4]
        association.abort()


def test_an_enhanced_multi_frame_instance_is_kept(tmp_path: Path) -> None:
    ds = dcmread(shared_data("codecs/pydicom-data/eCT_Supplemental.dcm"))
    with listening(listening_config(tmp_path)) as node:
        association = sender_of([(ds.SOPClassUID, [ds.file_meta.TransferSyntaxUID])]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert association.send_c_store(ds).Status == 0
        association.release()
        node.wait_for_end()
    assert [i.sop_class_uid for i in node.told.received] == [ds.SOPClassUID]


def test_a_class_that_the_node_does_not_serve_is_rejected_in_its_context_only(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path)) as node:
        explicit = ["1.2.840.10008.1.2.1"]
        association = sender_of([(SegmentationStorage, explicit), (EnhancedMRImageStorage, explicit)]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert [(c.abstract_syntax, c.result) for c in association.rejected_contexts] == [(SegmentationStorage, 3)]
        assert [c.abstract_syntax for c in association.accepted_contexts] == [EnhancedMRImageStorage]
        association.release()


def test_every_class_and_syntax_at_once_is_one_association(tmp_path: Path) -> None:
    contexts = [(c, s) for c in sorted(STORAGE_CLASSES) for s in STORAGE_SYNTAXES]
    with listening(listening_config(tmp_path)) as node, RawSender(node.port) as sender:
        proposed = [context(2 * n + 1, c, s) for n, (c, s) in enumerate(contexts)]
        assert sender.associate(associate_request(contexts=proposed)).kind == "AC"
        assert sender.release().kind == "RELEASE-RP"
    assert len(contexts) == 70


def commitment_report(committed: list[str], failed: list[str]) -> Dataset:
    report = Dataset()
    report.TransactionUID = TRANSACTION
    report.ReferencedSOPSequence = [_reference(uid) for uid in committed]
    if failed:
        report.FailedSOPSequence = [_reference(uid) for uid in failed]
        for item in report.FailedSOPSequence:
            item.FailureReason = 0x0112
    return report


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", uid
    return item


def test_an_archive_reports_a_commitment_on_an_association_of_its_own(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path)) as node:
        association, send = _reporting(node)
        (accepted,) = association.accepted_contexts
        assert (accepted.as_scu, accepted.as_scp) == (False, True)
        assert send(commitment_report(["1.5.1", "1.5.2"], []), 1) == 0
        assert send(commitment_report(["1.5.1", "1.5.2"], ["1.6.1"]), 2) == 0
        association.release()
        node.wait_for_end()
    assert [r.transaction_uid for r in node.told.reports] == [TRANSACTION] * 2
    assert [r.committed for r in node.told.reports] == [("1.5.1", "1.5.2")] * 2
    assert [r.failed for r in node.told.reports] == [(), (("1.6.1", 0x0112),)]


def test_an_archive_hears_when_its_report_was_not_taken_note_of(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path)) as node:
        association, send = _reporting(node)
        node.told.index_is_down = True
        assert send(commitment_report(["1.5.1"], []), 1) == 0x0110
        node.told.index_is_down = False
        assert send(commitment_report(["1.5.1"], []), 7) == 0x0113
        assert send(_reference("1.5.1"), 1) == 0x0115
        assert send(commitment_report(["1.5.1"], []), 1) == 0
        association.release()
    assert len(node.told.reports) == 1


def _reporting(node: Node):
    archive = sender_of([(StorageCommitmentPushModel, ["1.2.840.10008.1.2"])])
    role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    association = archive.associate("127.0.0.1", node.port, ae_title="NODE", ext_neg=[role])

    def send(report: Dataset, event: int) -> int:
        status, _ = association.send_n_event_report(
            report, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return int(status.Status)

    return association, send


def test_a_peer_that_may_not_send_is_rejected_and_the_audit_hears_of_it(tmp_path: Path) -> None:
    with listening(listening_config(tmp_path, {"may_send": False})) as node:
        association = sender_of([(CTImageStorage, ["1.2.840.10008.1.2"])]).associate(
            "127.0.0.1", node.port, ae_title="NODE"
        )
        assert association.is_rejected
    (call,) = node.told.rejected
    assert (call.calling_ae_title, call.called_ae_title, call.host) == ("SENDER", "NODE", "127.0.0.1")
    assert "peers" in call.reason
