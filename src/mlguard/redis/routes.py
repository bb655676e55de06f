"""Which server is asked, and which one next where that does not do it?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from mlguard.ledger import StoreUnavailable
from mlguard.places import CLUSTER, SENTINEL, SINGLE, Node, Place
from mlguard.redis.asks import Answer, Ask, Command, Refusal, Steps, Unreachable
from mlguard.redis.clocks import Clocks
from mlguard.redis.journey import Journey
from mlguard.redis.script import SLOTS, Call, parsed

_TRIES = 6


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
        journey = Journey(calls)
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

    def _read(self, journey: Journey, node: Node, numbers: Sequence[int], answer: Answer) -> None:
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

    def _refused(self, journey: Journey, node: Node, number: int, refusal: Refusal) -> None:
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

    def _grouped(self, journey: Journey, until: float) -> Steps:
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
