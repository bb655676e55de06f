"""Where is counted what was asked? Values every ledger speaks, and the one in memory."""

from mlguard.ledger.counters import Note
from mlguard.ledger.memory import MemoryLedger
from mlguard.ledger.orders import (
    FLIGHT,
    LIFETIME,
    WINDOW,
    Change,
    ChangesUnmade,
    Entry,
    Ledger,
    Limit,
    Line,
    Order,
    Reading,
    Receipt,
    StoreUnavailable,
    again,
)

__all__ = [
    "FLIGHT",
    "LIFETIME",
    "WINDOW",
    "Change",
    "ChangesUnmade",
    "Entry",
    "Ledger",
    "Limit",
    "Line",
    "MemoryLedger",
    "Note",
    "Order",
    "Reading",
    "Receipt",
    "StoreUnavailable",
    "again",
]
