"""Which server is asked, and which one next where that does not do it?"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from mlguard import forks
from mlguard.ledger import StoreUnavailable
from mlguard.logs import LOGGER
from mlguard.redis import waits
from mlguard.redis.calls import SLOTS, Outcome, RedisCall, Reply
from mlguard.redis.clocks import Clocks
from mlguard.redis.links import Answer, Steps, Unreachable
from mlguard.redis.pool import Pool
from mlguard.redis.resp import Command, ErrorReply
from mlguard.redis_url import CLUSTER, SENTINEL, SINGLE, Node, RedisURL

_TRIES = 6
_KNOWN_FOR = 1.0  # seconds, after which the sentinels are asked anew, beside what goes on
_TRUSTED_FOR = 3.0  # after which nothing goes on before they were asked
_UNSURE_FOR = 3.0  # for which sentinels may not know that they made another one the master
_SEARCH = 1.0  # seconds that asking anew may take, where no call waits for it


class Router:
    """Runs calls where their keys are, and finds out where that is.

    What becomes of one call is no other's affair: each has an outcome of its own, and no call is
    sent twice where it may have been done already.

    Args:
        place: What the URL says.
        clocks: The clocks of the servers.
        pool: The connections to them.
    """

    def __init__(self, place: RedisURL, clocks: Clocks, pool: Pool) -> None:
        self._place = place
        self._clocks = clocks
        self._pool = pool
        self._known: list[Node] = list(place.nodes)
        self._master: Node | None = place.nodes[0] if place.kind == SINGLE else None
        self._slots: list[Node | None] = []
        self._told_at = 0.0
        self._answered = 0  # calls
        self._confirmed: deque[tuple[float, int]] = deque()
        self._begin()
        forks.in_child(self, Router._begin)

    def _begin(self) -> None:
        self._is_searching = False  # nor is a parent's thread in a fork's child

    def shard(self, slot: int) -> str:
        """Name the part of the store that a slot is kept in, as far as that is known."""
        node = self._slots[slot] if self._slots else None
        return f"{node.host}:{node.port}" if node else ""

    def run(self, calls: Sequence[RedisCall], until: float) -> Steps:
        """Run calls together, and return the `Outcome` of each."""
        trip = _Trip(calls)
        for _ in range(_TRIES):
            for node, numbers in (yield from self._grouped(trip, until)).items():
                yield from self._visit(trip, node, numbers, until)
            if not trip.waiting:
                break
        trip.fail(list(trip.waiting), StoreUnavailable(trip.trouble))
        return [trip.outcomes[number] for number in range(len(calls))]

    def ask_all(self, command: Command, patience: float) -> Steps:
        """Ask every server that takes writes, and return each reply, or why there is none.

        Args:
            command: What each is asked.
            patience: Seconds for which each is waited for.
        """
        replies: list[Any] = []
        for node in (yield from self._masters(time.monotonic() + patience)):
            try:
                until = time.monotonic() + patience
                answer = yield from self._pool.ask(node, lambda _: (command,), until)
            except Unreachable as error:
                replies.append(error)
            else:
                replies.append(answer.replies[0])
        return replies

    def _visit(self, trip: _Trip, node: Node, numbers: list[int], until: float) -> Steps:
        try:
            answer = yield from self._pool.ask(
                node, partial(trip.commands, numbers), until, partial(trip.come_late, numbers)
            )
        except Unreachable as error:
            self._last(node)
            # What comes late is undone; what was done by a server alone is gone with it.
            is_alone = self._place.kind == SINGLE
            error.may_be_done = error.was_sent and not error.is_late and not is_alone
            if error.is_late or error.was_sent or is_alone:
                self._search()
                trip.fail(numbers, error)
            else:
                yield from self._elsewhere(trip, node, numbers, error, until)
            return
        self._answered += len(numbers)
        for number, reply in zip(numbers, trip.replied(numbers, answer.replies), strict=True):
            if isinstance(reply, ErrorReply):
                yield from self._refused(trip, node, number, reply, until)
            else:
                self._arrived(trip, node, number, reply, answer)

    def _arrived(self, trip: _Trip, node: Node, number: int, reply: Any, answer: Answer) -> None:
        try:
            read = trip.waiting[number].parsed(reply)
        except (ValueError, IndexError, TypeError, AttributeError):
            trip.fail([number], StoreUnavailable("it does not answer as Redis does"))
            return
        if read.micros:
            self._clocks.learn(node, read.micros, answer)
        trip.arrive(number, read)

    def _refused(
        self, trip: _Trip, node: Node, number: int, refusal: ErrorReply, until: float
    ) -> Steps:
        """Decide where a call goes that was refused, and so was not done."""
        kind = self._place.kind
        trip.trouble = refusal.reason
        if refusal.code == "NOSCRIPT" and number not in trip.unknown:
            trip.unknown.add(number)
        elif kind == CLUSTER and refusal.code in ("MOVED", "ASK"):
            self._moved(trip, node, number, refusal)
        elif kind == CLUSTER and refusal.code == "TRYAGAIN":
            pass
        elif kind != SINGLE and refusal.code in ("READONLY", "NOREPLICAS", "UNBLOCKED"):
            error = Unreachable(refusal.reason)
            yield from self._elsewhere(trip, node, [number], error, until)
        else:
            trip.fail([number], StoreUnavailable(refusal.reason))

    def _moved(self, trip: _Trip, node: Node, number: int, refusal: ErrorReply) -> None:
        try:
            to = _node(refusal.words.strip().partition(" ")[2], node)
        except StoreUnavailable as error:
            trip.fail([number], error)
            return
        if refusal.code == "ASK":
            trip.asking[number] = to
            return
        self._search()  # others have moved, too
        if slots := self._slots:
            slots[trip.waiting[number].slot] = to

    def _elsewhere(
        self, trip: _Trip, node: Node, numbers: list[int], error: Unreachable, until: float
    ) -> Steps:
        """Have calls go where their keys are now, once, if that is another server."""
        trip.trouble = error.reason
        if trip.has_searched:
            trip.fail(numbers, error)
            return
        trip.has_searched = True
        try:
            yield from self._find(until)
        except StoreUnavailable as trouble:
            trip.fail(numbers, trouble)
            return
        still = [n for n in numbers if self._place_of(trip.waiting[n].slot) in (node, None)]
        trip.fail(still, error)

    def _grouped(self, trip: _Trip, until: float) -> Steps:
        groups: dict[Node, list[int]] = {}
        try:
            yield from self._know(until)
        except StoreUnavailable as error:
            trip.fail(list(trip.waiting), error)
        for number, call in list(trip.waiting.items()):
            node = trip.asking.get(number) or self._place_of(call.slot)
            if node is None:
                self._search()
                trip.fail([number], StoreUnavailable("the cluster is down"))
            else:
                groups.setdefault(node, []).append(number)
        return groups

    def _place_of(self, slot: int) -> Node | None:
        if self._place.kind != CLUSTER:
            return self._master
        return self._slots[slot] if self._slots else None

    def _masters(self, until: float) -> Steps:
        yield from self._know(until)
        if self._place.kind == CLUSTER:
            return sorted({node for node in self._slots if node})
        return [self._master]

    def _know(self, until: float) -> Steps:
        """Find out where everything is, unless that is known; who is in command is asked anew."""
        if self._place.kind == SINGLE:
            return
        age = time.monotonic() - self._told_at
        is_watched = self._place.kind == SENTINEL
        if not (self._master or self._slots) or (is_watched and age > _TRUSTED_FOR):
            yield from self._find(until)
        elif is_watched and age > _KNOWN_FOR:
            self._search()

    def _search(self) -> None:
        """Find out where everything is, in a thread, for the calls to come."""
        if self._place.kind == SINGLE or self._is_searching:
            return
        self._is_searching = True

        def search() -> None:
            try:
                with suppress(StoreUnavailable):  # a call will say it
                    waits.drive(self._find(time.monotonic() + _SEARCH))
            finally:
                self._is_searching = False

        threading.Thread(target=search, daemon=True).start()

    def _find(self, until: float) -> Steps:
        if self._place.kind == CLUSTER:
            self._slots = yield from self._ask_slots(until)
        elif self._place.kind == SENTINEL:
            self._follow((yield from self._ask_sentinels(until)))

    def _follow(self, master: Node) -> None:
        before, now = self._master, time.monotonic()
        self._master, self._told_at = master, now
        if before not in (None, master):
            LOGGER.warning(
                "the master of %s is %s:%d now: of the last %d calls that the one before has "
                "answered, what was not replicated is lost",
                self._place.service,
                master.host,
                master.port,
                self._answered - (self._confirmed[0][1] if self._confirmed else 0),
            )
            self._confirmed.clear()
        self._confirmed.append((now, self._answered))
        while len(self._confirmed) > 1 and self._confirmed[1][0] < now - _UNSURE_FOR:
            self._confirmed.popleft()

    def _ask_sentinels(self, until: float) -> Steps:
        command = ("SENTINEL", "get-master-addr-by-name", self._place.service)
        trouble = "no sentinel knows the service"
        for node in tuple(self._known):
            reply = yield from self._ask_one(node, command, until)
            if isinstance(reply, ErrorReply) and reply.code == "NOAUTH" and not node.knows_password:
                told = node._replace(knows_password=True)
                self._known = [told if known == node else known for known in self._known]
                reply = yield from self._ask_one(told, command, until)
            if isinstance(reply, list) and len(reply) == 2:
                return Node(_text(reply[0]), int(reply[1]))
            trouble = reply.reason if isinstance(reply, ErrorReply | Unreachable) else trouble
        raise StoreUnavailable(trouble)

    def _ask_slots(self, until: float) -> Steps:
        trouble = "the cluster has no parts"
        for node in tuple(self._known):
            reply = yield from self._ask_one(node, ("CLUSTER", "SLOTS"), until)
            if isinstance(reply, list) and reply:
                slots = _slots(reply, node)
                self._known = [*dict.fromkeys([node, *filter(None, slots), *self._known])]
                return slots
            trouble = reply.reason if isinstance(reply, ErrorReply | Unreachable) else trouble
        raise StoreUnavailable(trouble)

    def _ask_one(self, node: Node, command: Command, until: float) -> Steps:
        """Ask one of several, and leave half of the time to the others.

        Returns:
            The reply, or why there is none.
        """
        now = time.monotonic()
        share = until if len(self._known) == 1 else now + (until - now) / 2
        try:
            answer = yield from self._pool.ask(node, lambda _: (command,), share)
        except Unreachable as error:
            self._last(node)
            return error
        return answer.replies[0]

    def _last(self, node: Node) -> None:
        """Ask who does not answer last."""
        if node in self._known:
            self._known = [*(other for other in self._known if other != node), node]


class _Trip:
    """Calls that are run together, each until it has an outcome.

    Args:
        calls: All of them.

    Attributes:
        waiting: Calls without an outcome, by their number.
        outcomes: The others'.
        unknown: Calls of a script that the server did not know.
        asking: Calls that go elsewhere once, while the cluster moves their keys.
        has_searched: Whether it was asked anew where everything is.
        trouble: What went wrong last.
    """

    def __init__(self, calls: Sequence[RedisCall]) -> None:
        self.waiting = dict(enumerate(calls))
        self.outcomes: dict[int, Outcome] = {}
        self.unknown: set[int] = set()
        self.asking: dict[int, Node] = {}
        self.has_searched = False
        self.trouble = "it does not know where its data is"
        self._calls = calls
        self._late: set[int] = set()
        self._asked: set[int] = set()

    def commands(self, numbers: Sequence[int], deadline: str) -> list[Command]:
        """Return what is sent for these calls."""
        commands: list[Command] = []
        for number in numbers:
            self._asked.discard(number)
            if self.asking.pop(number, None):
                self._asked.add(number)
                commands.append(("ASKING",))
            is_known = number not in self.unknown
            commands.append(self.waiting[number].command(deadline, is_known=is_known))
        return commands

    def replied(self, numbers: Sequence[int], replies: Sequence[Any]) -> list[Any]:
        """Return the replies to these calls, and not those to what prepares a server for them."""
        left = iter(replies)
        found = []
        for number in numbers:
            if number in self._asked:
                next(left)
            found.append(next(left))
        return found

    def come_late(self, numbers: Sequence[int], replies: Sequence[Any]) -> None:
        """Tell the calls what was done although nobody waited any longer."""
        for number, reply in zip(numbers, self.replied(numbers, replies), strict=True):
            call = self._calls[number]
            with suppress(ValueError, IndexError, TypeError, AttributeError):
                if call.late is not None and not (read := call.parsed(reply)).is_late:
                    call.late(read)

    def arrive(self, number: int, reply: Reply) -> None:
        """Keep a reply; where it says that it was too late, the call is made once more."""
        if not reply.is_late:
            self.outcomes[number] = reply
            del self.waiting[number]
        elif number in self._late:
            self.fail([number], StoreUnavailable("it did not answer in time"))
        else:
            self._late.add(number)

    def fail(self, numbers: Sequence[int], error: StoreUnavailable) -> None:
        """Give up calls."""
        for number in numbers:
            self.outcomes[number] = error
            del self.waiting[number]


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
