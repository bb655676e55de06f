"""What does each counter of an account count, and what is left of it?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlguard.cli.quota.whose import Whose
from mlguard.ledger import FLIGHT, Entry, Limit
from mlguard.routes.coverage import rate

_ROUTE = "route:"


class Counter(NamedTuple):
    """One counter, as a person reads it.

    Attributes:
        what: What is counted.
        model: Whose, "" where all models' are meant.
        window: "10000/hour", "ever" or "now".
        seconds: Length of a window, 0 for the other kinds.
        used: Units; below zero where more were granted.
        limit: Units admitted, None where that is not known.
    """

    what: str
    model: str
    window: str
    seconds: int
    used: int
    limit: int | None

    @property
    def left(self) -> int | None:
        """Units that are still admitted."""
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def said(self) -> str:
        """What is counted, in words."""
        return f"{self.what} of {self.model}" if self.model else self.what


def counters(whose: Whose, entries: Iterable[Entry]) -> list[Counter]:
    """Read what a store says of an account, and add what it has not touched.

    What a caller of an unknown plan has not touched is not known.
    """
    entries = list(entries)
    found = [read(whose, entry) for entry in entries]
    if not whose.is_plan_open:
        touched = {(entry.field, entry.seconds) for entry in entries}
        others = (limit for limit in _limits(whose) if limit.kind != FLIGHT)
        found += [_unused(m) for m in others if (m.field, m.seconds) not in touched]
    return sorted(found, key=lambda c: (c.model, c.what, c.seconds or math.inf))


def read(whose: Whose, entry: Entry) -> Counter:
    """Read one counter; how many may be in flight, only the settings say."""
    what, model = _what(entry.field)
    used = math.ceil(round(entry.used, 6))
    if entry.kind == FLIGHT:
        at_once = next((m.amount for m in _limits(whose) if m.field == entry.field), None)
        return Counter("requests in flight", model, "now", 0, used, at_once)
    window = rate(entry.amount, entry.seconds) if entry.seconds else "ever"
    return Counter(what, model, window, entry.seconds, used, entry.amount)


def table(found: Iterable[Counter]) -> Iterator[str]:
    """Lay counters out in columns."""
    rows = [("", "window", "used", "left", "of"), *map(_cells, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for what, window, *numbers in rows:
        told = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[2:], strict=True))
        yield f"{what:{widths[0]}}  {window:{widths[1]}}  {told}"


def _cells(counter: Counter) -> tuple[str, ...]:
    numbers = (counter.used, counter.left, counter.limit)
    told = ("?" if number is None else str(number) for number in numbers)
    return counter.said, counter.window, *told


def _what(field: str) -> tuple[str, str]:
    """Tell what a field counts, and of which model."""
    if field.startswith(_ROUTE) and " " in field:
        bucket = field.removeprefix(_ROUTE).rpartition(":")[0]
        return _printable(f"route {bucket}"), ""
    unit, _, rest = field.partition(":")
    return _printable(unit), _printable(rest.partition(":")[0])


def _unused(limit: Limit) -> Counter:
    window = rate(limit.amount, limit.seconds) if limit.seconds else "ever"
    return Counter(limit.unit, limit.model, window, limit.seconds, 0, limit.amount)


def _limits(whose: Whose) -> Iterable[Limit]:
    """List what the settings say of the account, whatever model is asked."""
    models = [None, *whose.settings.model_names]
    return {limit.field: limit for name in models for limit in whose.limits(name)}.values()


def _printable(text: str) -> str:
    """Write a store's text so that a terminal obeys nothing in it."""
    return "".join(c if c.isprintable() else "?" for c in text)
