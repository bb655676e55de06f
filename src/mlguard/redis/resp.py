"""How does Redis spell what it is asked, and what it answers? RESP, version 2."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeAlias

from mlguard.errors import MissingExtra

try:
    import hiredis
except ImportError as error:
    raise MissingExtra("a Redis needs hiredis: pip install 'mlguard-core[redis]'") from error

Word: TypeAlias = "str | int | bytes"
Command: TypeAlias = tuple[Word, ...]
Reading: TypeAlias = Generator[None, bytes, Any]
"""Yields where it needs more bytes, and is sent them."""

_MOST = 512 * 1024 * 1024  # bytes of one reply, which is what Redis itself takes
_MORE = object()
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
    "UNBLOCKED": "it became a replica",
    "WRONGPASS": "it does not know this user and password",
    "WRONGTYPE": "a key holds what others wrote",
}
_CODE = re.compile(rf"\b({'|'.join(_WORDS)})\b")


class ErrorReply(NamedTuple):
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
    def read(cls, text: str) -> ErrorReply:
        """Find the code in an error, which older servers quote in another error of a script."""
        found = _CODE.search(text[:500])
        return cls(found[1], text[found.end() :]) if found else cls("", text)


def packed(commands: Iterable[Command]) -> bytes:
    """Write commands down, one after another."""
    pack: Any = hiredis.pack_command  # its types know commands of one word only
    return b"".join(map(pack, commands))


class Replies:
    """Reads replies out of bytes, in whichever pieces those come; a ValueError where it is junk."""

    def __init__(self) -> None:
        refused: Any = ErrorReply.read  # no exception, as its types would have it
        self._reader = hiredis.Reader(
            protocolError=ValueError, replyError=refused, notEnoughData=_MORE
        )

    @property
    def is_read(self) -> bool:
        """Whether nothing is left that no reply was made of."""
        return not self._reader.has_data()

    def read(self, many: int) -> Reading:
        """Read so many replies; an ErrorReply where one is an error."""
        replies: list[Any] = []
        while len(replies) < many:
            reply = self._reader.gets()
            if reply is not _MORE:
                replies.append(reply)
                continue
            if self._reader.len() > _MOST:
                raise ValueError("not a reply of Redis")
            self._reader.feed((yield))
        return replies
