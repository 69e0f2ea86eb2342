"""The index of the node's life: what came, what was ordered, what was made, how far it has come."""

from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.records import (
    Commitment,
    CommitmentOutcome,
    CommitmentReport,
    Delivery,
    OpenSeries,
    Order,
    OrderState,
    ReceivedInstance,
    Reported,
    Result,
    Rung,
    SeriesState,
    SeriesVersion,
    Step,
)

__all__ = [
    "Commitment",
    "CommitmentOutcome",
    "CommitmentReport",
    "Delivery",
    "Ledger",
    "OpenSeries",
    "Order",
    "OrderState",
    "ReceivedInstance",
    "Reported",
    "Result",
    "Rung",
    "SeriesState",
    "SeriesVersion",
    "Step",
]
