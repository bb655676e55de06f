"""How do all workers of a host count in one file?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from mlguard import forks
from mlguard.chance import CHANCE
from mlguard.host import statements
from mlguard.host.database import Connection, Database, DatabaseFailed
from mlguard.host.processes import Process, boot
from mlguard.ledger import (
    FLIGHT,
    LIFETIME,
    WINDOW,
    Change,
    ChangesUnmade,
    Entry,
    Limit,
    Line,
    Order,
    Receipt,
    StoreUnavailable,
)
from mlguard.ledger.counters import Flight, Lifetime, Slot, Window
from mlguard.logs import LOGGER
from mlguard.recent import Recent

HOLD = 30.0  # seconds
HOMELESS = "lifetimes need host:///a/folder/that/outlives/reboots"
_FOR_EVER = 1e18
_SWEPT = 2000  # counters looked at together
_TOGETHER = 500  # changes made by one statement
_REMEMBERED = 20_000  # counters
_RACED = 0.001  # seconds until a debit fits that was refused by what has changed since
_LAST = "~"  # is behind all that a key holds
_KINDS = list(statements.KINDS)
_KEY, _HOLDER, _BUCKET, _CURRENT, _PREVIOUS, _AMOUNT, _TOKEN, _USED, _OF, _UNTIL = range(10)

Row: TypeAlias = Sequence[Any]


class HostLedger:
    """A worker's way to the counters of its service on this host.

    A debit is one statement, and another one tells what is left: see `Database` for why. Its clock
    is the one that all processes of a host share, and no operator sets.

    Args:
        database: The file.
        is_lasting: Whether it outlives reboots, as lifetimes must.
        timer: The clock, in seconds.
        hold: Seconds for which what is in flight counts without a sign of life.

    Attributes:
        database: The file.
    """

    def __init__(
        self,
        database: Database,
        *,
        is_lasting: bool,
        timer: Callable[[], float] = time.monotonic,
        hold: float = HOLD,
    ) -> None:
        self.database = database
        self._is_lasting = is_lasting
        self._timer = timer
        self._hold = hold
        self._holder = ""
        database.on_new(self.restore)
        self._seen: Recent[str, Row] = Recent(_REMEMBERED)
        self._swept = ""
        self._is_unsynced = False
        self.after_fork(in_child=True)
        forks.watch(self)

    def before_fork(self) -> None:
        """Do nothing: the database does."""

    def after_fork(self, *, in_child: bool) -> None:
        """Hold what is in flight under a name of this process's own."""
        if in_child:
            self._holder = f"{Process.mine().text}.{secrets.token_hex(4)}"

    def start(self) -> None:
        """Have the file ready; blocks for a moment."""
        with _in_plain_words():
            self.database.write(statements.BOOT, (boot(),))

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        if changes:
            self.apply(changes)
        with _in_plain_words(has_changed=bool(changes)):
            return self._debit(order, waits=True)

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop: in a thread where it must wait."""
        rounds = self._rounds(changes)
        has_changed = False
        if len(rounds) <= 1:
            try:
                self._settle(rounds, waits=False)
                has_changed = bool(rounds)
                return self._debit(order, waits=False)
            except DatabaseFailed as error:
                if not error.is_busy:
                    raise _unavailable(str(error), has_changed=has_changed) from None
        try:
            return await asyncio.to_thread(self.debit, order, () if has_changed else changes)
        except StoreUnavailable as error:
            raise _unavailable(str(error), has_changed=has_changed) from None

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether a debit would be made."""
        with _in_plain_words():
            if changes:
                self._settle(self._rounds(changes), waits=True)
            else:
                self.database.write(statements.debit(1), self._asked(_PROBE, 0.0, 1))

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the file unfit.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """
        return HOMELESS if lifetime and not self._is_lasting else None

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""
        prefix = _prefix(tag, account)
        with _in_plain_words():
            rows = self.database.read(statements.ALL_OF, (prefix, prefix + _LAST))
        now = self._timer()
        held: dict[str, int] = {}
        found = []
        for row in rows:
            kind, seconds, field = _named(row[_KEY][len(prefix) :])
            if kind == FLIGHT:
                held[field] = held.get(field, 0) + (row[_CURRENT] if row[_UNTIL] > now else 0)
                continue
            slot = _slot(Limit(field, row[_AMOUNT], seconds, kind), [row], now)
            found.append(Entry(field, slot.used, row[_AMOUNT], seconds, kind))
        return [*found, *(Entry(field, units, 0, 0, FLIGHT) for field, units in held.items())]

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        prefix = _prefix(tag, account)
        with _in_plain_words():
            self.database.write(statements.FORGET, (prefix, prefix + _LAST, lifetime))

    def close(self) -> None:
        """Give back what is in flight here."""
        with contextlib.suppress(DatabaseFailed):
            self.database.write(statements.DROP, (self._holder,))

    def look_after(self) -> None:
        """Forget what is past, and what was in flight in workers that are gone; blocks briefly.

        Raises:
            DatabaseFailed: The file cannot be read or written.
        """
        for (holder,) in self.database.read(statements.HOLDERS):
            if Process.read(holder.rpartition(".")[0]).is_gone():
                self.database.write(statements.DROP, (holder,))
        following = self.database.read(statements.NEXT, (self._swept, _SWEPT))
        until = following[0][0] if following else _LAST
        self.database.write(statements.SWEEP, (self._swept, until, self._timer()))
        self._swept = until if following else ""

    def sync(self) -> None:
        """Have what was charged for ever survive the power; an OSError where it may not.

        To be called at least every 50 ms; does nothing where nothing was charged.
        """
        if self._is_unsynced:
            self._is_unsynced = False
            self.database.sync()

    def restore(self) -> None:
        """Count on in a new file, from what this worker has read of the old one."""
        now = self._timer()
        seen = [row for row in self._seen.values() if row[_UNTIL] > now]
        with self.database.lend() as connection:
            for row in seen:
                values = (*row[_KEY : _AMOUNT + 1], row[_UNTIL])
                connection.write(statements.RESTORE, values)
        LOGGER.warning("%d counters were written anew, from memory", len(seen))

    def _debit(self, order: Order, *, waits: bool) -> Receipt:
        now, token = self._timer(), CHANCE.getrandbits(62) | 1
        if not order.lines:
            return Receipt((), now)
        many, asked = len(order.lines), self._asked(order, now, token)
        with self.database.lend(waits=waits) as connection:
            is_admitted = connection.write(statements.debit(many), asked) > 0
            if self._is_lasting:
                self._is_unsynced |= any(line.limit.kind == LIFETIME for line in order.lines)
            try:
                rows = self._rows(connection, order)
            except sqlite3.Error:
                if not is_admitted:
                    raise
                rows = self._remembered(order)  # it is charged, which must be said
            if not is_admitted and _is_behind(order, rows, now):
                connection.write(statements.begin(many), asked)
                rows = self._rows(connection, order)
        return _receipt(order, rows, now, token, is_admitted=is_admitted)

    def _asked(self, order: Order, now: float, token: int) -> list[Any]:
        asked: list[Any] = [now, token]
        for account, limit, cost in order.lines:
            key, holder, kind = self._counter(order.tag, account, limit)
            bucket, until = self._when(limit, now)
            asked += (key, holder, kind, limit.seconds, limit.amount, cost, bucket, until)
        return asked

    def _rows(self, connection: Connection, order: Order) -> list[list[Row]]:
        """Read the counters of each line; of what is in flight, those of all holders."""
        keys = [_key(order.tag, account, limit) for account, limit, _ in order.lines]
        found: dict[str, list[Row]] = {key: [] for key in keys}
        ((text,),) = connection.read(statements.reading(len(keys)), keys)
        for row in json.loads(text):
            found[row[_KEY]].append(row)
            if not row[_HOLDER]:
                self._seen.put(row[_KEY], row)
        return [found[key] for key in keys]

    def _remembered(self, order: Order) -> list[list[Row]]:
        keys = [_key(order.tag, account, limit) for account, limit, _ in order.lines]
        return [[row] if (row := self._seen.get(key)) else [] for key in keys]

    def _rounds(self, changes: Sequence[Change]) -> list[list[Sequence[Any]]]:
        """Write changes down, each round with one of a counter at most."""
        now = self._timer()
        rounds: list[dict[tuple[str, str], Sequence[Any]]] = []
        for change in changes:
            written = self._written(change, now)
            counter = (written[0], written[1])
            for one in rounds:
                if counter not in one and len(one) < _TOGETHER:
                    one[counter] = written
                    break
            else:
                rounds.append({counter: written})
        return [list(one.values()) for one in rounds]

    def _settle(self, rounds: Sequence[Sequence[Sequence[Any]]], *, waits: bool) -> None:
        with self.database.lend(waits=waits) as connection:
            for changes in rounds:
                if blank := [change for change in changes if change[4] > 0 or change[7]]:
                    connection.write(statements.blank(len(blank)), list(chain(*blank)))
                connection.write(statements.settle(len(changes)), list(chain(*changes)))
                self._is_unsynced |= self._is_lasting

    def _written(self, change: Change, now: float) -> Sequence[Any]:
        limit = change.limit
        bucket, until = self._when(limit, now)
        since, _ = self._when(limit, change.since)
        counter = self._counter(change.tag, change.account, limit)
        return (*counter, limit.amount, change.extra, bucket, since, change.is_grant, until)

    def _counter(self, tag: str, account: str, limit: Limit) -> tuple[str, str, int]:
        holder = self._holder if limit.kind == FLIGHT else ""
        return _key(tag, account, limit), holder, statements.KINDS[limit.kind]

    def _when(self, limit: Limit, now: float) -> tuple[int, float]:
        """Return the bucket of a moment, and until when a counter of it is worth keeping."""
        if limit.kind == WINDOW:
            bucket = int(now // limit.seconds)
            return bucket, float((bucket + 3) * limit.seconds)
        return 0, now + self._hold if limit.kind == FLIGHT else _FOR_EVER


_PROBE = Order("", (Line("", Limit("", 1, 1), 0),))


@lru_cache(_REMEMBERED)
def _prefix(tag: str, account: str) -> str:
    """Return what the keys of an account begin with: no name of a caller stands in the file."""
    names = [name.encode("utf-8", "surrogatepass") for name in (tag, account)]
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(b"%d:" % len(name) + name)
    return digest.hexdigest()


def _key(tag: str, account: str, limit: Limit) -> str:
    return _prefix(tag, account) + _suffix(limit.kind, limit.seconds, limit.field)


@lru_cache(4096)
def _suffix(kind: str, seconds: int, field: str) -> str:
    return f":{statements.KINDS[kind]}:{seconds}:{json.dumps(field)}"


def _named(suffix: str) -> tuple[str, int, str]:
    """Read what `_suffix` wrote: a kind, seconds and a field."""
    _, kind, seconds, field = suffix.split(":", 3)
    return _KINDS[int(kind)], int(seconds), json.loads(field)


def _is_behind(order: Order, rows: Sequence[Sequence[Row]], now: float) -> bool:
    """Say whether a window has ended, and none has begun since."""
    return any(
        line.limit.kind == WINDOW and found and found[0][_BUCKET] < now // line.limit.seconds
        for line, found in zip(order.lines, rows, strict=True)
    )


def _receipt(
    order: Order, rows: Sequence[Sequence[Row]], now: float, token: int, *, is_admitted: bool
) -> Receipt:
    readings, ended = [], []
    for number, ((_, limit, cost), found) in enumerate(zip(order.lines, rows, strict=True)):
        readings.append(_slot(limit, found, now).read(0 if is_admitted else cost))
        if found and found[0][_TOKEN] == token and found[0][_USED]:
            ended.append((number, found[0][_USED] / found[0][_OF]))
    receipt = Receipt(tuple(readings), now, tuple(ended))
    if receipt.is_admitted and not is_admitted:  # what has changed since makes room for it
        readings[0] = readings[0]._replace(wait=_RACED)
        return receipt._replace(readings=tuple(readings))
    return receipt


def _slot(limit: Limit, rows: Sequence[Row], now: float) -> Slot:
    """Return a counter as it stands in the file."""
    if limit.kind == FLIGHT:
        held = {row[_HOLDER]: row[_CURRENT] for row in rows if row[_UNTIL] > now}
        return Flight({"": {limit.field: held}}, "", "", limit)
    numbers: Sequence[Any]
    if not rows:
        numbers = (int(now // limit.seconds) if limit.seconds else 0, 0, 0, limit.amount)
    else:
        numbers = rows[0][_BUCKET : _AMOUNT + 1]
    if limit.kind == LIFETIME:
        return Lifetime({"": {limit.field: (numbers[1], limit.amount)}}, "", limit)
    return Window(array("q", (0, *numbers)), 0, limit, now)


@contextlib.contextmanager
def _in_plain_words(*, has_changed: bool = False) -> Iterator[None]:
    try:
        yield
    except DatabaseFailed as error:
        raise _unavailable(str(error), has_changed=has_changed) from None


def _unavailable(reason: str, *, has_changed: bool) -> StoreUnavailable:
    """Say that there was no debit, and whether the changes that came with it were made."""
    return ChangesUnmade(reason, ()) if has_changed else StoreUnavailable(reason)
