"""What do a worker and its companion say to each other?

JSON objects, each with one of these keys; never pickles.

    worker to companion     hello: who am I        snapshot: my families, polled or not
                            rows: [model, version, row]…        ask: a number
                            revoke: revocations, with a number          bye: my supervisor ends
    companion to worker     poll: a number         families: of all workers, with the number asked
                            revoked: revocations   revoke_done: the last number that is safe

An operator says `operator` instead of hello, is told the service, and may only revoke: its
messages say whether there are `more`, and the last is acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from mlguard.revocations import Revocation

MAX_FRAME = 8 * 2**20  # bytes
MAX_REVOCATIONS = 256  # of the longest texts, all to be escaped: 6 MiB
Message: TypeAlias = dict[str, Any]


class Junk(ValueError):
    """What arrived is no message."""


def encode(message: Message) -> bytes:
    """Write a message down; a ValueError where it is longer than a frame may be."""
    frame = json.dumps(message, separators=(",", ":")).encode()
    if len(frame) > MAX_FRAME:
        raise ValueError(f"a frame of {len(frame)} bytes, {MAX_FRAME} are allowed")
    return frame


def send(connection: Connection, message: Message) -> None:
    """Send one message; may wait for the other side to read."""
    connection.send_bytes(encode(message))


def receive(connection: Connection) -> Message:
    """Return the next message; an EOFError where the other side left."""
    try:
        frame = connection.recv_bytes(MAX_FRAME)
    except OSError as error:
        if connection.closed or not connection.readable:  # as after a frame that is too long
            raise Junk("a frame that is too long") from error
        raise
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise Junk("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise Junk("a frame that is not an object")
    return message


def write_revocations(revocations: Sequence[Revocation]) -> Iterator[list[dict[str, Any]]]:
    """Write revocations down, as many together as one frame holds."""
    for start in range(0, len(revocations), MAX_REVOCATIONS):
        yield [r.as_dict() for r in revocations[start : start + MAX_REVOCATIONS]]


def read_revocations(entries: object) -> list[Revocation]:
    """Read what `write_revocations` wrote."""
    if not isinstance(entries, list):
        raise Junk("revocations that are not a list")
    try:
        return [Revocation.from_dict(entry) for entry in entries]
    except ValueError as error:
        raise Junk(str(error)) from error


def plain(value: object) -> object:
    """Turn what JSON does not know, NumPy's numbers and arrays mostly, into what it knows."""
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else str(value)
