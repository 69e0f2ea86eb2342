"""What an association agrees on: classes, transfer syntaxes, roles, lengths."""

import struct

import pytest
from pydicom.uid import UID

from dicomnode.receive.negotiation import negotiate
from dicomnode.receive.pdu import ContextResult, ProtocolError, parse_associate_request
from dicomnode.receive.services import STORAGE_CLASSES, STORAGE_SYNTAXES
from tests.raw_sender import CT, STORAGE_COMMITMENT, VERIFICATION, associate_request, context, item

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT, IMPLICIT, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.80"


def answers(*contexts: bytes, may_store: bool = True) -> dict[int, tuple[int, str]]:
    """Context id -> result and transfer syntax in the A-ASSOCIATE-AC."""
    request = parse_associate_request(associate_request(contexts=contexts)[6:])
    _, acceptance = negotiate(request, 65536, may_store=may_store)
    found: dict[int, tuple[int, str]] = {}
    place = 74
    while place < len(acceptance):
        kind, length = struct.unpack_from(">BxH", acceptance, place)
        value = acceptance[place + 4 : place + 4 + length]
        if kind == 0x21:
            found[value[0]] = (value[2], value[8:].decode())
        place += 4 + length
    return found


@pytest.mark.parametrize("sop_class", sorted(STORAGE_CLASSES))
@pytest.mark.parametrize("syntax", STORAGE_SYNTAXES)
def test_every_ct_and_mr_class_is_accepted_in_every_syntax_that_assembly_decodes(sop_class: str, syntax: str) -> None:
    assert answers(context(1, sop_class, syntax)) == {1: (0, syntax)}


def test_the_classes_and_syntaxes_are_what_the_standard_calls_ct_and_mr_and_lossless_or_near() -> None:
    names = sorted(UID(uid).name for uid in STORAGE_CLASSES)
    assert names == [
        "CT Image Storage",
        "Enhanced CT Image Storage",
        "Enhanced MR Color Image Storage",
        "Enhanced MR Image Storage",
        "Legacy Converted Enhanced CT Image Storage",
        "Legacy Converted Enhanced MR Image Storage",
        "MR Image Storage",
    ]
    assert all(UID(uid).is_transfer_syntax and not UID(uid).is_deflated for uid in STORAGE_SYNTAXES)


def test_deflated_is_never_accepted() -> None:
    assert answers(context(1, CT, DEFLATED))[1][0] == ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    assert answers(context(1, CT, DEFLATED, IMPLICIT)) == {1: (0, IMPLICIT)}


def test_a_class_that_the_node_does_not_serve_is_rejected_and_the_others_are_not() -> None:
    found = answers(context(1, SEG), context(3, CT), context(5, VERIFICATION))
    assert [result for result, _ in found.values()] == [ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, 0, 0]


def test_left_the_choice_the_node_takes_what_is_cheapest_to_decode() -> None:
    assert answers(context(1, CT, JPEG_LS, IMPLICIT, EXPLICIT)) == {1: (0, EXPLICIT)}


def test_a_peer_that_may_not_send_gets_echo_and_commitment_but_no_storage() -> None:
    found = answers(context(1, CT), context(3, VERIFICATION), context(5, STORAGE_COMMITMENT), may_store=False)
    assert [result for result, _ in found.values()] == [ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, 0, 0]


def test_the_archive_may_be_scp_of_storage_commitment_and_we_are_not_its_scp() -> None:
    role = item(0x54, struct.pack(">H", 20) + STORAGE_COMMITMENT.encode() + b"\1\1")
    request = parse_associate_request(associate_request(contexts=[context(1, STORAGE_COMMITMENT)], user_items=role)[6:])
    _, acceptance = negotiate(request, 65536, may_store=True)
    assert item(0x54, struct.pack(">H", 20) + STORAGE_COMMITMENT.encode() + b"\0\1") in acceptance


def test_roles_for_storage_classes_stay_as_they_are_by_default() -> None:
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
    request = parse_associate_request(associate_request(user_items=role)[6:])
    _, acceptance = negotiate(request, 65536, may_store=True)
    assert struct.pack(">BxH", 0x54, len(CT) + 4) not in acceptance


def test_a_maximum_length_without_room_for_an_answer_is_refused() -> None:
    request = parse_associate_request(associate_request(user_items=item(0x51, struct.pack(">L", 6)))[6:])
    with pytest.raises(ProtocolError, match="above 6, found 6"):
        negotiate(request, 65536, may_store=True)
