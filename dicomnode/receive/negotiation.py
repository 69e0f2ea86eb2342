"""What an association agrees on: proposed contexts and roles -> our answer (PS3.8 section 7.1.1, PS3.7 annex D)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode import __version__
from dicomnode.receive.part10 import IMPLEMENTATION_CLASS_UID
from dicomnode.receive.pdu import (
    PDV_HEADER,
    AssociateRequest,
    ContextAnswer,
    ContextResult,
    ProposedContext,
    ProtocolError,
    RoleSelection,
    encode_associate_accept,
    encode_item,
    encode_role_selection,
)
from dicomnode.receive.services import STORAGE_COMMITMENT, syntaxes_of

_MAX_LENGTH, _CLASS_UID, _VERSION_NAME = 0x51, 0x52, 0x55
IMPLEMENTATION_VERSION = f"DICOMNODE_{__version__}"[:16]


@dataclass(frozen=True, slots=True)
class Context:
    """One agreed presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides may now send."""

    contexts: Mapping[int, Context]
    peer_max_pdu_bytes: int  # 0: no limit


def negotiate(request: AssociateRequest, max_pdu_bytes: int, *, may_store: bool) -> tuple[Agreement, bytes]:
    """The agreement with an admitted peer, and the A-ASSOCIATE-AC that tells it.

    Raises:
        ProtocolError: the peer's maximum length leaves no room for an answer.
    """
    if 0 < request.max_pdu_bytes <= PDV_HEADER.size:
        raise ProtocolError(f"expected a maximum length above {PDV_HEADER.size}, found {request.max_pdu_bytes}")
    answers = [_answer(context, may_store=may_store) for context in request.contexts]
    contexts = {
        a.context_id: Context(a.context_id, a.abstract_syntax, a.transfer_syntax)
        for a in answers
        if a.result == ContextResult.ACCEPTED
    }
    user_items = [
        encode_item(_MAX_LENGTH, struct.pack(">L", max_pdu_bytes)),
        encode_item(_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode()),
        *(encode_role_selection(role) for role in _agreed_roles(request)),
        encode_item(_VERSION_NAME, IMPLEMENTATION_VERSION.encode()),
    ]
    return Agreement(contexts, request.max_pdu_bytes), encode_associate_accept(request, answers, user_items)


def _answer(proposed: ProposedContext, *, may_store: bool) -> ContextAnswer:
    ours = syntaxes_of(proposed.abstract_syntax, may_store=may_store)
    common = next((syntax for syntax in ours if syntax in proposed.transfer_syntaxes), "")
    if common:
        result = ContextResult.ACCEPTED
    elif ours:
        result = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    else:
        result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    return ContextAnswer(proposed.context_id, proposed.abstract_syntax, result, common or _first(proposed))


def _first(proposed: ProposedContext) -> str:
    # PS3.8 9.3.3.2: not significant when rejected, but some peers fail on an empty sub-item.
    return proposed.transfer_syntaxes[0] if proposed.transfer_syntaxes else ""


def _agreed_roles(request: AssociateRequest) -> list[RoleSelection]:
    # The archive calls us as SCP of storage commitment (PS3.4 J.3.3); everything else keeps its default roles.
    return [
        RoleSelection(STORAGE_COMMITMENT, scu=False, scp=True)
        for role in request.roles
        if role.sop_class_uid == STORAGE_COMMITMENT and role.scp
    ]
