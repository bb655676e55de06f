"""How does Redis spell what it is asked, and what it answers? RESP, version 2."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeAlias

Word: TypeAlias = "str | int | bytes"
Command: TypeAlias = tuple[Word, ...]
Reading: TypeAlias = Generator[None, bytes, Any]
"""Yields where it needs more bytes, and is sent them."""

_LONGEST_LINE = 64 * 1024
_LONGEST_TEXT = 512 * 1024 * 1024  # what Redis itself takes
_DEEPEST = 8
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


def packed(commands: Iterable[Command]) -> bytes:
    """Write commands down, one after another."""
    parts = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            text = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


class Replies:
    """Reads replies out of bytes, in whichever pieces those come; a ValueError where it is junk."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0

    @property
    def is_read(self) -> bool:
        """Whether nothing is left that no reply was made of."""
        return self._at == len(self._held)

    def read(self, many: int) -> Reading:
        """Read so many replies; a Refusal where one is an error."""
        replies = []
        for _ in range(many):
            replies.append((yield from self._reply(0)))  # noqa: PERF401 - it yields
        return replies

    def _reply(self, depth: int) -> Reading:
        line = yield from self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return (yield from self._text(int(rest)))
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return Refusal.read(rest.decode("utf-8", "replace"))
        if kind != b"*" or depth == _DEEPEST:
            raise ValueError("not a reply of Redis")
        items = []
        for _ in range(int(rest)):
            items.append((yield from self._reply(depth + 1)))  # noqa: PERF401 - it yields
        return items if int(rest) >= 0 else None

    def _line(self) -> Reading:
        while (end := self._held.find(b"\r\n", self._at)) < 0:
            if len(self._held) - self._at > _LONGEST_LINE:
                raise ValueError("not a reply of Redis")
            self._take((yield))
        line = bytes(self._held[self._at : end])
        self._at = end + 2
        return line

    def _text(self, size: int) -> Reading:
        if size < 0:
            return None
        if size > _LONGEST_TEXT:
            raise ValueError("not a reply of Redis")
        while len(self._held) - self._at < size + 2:
            self._take((yield))
        text = bytes(self._held[self._at : self._at + size])
        self._at += size + 2
        return text

    def _take(self, data: bytes) -> None:
        del self._held[: self._at]
        self._at = 0
        self._held += data
