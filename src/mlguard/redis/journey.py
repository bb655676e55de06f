"""Which calls are on their way, and how far are they?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlguard.ledger import StoreUnavailable
from mlguard.places import Node
from mlguard.redis.asks import Answer, Command, Unreachable
from mlguard.redis.script import Call, Reply


class Journey:
    """Calls that are run together, each until it is answered.

    Args:
        calls: All of them.

    Attributes:
        waiting: Calls without an answer, by their number.
        unknown: Calls of a script that the server did not know.
        asking: Calls that go elsewhere once, while the cluster moves their keys.
        has_failed: Whether a server did not answer already.
        trouble: What went wrong last.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.waiting = dict(enumerate(calls))
        self.unknown: set[int] = set()
        self.asking: dict[int, Node] = {}
        self.has_failed = False
        self.trouble = "it does not know where its data is"
        self._late: set[int] = set()
        self._replies: dict[int, Reply] = {}

    @property
    def replies(self) -> list[Reply]:
        """Every reply, in the order of the calls."""
        return [self._replies[number] for number in sorted(self._replies)]

    def commands(self, numbers: Sequence[int], deadline: str) -> list[Command]:
        """Return what is sent for these calls."""
        commands: list[Command] = []
        for number in numbers:
            if number in self.asking:
                commands.append(("ASKING",))
            is_known = number not in self.unknown
            commands.append(self.waiting[number].command(deadline, is_known=is_known))
        return commands

    def replied(self, numbers: Sequence[int], answer: Answer) -> list[Any]:
        """Return the replies to these calls, and not those to what prepares a server for them."""
        replies = iter(answer.replies)
        found = []
        for number in numbers:
            if self.asking.pop(number, None):
                next(replies)
            found.append(next(replies))
        return found

    def arrived(self, number: int, reply: Reply) -> None:
        """Keep a reply; raises where it was too late twice."""
        if not reply.is_late:
            self._replies[number] = reply
            del self.waiting[number]
        elif number in self._late:
            raise StoreUnavailable("it did not answer in time")
        else:
            self._late.add(number)

    def failed(self, error: Unreachable, *, is_final: bool) -> None:
        """Let the calls go elsewhere, once; raises where that would not help."""
        if is_final or error.is_late or self.has_failed:
            raise error
        self.has_failed = True
        self.trouble = str(error)
