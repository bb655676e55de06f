"""What is one server asked, and what does it answer?"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from mlguard.ledger import StoreUnavailable
from mlguard.places import Node
from mlguard.redis.script import Word

Command: TypeAlias = "tuple[Word, ...]"

_WORDS = {
    "ASK": "the cluster moves data",
    "BUSY": "it is busy with a script",
    "CLUSTERDOWN": "the cluster is down",
    "CROSSSLOT": "it is a cluster of another kind",
    "LOADING": "it is loading its data",
    "MASTERDOWN": "its master is down",
    "MISCONF": "it cannot write to its disk",
    "MOVED": "it is part of a cluster: write redis+cluster://",
    "NOAUTH": "it needs a password",
    "NOPERM": "this user may not do what is needed",
    "NOREPLICAS": "it has too few replicas",
    "NOSCRIPT": "it forgets scripts at once",
    "OOM": "its memory is full",
    "READONLY": "it is a replica, which takes no writes",
    "TRYAGAIN": "the cluster moves data",
    "WRONGPASS": "it does not know this user and password",
    "WRONGTYPE": "a key holds what others wrote",
}
_CODE = re.compile(rf"\b({'|'.join(_WORDS)})\b")


class Unreachable(StoreUnavailable):
    """A server did not answer.

    Args:
        reason: In plain words, without a secret.
        is_late: Whether all the time was spent.
    """

    def __init__(self, reason: str, *, is_late: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_late = is_late


class Refusal(NamedTuple):
    """A server's answer that is an error.

    Attributes:
        code: What kind it is, "" where that is not known.
        words: What it said after the code: it may quote what it was sent, and is never shown.
    """

    code: str
    words: str

    @property
    def reason(self) -> str:
        """The error in plain words."""
        return _WORDS.get(self.code, "it refuses what it is asked")

    @classmethod
    def read(cls, text: str) -> Refusal:
        """Find the code in an error, which older servers quote in another error of a script."""
        found = _CODE.search(text[:500])
        return cls(found[1], text[found.end() :]) if found else cls("", text)


class Ask(NamedTuple):
    """What one server is to be sent in one round trip.

    Attributes:
        node: The server.
        commands: Makes the commands, given the time by the server's clock until which they count,
            in microseconds.
        until: When the answer is late, by time.monotonic.
    """

    node: Node
    commands: Callable[[str], Sequence[Command]]
    until: float


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        replies: One for each command; a Refusal where it is an error.
        sent: When the commands left, by time.monotonic.
        received: When all replies were there.
    """

    replies: Sequence[Any]
    sent: float
    received: float


Steps: TypeAlias = "Generator[Ask, Answer, Any]"
