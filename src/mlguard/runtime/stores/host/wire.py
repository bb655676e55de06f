"""What do a worker and the host's ledger say to each other?

Frames: a length, and that many bytes of JSON; never pickles. A frame of the greeting is bytes:

    ledger: a challenge      worker: its own, its proof, who it is      ledger: its proof, a name

Then the worker asks `[number, deadline, what, …]`, as often as it likes before it is answered, and
the ledger answers `[number, how, …]`. Past its deadline, by the clock that all processes of a host
share, nothing is done.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mlguard.ledger import Change, Limit, Line, Order, Reading, Receipt

SOCKET = "ledger"  # its name in the private folder
MAX_FRAME = 4 * 2**20  # bytes
MAX_GREETING = 2**10
MAX_CHANGES = 1000  # made at once
CHALLENGE = 32  # bytes
PROOF = 32
DONE, LATE, UNABLE = "done", "late", "unable"

_LENGTH = 4  # bytes
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class Junk(ValueError):
    """What arrived is no message."""


class Frames:
    """Puts frames together again, of what arrives in pieces.

    Args:
        most: The longest frame, in bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    @property
    def is_partial(self) -> bool:
        """Whether something is there."""
        return bool(self._buffer)

    def next(self) -> bytes | None:
        """Return a whole frame, None where there is none yet; a Junk where it is too long."""
        buffer = self._buffer
        if len(buffer) < _LENGTH:
            return None
        end = _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
        if end > _LENGTH + self.most:
            raise Junk("a frame that is too long")
        if len(buffer) < end:
            return None
        frame = bytes(buffer[_LENGTH:end])
        del buffer[:end]
        return frame


def framed(content: bytes) -> bytes:
    """Put the length before it."""
    return len(content).to_bytes(_LENGTH, "big") + content


def write(message: Sequence[object]) -> bytes:
    """Write a message down as a frame; a Junk where it is longer than a frame may be."""
    content = encode(message)
    if len(content) > MAX_FRAME:
        raise Junk(f"a frame of {len(content)} bytes, {MAX_FRAME} are allowed")
    return framed(content)


def encode(message: Sequence[object]) -> bytes:
    """Write a message down as JSON."""
    return _encode(message).encode()


def read(frame: bytes) -> list[Any]:
    """Read a message that `encode` wrote."""
    try:
        message = _decode(frame.decode())
    except (ValueError, RecursionError) as error:
        raise Junk("a frame that is not JSON") from error
    if not isinstance(message, list) or len(message) < 2:
        raise Junk("a frame that is no message")
    return message


def proof(key: bytes, whose: str, challenge: bytes, content: bytes) -> bytes:
    """Return what only who knows the key can answer to a challenge."""
    parts = (b"mlguard ledger", whose.encode(), challenge, content)
    return hmac.digest(key, b"".join(framed(part) for part in parts), "sha256")


def is_proven(key: bytes, whose: str, challenge: bytes, content: bytes, given: bytes) -> bool:
    """Say whether who answered a challenge knows the key."""
    return hmac.compare_digest(proof(key, whose, challenge, content), given)


def write_order(order: Order) -> list[object]:
    """Write down what is charged."""
    return [order.tag, [(account, *_of(limit), cost) for account, limit, cost in order.lines]]


def read_order(written: list[Any]) -> Order:
    """Read what `write_order` wrote."""
    tag, lines = written
    return Order(tag, tuple(Line(account, _limit(*limit), cost) for account, *limit, cost in lines))


def write_changes(changes: Sequence[Change]) -> list[object]:
    """Write down what is corrected."""
    return [(c.tag, c.account, *_of(c.limit), c.extra, c.since, c.is_grant) for c in changes]


def read_changes(written: list[Any]) -> list[Change]:
    """Read what `write_changes` wrote."""
    return [
        Change(tag, account, _limit(*limit), extra, since, bool(is_grant))
        for tag, account, *limit, extra, since, is_grant in written
    ]


def read_receipt(written: list[Any]) -> Receipt:
    """Read a receipt, which is written as it is."""
    readings, at, ended = written
    return Receipt(
        tuple(Reading(*reading) for reading in readings), at, tuple((n, used) for n, used in ended)
    )


def _of(limit: Limit) -> tuple[str, int, int, str]:
    """Return what counting depends on."""
    return limit.field, limit.amount, limit.seconds, limit.kind


@lru_cache(4096)
def _limit(field: str, amount: int, seconds: int, kind: str) -> Limit:
    return Limit(field, amount, seconds, kind)
