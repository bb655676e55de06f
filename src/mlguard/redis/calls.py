"""What is one server asked to do, and what becomes of that?"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

from mlguard.ledger import StoreUnavailable
from mlguard.redis.resp import Command

SLOTS = 16384

_BRACES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class Reply(NamedTuple):
    """What a server answered.

    Attributes:
        is_late: Whether it did nothing, as it was too late.
        micros: The server's clock; 0 where it did not say.
        rest: What else it said.
    """

    is_late: bool
    micros: int
    rest: Any


Outcome: TypeAlias = "Reply | StoreUnavailable"


class Script:
    """A script that servers run, and know by its digest.

    Args:
        name: Of its file, beside this one.
    """

    def __init__(self, name: str) -> None:
        self.text = files(__package__).joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class RedisCall:
    """What the server that keeps a slot is asked.

    Attributes:
        slot: The slot of its keys in a cluster.
        asked: What a script is told after its deadline; without one, the whole command, which
            changes nothing and so may be late.
        script: A script, to be run once, and never later than its deadline.
        keys: What the script touches, all in one slot.
        what: What the script is told before its deadline.
        late: Told, in some thread, that it was done although it was given up.
    """

    slot: int
    asked: Command
    script: Script | None = None
    keys: tuple[str, ...] = ()
    what: str = ""
    late: Callable[[Reply], None] | None = None

    def command(self, deadline: str, *, is_known: bool = True) -> Command:
        """Return what is sent: the script itself where the server does not know it.

        Args:
            deadline: Until when it may be done, in microseconds of the server's clock.
            is_known: Whether the server knows the script.
        """
        script = self.script
        if script is None:
            return self.asked
        name: Command = ("EVALSHA", script.sha) if is_known else ("EVAL", script.text)
        return (*name, len(self.keys), *self.keys, self.what, deadline, *self.asked)

    def parsed(self, reply: Any) -> Reply:
        """Read an answer; a ValueError, IndexError or TypeError where no script of ours gave it."""
        if self.script is None:
            return Reply(False, 0, reply)
        head, rest = (reply[0], reply[1:]) if isinstance(reply, list) else (reply, [])
        status, micros, *words = head.split()
        if status not in (b"ok", b"late"):
            raise ValueError("not an answer of the script")
        return Reply(status == b"late", int(micros), rest or words)


def marked(tag: str) -> str:
    """Return what marks a tag's slot: without braces, and never empty."""
    return tag.translate(_BRACES) or "%"


def slot_of(mark: str) -> int:
    """Return the slot of keys with this mark."""
    return crc_hqx(mark.encode(), 0) % SLOTS


def taken(outcomes: Sequence[Outcome]) -> list[Reply]:
    """Return the replies, where all calls have one; raises where one has none."""
    for outcome in outcomes:
        if isinstance(outcome, StoreUnavailable):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Reply)]
