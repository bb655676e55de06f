"""How do quotas hold while their store is away?"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock

from mlguard.errors import InvalidSettings
from mlguard.ledger import (
    FLIGHT,
    Change,
    ChangesUnmade,
    Limit,
    Line,
    MemoryLedger,
    Order,
    Reading,
    Receipt,
    StoreUnavailable,
    again,
)
from mlguard.logs import RateLimitedLog
from mlguard.quota_store.pending import NOW, Held, LastRead, Owed, Pending
from mlguard.quota_store.store import Sharded, Store

_FAILURES = 3  # in a row, after which the store counts as away
_PROBE = 0.25  # seconds
_CARRY = 0.01  # for which corrections wait: most go with the caller's next debit
_RENEW = 10.0
_SAID = 1.0  # so often at most that it comes or goes is logged
_LOCAL = -1.0  # a time that no clock shows: charged here
_WHOLE = ""  # the name of a store without parts


class _Shard:
    """One part of the store, as this process knows it.

    Args:
        name: The part, for the log.
        tag: One that is counted in it.

    Attributes:
        pending: What it has not been told yet.
        owed: What was charged here while it was away.
        asking: How many ask it now.
        failures: How many times in a row it has failed.
        is_away: Whether it counts as away.
    """

    def __init__(self, name: str, tag: str) -> None:
        self.name = name
        self.tag = tag
        self.pending = Pending()
        self.owed = Owed()
        self.asking = 0
        self.failures = 0
        self.is_away = False


class Failover:
    """A ledger that counts in a store, and by the settings where the store is away.

    A debit takes one call of the store, which makes the corrections of the same callers with it;
    `look_after` carries the others. After some failures in a row the store is asked by that only,
    until it answers: then what was charged here meanwhile is charged there too. After a
    failure, nobody asks it while others still wait for it. All that is so for each part of a store
    that has several: one that is away is no matter of the others' callers.

    Args:
        make: Makes this process's end of the store where counts are kept.
        name: The store, for the log.
        share: Of each limit, what is admitted here while the store is away.
        lifetime: Whether something is counted that must never be forgotten.
        on_away: Told whether the store is away, whenever that changes.
        on_call: Told how many seconds each debit in the store took.
        wake: Has `look_after` called within so many seconds; returns at once.
    """

    def __init__(
        self,
        make: Callable[[], Store],
        *,
        name: str,
        share: float,
        lifetime: bool,
        on_away: Callable[[bool], None],
        on_call: Callable[[float], None] = lambda _: None,
        wake: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._make = make
        self._name = name
        self._lifetime = lifetime
        self._on_away = on_away
        self._on_call = on_call
        self._wake = wake
        self._scaled = lru_cache(4096)(lambda limit: _scaled(limit, share))
        self._reset()

    def _reset(self) -> None:
        """Begin anew: nothing of another process's is ours."""
        self._store = self._make()
        self._parts = self._store if isinstance(self._store, Sharded) else None
        self._lock = Lock()
        self._local = MemoryLedger()
        self._shards = {_WHOLE: _Shard(_WHOLE, "")}
        self._held = Held()
        self._last_read = LastRead()
        self._is_fit = False
        self._renew_at = time.monotonic() + _RENEW
        self._log = RateLimitedLog()
        self._said = RateLimitedLog(_SAID)

    def start(self) -> None:
        """Begin, in this process: after a fork each child must start anew. Blocks for a moment.

        Raises:
            InvalidSettings: The store is unfit.
        """
        self._reset()
        try:
            self._store.start()
            complaint = self._store.complaint(lifetime=self._lifetime)
        except StoreUnavailable as error:
            self._failed(error, self._shards[_WHOLE], at_once=True)
        else:
            if complaint:
                self._store.close()
                raise InvalidSettings(f"quotas.store: {complaint}")
            self._is_fit = True

    def look_after(self) -> float | None:
        """Tell the store what it does not know yet, or see whether it is back; blocks.

        Returns:
            In how many seconds this is due again; None as usual.
        """
        for shard in self._away():
            self._probe(shard)
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW
            for change in self._held.renewals():
                self._tell(change)
        self._carry_all()
        if self._parts:
            self._parts.give_back()
        return _PROBE if self._away() else None

    def close(self) -> None:
        """Let go of the store, which knows what it was told."""
        self._store.close()

    def debit(self, order: Order) -> Receipt | None:
        """Charge every line, or none where one does not admit its cost."""
        shard, owes = self._shard(order.tag), True
        if self._asks(shard):
            changes = shard.pending.take(order.tag)
            self._fly(order, 1)
            began = time.perf_counter()
            try:
                receipt = self._store.debit(order, changes)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                owes = self._unanswered(order, changes, error)
                self._failed(error, shard)
            else:
                return self._answered(order, shard, receipt, began)
            finally:
                self._has_asked(shard)
        return self._without(order, shard, owes=owes)

    async def adebit(self, order: Order) -> Receipt | None:
        """Do what `debit` does, without blocking the event loop."""
        shard, owes = self._shard(order.tag), True
        if self._asks(shard):
            changes = shard.pending.take(order.tag)
            self._fly(order, 1)
            began = time.perf_counter()
            # Who leaves meanwhile must not leave it open whether this was charged.
            call = asyncio.ensure_future(self._store.adebit(order, changes))
            try:
                receipt = await asyncio.shield(call)
            except asyncio.CancelledError:
                call.add_done_callback(lambda call: self._abandoned(order, changes, call))
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                owes = self._unanswered(order, changes, error)
                self._failed(error, shard)
            else:
                return self._answered(order, shard, receipt, began)
            finally:
                self._has_asked(shard)
        return self._without(order, shard, owes=owes)

    def settle(self, changes: Sequence[Change]) -> None:
        """Have admitted charges corrected; returns at once."""
        for change in changes:
            shard = self._shard(change.tag)
            if change.since == _LOCAL:
                if change.limit.on_failure == "open":  # nothing was charged
                    continue
                self._local.settle([change._replace(since=NOW, limit=self._scaled(change.limit))])
                if change.limit.kind == FLIGHT or shard.owed.correct(change):
                    continue
                change = change._replace(since=NOW)
            elif change.limit.kind == FLIGHT:
                self._held.change(change[:3], change.extra)
            shard.pending.put([change])
            self._wake(_CARRY)

    def _shard(self, tag: str) -> _Shard:
        """Find the part of the store that a tag is counted in."""
        name = self._parts.shard(tag) if self._parts else _WHOLE
        return self._shards.get(name) or self._shards.setdefault(name, _Shard(name, tag))

    def _asks(self, shard: _Shard) -> bool:
        """Say whether to ask the store, and count who does.

        Who was behind others for a free thread has waited already: not for the same again.
        """
        with self._lock:
            if shard.is_away or (shard.failures and shard.asking):
                return False
            shard.asking += 1
            return True

    def _has_asked(self, shard: _Shard) -> None:
        with self._lock:
            shard.asking -= 1

    def _answered(self, order: Order, shard: _Shard, receipt: Receipt, began: float) -> Receipt:
        shard.failures = 0
        self._on_call(time.perf_counter() - began)
        if not receipt.is_admitted:
            self._fly(order, -1)
        self._last_read.put(order, receipt)
        return receipt

    def _unanswered(
        self, order: Order, changes: Sequence[Change], error: BaseException | None
    ) -> bool:
        """Make the changes later; what is in flight may count in the store, or not.

        Returns:
            Whether the order is not charged in the store.
        """
        self._shard(order.tag).pending.put(again(changes, error))
        self._fly(order, -1)
        for account, limit, _ in order.lines:
            if limit.kind == FLIGHT:
                self._held.doubt((order.tag, account, limit))
        is_open = isinstance(error, StoreUnavailable) and error.may_be_done
        if is_open:
            self._log.warning(
                "open",
                "whether %s has charged what was on its way when its connection broke is not "
                "known: it is not charged again",
                self._name,
            )
        return not is_open

    def _fly(self, order: Order, way: int) -> None:
        """Hold what an order has in flight, or (-1) no longer."""
        for account, limit, cost in order.lines:
            if limit.kind == FLIGHT:
                self._held.change((order.tag, account, limit), way * cost)

    def _abandoned(
        self, order: Order, changes: Sequence[Change], call: asyncio.Future[Receipt]
    ) -> None:
        """Give back what was charged for somebody who did not wait for it."""
        if call.cancelled() or call.exception() is not None:
            self._unanswered(order, changes, None if call.cancelled() else call.exception())
            return
        self._fly(order, -1)
        if (receipt := call.result()).is_admitted:
            self._shard(order.tag).pending.put(
                Change(order.tag, account, limit, -cost, receipt.at)
                for account, limit, cost in order.lines
            )
            self._wake(_CARRY)

    def _without(self, order: Order, shard: _Shard, *, owes: bool) -> Receipt | None:
        """Go by the settings: count here, do not count, or say that nobody can tell."""
        local = []
        for line in order.lines:
            if line.limit.on_failure == "closed":
                return None
            if line.limit.on_failure == "local":
                limit = self._scaled(line.limit)
                if line.cost > limit.amount:
                    return None
                local.append(line._replace(limit=limit))
                self._begin_locally(order.tag, line, limit)
        owed = order._replace(lines=tuple(x for x in order.lines if x.limit.on_failure == "local"))
        if not shard.owed.takes(owed):
            return None
        receipt = self._local.debit(Order(order.tag, tuple(local)))
        if receipt.is_admitted and owes:
            shard.owed.add(owed)
            if not shard.is_away:  # it failed now and then, or has come back just now
                self._wake(_CARRY)
        readings = iter(receipt.readings)
        found = (
            _unread(x) if x.limit.on_failure == "open" else next(readings) for x in order.lines
        )
        return Receipt(tuple(found), _LOCAL)

    def _begin_locally(self, tag: str, line: Line, limit: Limit) -> None:
        """Admit the share of what was left when the store was last read, not of all anew."""
        left = self._last_read.take(tag, line)
        if left is None or left >= line.limit.amount:
            return
        place = (tag, line.account, limit)
        most = int(left * limit.amount / line.limit.amount)
        now_left = (
            self._local.peek(Order(tag, (Line(line.account, limit, 0),))).readings[0].remaining
        )
        if now_left > most:
            self._local.settle([Change(*place, now_left - most, NOW, is_grant=True)])

    def _failed(self, error: Exception, shard: _Shard, *, at_once: bool = False) -> None:
        self._wake(_CARRY)
        with self._lock:
            shard.failures += 1
            if shard.is_away or (shard.failures < _FAILURES and not at_once):
                return
            is_first = not self._away()
            shard.is_away = True
            # Locked, so that nobody can tell before that it is back.
            text = "the quotas' store %s is away: %s; they go on as quotas.on_store_failure says"
            self._said.warning(f"away {shard.name}", text, self._named(shard), error)
            if is_first:
                self._on_away(True)
        self._wake(_CARRY)

    def _away(self) -> list[_Shard]:
        return [shard for shard in list(self._shards.values()) if shard.is_away]

    def _named(self, shard: _Shard) -> str:
        return f"{self._name} ({shard.name})" if shard.name else self._name

    def _carry_all(self) -> None:
        for change in self._held.doubted():
            self._shard(change.tag).pending.put([change])
        for shard in list(self._shards.values()):
            if not shard.is_away:
                self._carry(shard)

    def _tell(self, change: Change) -> None:
        """Have a part of the store told what is held, if it is there."""
        shard = self._shard(change.tag)
        if not shard.is_away:
            shard.pending.put([change])

    def _carry(self, shard: _Shard) -> None:
        shard.pending.put(shard.owed.take())
        while changes := shard.pending.take_some():
            try:
                self._store.apply(changes)
            except Exception as error:  # noqa: BLE001 - the thread must go on
                unmade = error.unmade if isinstance(error, ChangesUnmade) else changes
                shard.pending.put(unmade)
                self._failed(error, shard)
                return

    def _probe(self, shard: _Shard) -> None:
        """Look whether a part of the store is back, and charge there what was charged here."""
        try:
            if self._parts:
                self._parts.probe(shard.tag)
            else:
                self._store.apply(())
            if not self._is_fit and (complaint := self._store.complaint(lifetime=self._lifetime)):
                self._log.warning("unfit", "quotas.store: %s", complaint)
                return
        except Exception:  # noqa: BLE001 - that it is away was said
            return
        self._is_fit = True
        with self._lock:
            shard.is_away = False
            shard.failures = 0
        self._carry(shard)
        with self._lock:
            if not shard.is_away:
                self._said.warning(
                    f"back {shard.name}", "the quotas' store %s is back", self._named(shard)
                )
                if not self._away():
                    self._on_away(False)


def _scaled(limit: Limit, share: float) -> Limit:
    return dataclasses.replace(limit, amount=max(1, int(limit.amount * share)))


def _unread(line: Line) -> Reading:
    """Answer for a counter that nobody reads."""
    return Reading(line.limit.amount, float(line.limit.seconds), 0.0)
