"""Which server is asked, and which one next where that does not do it?"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from mlguard.ledger import StoreUnavailable
from mlguard.runtime.stores.redis.places import CLUSTER, SENTINEL, SINGLE, Node, Place
from mlguard.runtime.stores.redis.script import SLOTS, Call, Reply, Word, parsed

Command: TypeAlias = "tuple[Word, ...]"

_TRIES = 6
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


class Clocks:
    """What does a server's clock say? It is only known from its answers.

    The estimate is never ahead of the server's own clock, as long as that runs as ours does.
    """

    def __init__(self) -> None:
        self._ahead: dict[Node, float] = {}

    def deadline(self, node: Node, until: float) -> str:
        """Translate a time into microseconds of the server's clock."""
        return f"{(self._ahead.get(node, 0.0) + until) * 1e6:.0f}"

    def greet(self, node: Node, answer: Answer) -> None:
        """Learn from the reply to TIME, which a new connection is asked first."""
        reply = answer.replies[0]
        if isinstance(reply, Refusal):
            raise Unreachable(reply.reason)
        try:
            seconds, micros = reply
            self.learn(node, int(seconds) * 1_000_000 + int(micros), answer)
        except (TypeError, ValueError):
            raise Unreachable("it does not answer as Redis does") from None

    def learn(self, node: Node, micros: int, answer: Answer) -> None:
        """Correct the estimate by what a server answered."""
        least, most = micros / 1e6 - answer.received, micros / 1e6 - answer.sent
        self._ahead[node] = min(max(self._ahead.get(node, least), least), most)


class Router:
    """Runs the script where its keys are, and finds out where that is.

    It only says whom to ask: whoever drives its steps does so, and throws `Unreachable` into them
    where a server does not answer.

    Args:
        place: What the URL says.
        clocks: The clocks of the servers.
    """

    def __init__(self, place: Place, clocks: Clocks) -> None:
        self._place = place
        self._clocks = clocks
        self._known: list[Node] = list(place.nodes)
        self._master: Node | None = None
        self._slots: list[Node | None] = []

    def run(self, calls: Sequence[Call], until: float) -> Steps:
        """Run the script for each call, and return the replies."""
        journey = _Journey(self, calls)
        for _ in range(_TRIES):
            for node, numbers in (yield from self._grouped(journey, until)).items():
                try:
                    answer = yield Ask(node, partial(journey.commands, numbers), until)
                except Unreachable as error:
                    journey.failed(self.forget(node, error), is_final=self._place.kind == SINGLE)
                else:
                    self._read(journey, node, numbers, answer)
            if not journey.waiting:
                return journey.replies
        raise StoreUnavailable(journey.trouble)

    def ask_all(self, command: Command, until: float) -> Steps:
        """Ask every server that takes writes, and return its replies."""
        replies = []
        for node in (yield from self._masters(until)):
            try:
                answer = yield Ask(node, lambda _: (command,), until)
            except Unreachable as error:
                raise self.forget(node, error) from None
            replies.append(answer.replies[0])
        return replies

    def forget(self, node: Node, error: Unreachable) -> Unreachable:
        """Ask anew next where everything is, as a server did not answer."""
        self._master = None
        self._slots = []
        if node in self._known:
            # Who does not answer is asked last.
            self._known = [*(other for other in self._known if other != node), node]
        return error

    def _read(self, journey: _Journey, node: Node, numbers: Sequence[int], answer: Answer) -> None:
        for number, reply in zip(numbers, journey.replied(numbers, answer), strict=True):
            if isinstance(reply, Refusal):
                self._refused(journey, node, number, reply)
                continue
            try:
                read = parsed(reply)
            except (ValueError, IndexError, TypeError, AttributeError):
                raise StoreUnavailable("it does not answer as Redis does") from None
            self._clocks.learn(node, read.micros, answer)
            journey.arrived(number, read)

    def _refused(self, journey: _Journey, node: Node, number: int, refusal: Refusal) -> None:
        """Decide where a call goes that was refused; raises where it can go nowhere."""
        kind = self._place.kind
        journey.trouble = refusal.reason
        if refusal.code == "NOSCRIPT" and number not in journey.unknown:
            journey.unknown.add(number)
        elif kind == CLUSTER and refusal.code in ("MOVED", "ASK"):
            _, _, place = refusal.words.strip().partition(" ")
            to = _node(place, node)
            if refusal.code == "ASK":
                journey.asking[number] = to
            elif slots := self._slots:
                slots[journey.waiting[number].slot] = to
        elif kind == SENTINEL and refusal.code == "READONLY" and not journey.has_failed:
            journey.has_failed = True
            self._master = None
        else:
            raise StoreUnavailable(refusal.reason)

    def _grouped(self, journey: _Journey, until: float) -> Steps:
        groups: dict[Node, list[int]] = {}
        for number, call in journey.waiting.items():
            node = journey.asking.get(number) or (yield from self._node_of(call.slot, until))
            groups.setdefault(node, []).append(number)
        return groups

    def _node_of(self, slot: int, until: float) -> Steps:
        if self._place.kind != CLUSTER:
            return (yield from self._masters(until))[0]
        slots = self._slots = self._slots or (yield from self._ask_slots(until))
        node = slots[slot]
        if node is None:
            self._slots = []
            raise StoreUnavailable("the cluster is down")
        return node

    def _masters(self, until: float) -> Steps:
        if self._place.kind == CLUSTER:
            slots = self._slots = self._slots or (yield from self._ask_slots(until))
            return sorted({node for node in slots if node})
        if self._place.kind != SENTINEL:
            return [self._place.nodes[0]]
        # Another thread may forget it meanwhile.
        master = self._master = self._master or (yield from self._ask_sentinels(until))
        return [master]

    def _ask_sentinels(self, until: float) -> Steps:
        command = ("SENTINEL", "get-master-addr-by-name", self._place.service)
        trouble = "no sentinel knows the service"
        for node in tuple(self._known):
            reply = yield from self._ask_one(node, command, until)
            if isinstance(reply, Refusal) and reply.code == "NOAUTH" and not node.knows_password:
                told = node._replace(knows_password=True)
                self._known = [told if known == node else known for known in self._known]
                reply = yield from self._ask_one(told, command, until)
            if isinstance(reply, list) and len(reply) == 2:
                return Node(_text(reply[0]), int(reply[1]))
            trouble = reply.reason if isinstance(reply, Refusal | Unreachable) else trouble
        raise StoreUnavailable(trouble)

    def _ask_slots(self, until: float) -> Steps:
        trouble = "the cluster has no parts"
        for node in tuple(self._known):
            reply = yield from self._ask_one(node, ("CLUSTER", "SLOTS"), until)
            if isinstance(reply, list) and reply:
                slots = _slots(reply, node)
                self._known = [*dict.fromkeys([node, *filter(None, slots), *self._known])]
                return slots
            trouble = reply.reason if isinstance(reply, Refusal | Unreachable) else trouble
        raise StoreUnavailable(trouble)

    def _ask_one(self, node: Node, command: Command, until: float) -> Steps:
        """Ask one of several, and leave half of the time to the others.

        Returns:
            The reply, or why there is none.
        """
        now = time.monotonic()
        share = until if len(self._known) == 1 else now + (until - now) / 2
        try:
            answer = yield Ask(node, lambda _: (command,), share)
        except Unreachable as error:
            return self.forget(node, error)
        return answer.replies[0]


class _Journey:
    """Calls on their way.

    Attributes:
        waiting: Calls without an answer, by their number.
        unknown: Calls of a script that the server did not know.
        asking: Calls that go elsewhere once, while the cluster moves their keys.
        has_failed: Whether a server did not answer already.
        trouble: What went wrong last.
    """

    def __init__(self, router: Router, calls: Sequence[Call]) -> None:
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


def _slots(reply: Any, asked: Node) -> list[Node | None]:
    slots: list[Node | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_ in reply:
            # A server that does not know its own address leaves it out.
            node = Node(_text(host or b"") or asked.host, int(port))
            slots[first : last + 1] = [node] * (last + 1 - first)
    except (TypeError, ValueError):
        raise StoreUnavailable("it does not answer as Redis does") from None
    return slots[:SLOTS]


def _node(place: str, asked: Node) -> Node:
    host, _, port = place.rpartition(":")
    if not port.isdecimal():
        raise StoreUnavailable("it does not answer as Redis does")
    return Node(host.strip("[]") or asked.host, int(port))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
