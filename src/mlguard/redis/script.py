"""What is the script on the server told, and what does its answer mean?"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from mlguard.ledger import FLIGHT, LIFETIME, WINDOW, Change, Entry, Limit, Order, Receipt
from mlguard.ledger.counters import Flight, Lifetime, Slot, Window
from mlguard.redis.calls import RedisCall, Reply, Script, marked, slot_of

COUNT = Script("count.lua")
HOLD = 30  # seconds for which what is in flight counts without a sign of life

_ENDINGS = {WINDOW: "", LIFETIME: ":lifetime", FLIGHT: ":flight"}
_KINDS = tuple(_ENDINGS)
_PLAIN = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D", ":": "%3A"})


class Keys:
    """How are keys named? All of one tag are kept on one machine.

    Args:
        prefix: What all begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = marked(prefix)

    def probe(self, tag: str) -> RedisCall:
        """Return the call that writes something where a tag is kept."""
        return self._run(tag, (f"{self._prefix}:{{{marked(tag)}}}:probe",), "probe")

    def read(self, tag: str, account: str) -> RedisCall:
        """Return the call that tells all of an account."""
        keys = tuple(self._key(tag, account, kind) for kind in _KINDS)
        return self._run(tag, keys, "read")

    def reset(self, tag: str, account: str, *, lifetime: bool) -> RedisCall:
        """Return the call that forgets windows, and sums too where that is meant."""
        kinds = (WINDOW, LIFETIME) if lifetime else (WINDOW,)
        keys = tuple(self._key(tag, account, kind) for kind in kinds)
        return self._run(tag, keys, "reset")

    def count(
        self,
        order: Order,
        changes: Sequence[Change],
        holder: str,
        now: float | None,
        *,
        wanted: Sequence[int] = (),
        late: Callable[[Reply], None] | None = None,
    ) -> RedisCall:
        """Return the call that makes changes and then a debit.

        Args:
            order: The debit.
            changes: Of the same tag.
            holder: Who holds what is in flight.
            now: The time to count by, in seconds; None is the server's.
            wanted: Units to lease of each line, beyond its cost.
            late: Told that it was done although it was given up.
        """
        tag, counters = order.tag, _Counters()
        changed = [
            (
                counters.number(self._key(tag, change.account, change.limit.kind), change.limit),
                change.limit.amount,
                change.extra,
                change.since,
                change.is_grant,
            )
            for change in changes
        ]
        charged = [
            (
                counters.number(self._key(tag, account, limit.kind), limit),
                limit.amount,
                cost,
                *wanted[number : number + 1],
            )
            for number, (account, limit, cost) in enumerate(order.lines)
        ]
        asked = (
            False if now is None else now,
            holder,
            1000 * HOLD,
            counters.listed,
            changed,
            charged,
        )
        return self._run(tag, tuple(counters.keys), "count", (json.dumps(asked),), late)

    def _run(
        self,
        tag: str,
        keys: tuple[str, ...],
        what: str,
        asked: tuple[str, ...] = (),
        late: Callable[[Reply], None] | None = None,
    ) -> RedisCall:
        return RedisCall(slot_of(marked(tag)), asked, COUNT, keys, what, late)

    def _key(self, tag: str, account: str, kind: str) -> str:
        return f"{self._prefix}:{{{marked(tag)}}}:{account.translate(_PLAIN)}{_ENDINGS[kind]}"


class _Counters:
    """Which counters does a call touch?

    Attributes:
        keys: Where they are, and the number of each key, from 1.
        listed: Each counter, as the script knows it.
    """

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.listed: list[tuple[str, int, str, int]] = []
        self._numbers: dict[tuple[str, int, str, int], int] = {}

    def number(self, key: str, limit: Limit) -> int:
        """Return a counter's number, from 1."""
        where = self.keys.setdefault(key, len(self.keys) + 1)
        kind, seconds = limit.kind, limit.seconds
        if kind == WINDOW:
            counter = (kind, where, f"{seconds}:{limit.field}", seconds)
        else:
            counter = (kind, where, limit.field, 0)
        number = self._numbers.get(counter)
        if number is None:
            self.listed.append(counter)
            number = self._numbers[counter] = len(self.listed)
        return number


def receipt(
    order: Order, words: Sequence[bytes], now: float, *, leases: bool = False
) -> tuple[Receipt, list[int]]:
    """Tell what became of an order, by what the script found before it charged it.

    Args:
        order: The order.
        words: What the script found.
        now: When.
        leases: Whether units were to be leased.

    Returns:
        What became of it, and how many units were leased of each line.
    """
    numbers = [int(word) for word in words]
    is_admitted = numbers[0] == 1
    leased = numbers[-len(order.lines) :] if leases and is_admitted else [0] * len(order.lines)
    left = iter(numbers[1:])
    readings, ended = [], []
    for number, (_, limit, cost) in enumerate(order.lines):
        slot, share = _found(limit, left, now)
        if share:
            ended.append((number, share))
        if is_admitted:
            slot.add(cost + leased[number])
        readings.append(slot.read(0 if is_admitted else cost))
    return Receipt(tuple(readings), now, tuple(ended)), leased


def _found(limit: Limit, numbers: Any, now: float) -> tuple[Slot, float]:
    """Return a counter, and what share of its limit was used in a window that has ended."""
    if limit.kind == WINDOW:
        cells = array("q", (0, next(numbers), next(numbers), next(numbers), limit.amount))
        return Window(cells, 0, limit, now), next(numbers) / next(numbers)
    units = next(numbers)
    if limit.kind == LIFETIME:
        return Lifetime({"": {limit.field: (units, limit.amount)}}, "", limit), 0
    return Flight({"": {limit.field: {"": units}}}, "", "", limit), 0


def entries(found: Sequence[Any], now: float, at: float) -> list[Entry]:
    """Write down for an operator what an account has used.

    Args:
        found: Its windows, its sums, and what it holds.
        now: The time to count by.
        at: The server's time.
    """
    windows, sums, held = (_pairs(hashed) for hashed in found)
    listed = [_window(name, text, now) for name, text in windows]
    for field, text in sums:
        spent, amount = _ints(text, 2)
        listed.append(Entry(field, spent, amount, 0, LIFETIME))
    in_flight: dict[str, int] = {}
    for name, text in held:
        (_, _, field), (count, expiry) = name.partition(" "), _ints(text, 2)
        if expiry > at * 1000:
            in_flight[field] = in_flight.get(field, 0) + count
    return [*listed, *(Entry(field, count, 0, 0, FLIGHT) for field, count in in_flight.items())]


def _window(name: str, text: str, now: float) -> Entry:
    length, _, field = name.partition(":")
    seconds, (bucket, current, previous, amount) = int(length), _ints(text, 4)
    cells = array("q", (0, bucket, current, previous, amount))
    used = Window(cells, 0, Limit(field, amount, seconds), now).used
    return Entry(field, used, amount, seconds, WINDOW)


def _pairs(hashed: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = [part.decode() for part in hashed]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _ints(text: str, many: int) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split())
    if len(numbers) != many:
        raise ValueError("not a counter")
    return numbers
