"""How do quotas hold while their store is away?"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Event, Lock, Thread

from mlguard.errors import InvalidSettings
from mlguard.ledger import (
    FLIGHT,
    Change,
    Limit,
    Line,
    MemoryLedger,
    Order,
    Reading,
    Receipt,
    StoreUnavailable,
)
from mlguard.logs import Seldom
from mlguard.quota_store.pending import NOW, Held, LastRead, Owed, Pending
from mlguard.quota_store.store import Store

_FAILURES = 3  # in a row, after which the store counts as away
_PROBE = 0.25  # seconds
_CARRY = 0.01
_RENEW = 10.0
_IDLE = 1.0
_LAST_TRY = 1.0
_SAID = 1.0  # so often at most that it comes or goes is logged
_LOCAL = -1.0  # a time that no clock shows: charged here


class Failover:
    """A ledger that counts in a store, and by the settings where the store is away.

    A debit takes one call of the store, which makes the corrections of the same callers with it;
    one thread carries the others. After some failures in a row the store is asked by that thread
    only, until it answers: then what was charged here meanwhile is charged there too. After a
    failure, nobody asks it while others still wait for it.

    Args:
        make: Makes this process's end of the store where counts are kept.
        name: The store, for the log.
        share: Of each limit, what is admitted here while the store is away.
        lifetime: Whether something is counted that must never be forgotten.
        on_away: Told whether the store is away, whenever that changes.
        on_call: Told how many seconds each debit in the store took.
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
    ) -> None:
        self._make = make
        self._name = name
        self._lifetime = lifetime
        self._on_away = on_away
        self._on_call = on_call
        self._scaled = lru_cache(4096)(lambda limit: _scaled(limit, share))
        self._pid = 0
        self._reset()

    def _reset(self) -> None:
        """Begin anew: nothing of another process's is ours."""
        self._store = self._make()
        self._lock = Lock()
        self._local = MemoryLedger()
        self._pending = Pending()
        self._owed = Owed()
        self._held = Held()
        self._last_read = LastRead()
        self._asking = 0
        self._failures = 0
        self._is_away = False
        self._is_fit = False
        self._wake = Event()
        self._closing = Event()
        self._thread: Thread | None = None
        self._log = Seldom()
        self._said = Seldom(_SAID)

    def start(self) -> None:
        """Begin, in this process: after a fork each child must start anew. Blocks for a moment.

        Raises:
            InvalidSettings: The store is unfit.
        """
        if self._pid == os.getpid():
            return
        self._reset()
        self._pid = os.getpid()
        try:
            self._store.start()
            complaint = self._store.complaint(lifetime=self._lifetime)
        except StoreUnavailable as error:
            self._failed(error, at_once=True)
        else:
            if complaint:
                self._pid = 0  # who asks again is told again
                self._store.close()
                raise InvalidSettings(f"quotas.store: {complaint}")
            self._is_fit = True
        self._thread = Thread(target=self._run, name="mlguard-quotas", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the store what it does not know yet, as far as that goes in a second."""
        if self._thread is None or self._pid != os.getpid():
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(_LAST_TRY)
        self._store.close()
        self._pid = 0

    def debit(self, order: Order) -> Receipt | None:
        """Charge every line, or none where one does not admit its cost."""
        if self._asks():
            changes = self._pending.take(order.tag)
            self._fly(order, 1)
            began = time.perf_counter()
            try:
                receipt = self._store.debit(order, changes)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                self._unanswered(order, changes, error)
                self._failed(error)
            else:
                return self._answered(order, receipt, began)
            finally:
                self._has_asked()
        return self._without(order)

    async def adebit(self, order: Order) -> Receipt | None:
        """Do what `debit` does, without blocking the event loop."""
        if self._asks():
            changes = self._pending.take(order.tag)
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
                self._unanswered(order, changes, error)
                self._failed(error)
            else:
                return self._answered(order, receipt, began)
            finally:
                self._has_asked()
        return self._without(order)

    def settle(self, changes: Sequence[Change]) -> None:
        """Have admitted charges corrected; returns at once."""
        later = []
        for change in changes:
            if change.since == _LOCAL:
                if change.limit.on_failure == "open":  # nothing was charged
                    continue
                self._local.settle([change._replace(since=NOW, limit=self._scaled(change.limit))])
                if change.limit.kind == FLIGHT or self._owed.correct(change):
                    continue
                change = change._replace(since=NOW)
            elif change.limit.kind == FLIGHT:
                self._held.change(change[:3], change.extra)
            later.append(change)
        if later:
            self._pending.put(later)
            self._wake.set()

    def _asks(self) -> bool:
        """Say whether to ask the store, and count who does.

        Who was behind others for a free thread has waited already: not for the same again.
        """
        with self._lock:
            if self._is_away or (self._failures and self._asking):
                return False
            self._asking += 1
            return True

    def _has_asked(self) -> None:
        with self._lock:
            self._asking -= 1

    def _answered(self, order: Order, receipt: Receipt, began: float) -> Receipt:
        self._failures = 0
        self._on_call(time.perf_counter() - began)
        if not receipt.is_admitted:
            self._fly(order, -1)
        self._last_read.put(order, receipt)
        return receipt

    def _unanswered(
        self, order: Order, changes: Sequence[Change], error: BaseException | None
    ) -> None:
        """Make the changes later; what is in flight may count in the store, or not."""
        if not (isinstance(error, StoreUnavailable) and error.has_changed):
            self._pending.put(changes)
        self._fly(order, -1)
        for account, limit, _ in order.lines:
            if limit.kind == FLIGHT:
                self._held.doubt((order.tag, account, limit))

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
            error = None if call.cancelled() else call.exception()
            self._unanswered(order, changes, error)
            return
        self._fly(order, -1)
        if (receipt := call.result()).is_admitted:
            self._pending.put(
                Change(order.tag, account, limit, -cost, receipt.at)
                for account, limit, cost in order.lines
            )
            self._wake.set()

    def _without(self, order: Order) -> Receipt | None:
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
        if not self._owed.takes(owed):
            return None
        receipt = self._local.debit(Order(order.tag, tuple(local)))
        if receipt.is_admitted:
            self._owed.add(owed)
            if not self._is_away:  # it failed now and then, or has come back just now
                self._wake.set()
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

    def _failed(self, error: Exception, *, at_once: bool = False) -> None:
        self._wake.set()
        with self._lock:
            self._failures += 1
            if self._is_away or (self._failures < _FAILURES and not at_once):
                return
            self._is_away = True
            # Locked, so that nobody can tell before that it is back.
            text = "the quotas' store %s is away: %s; they go on as quotas.on_store_failure says"
            self._said.warning("away", text, self._name, error)
            self._on_away(True)
        self._wake.set()

    def _run(self) -> None:
        renew_at = time.monotonic() + _RENEW
        while not self._closing.is_set():
            self._wake.wait(_IDLE)
            self._wake.clear()
            if self._is_away:
                self._probe()
                self._closing.wait(_PROBE)
                if self._is_away:
                    self._wake.set()
                continue
            self._closing.wait(_CARRY)  # most go with the caller's next debit
            self._carry()
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + _RENEW
                self._pending.put(self._held.renewals())
                self._carry()
        if not self._is_away:
            self._carry()

    def _carry(self) -> None:
        self._pending.put([*self._owed.take(), *self._held.doubted()])
        while changes := self._pending.take_some():
            try:
                self._store.apply(changes)
            except Exception as error:  # noqa: BLE001 - the thread must go on
                self._pending.put(changes)
                self._failed(error)
                return

    def _probe(self) -> None:
        """Look whether the store is back, and charge there what was charged here."""
        try:
            self._store.apply(())
            if not self._is_fit and (complaint := self._store.complaint(lifetime=self._lifetime)):
                self._log.warning("unfit", "quotas.store: %s", complaint)
                return
        except Exception:  # noqa: BLE001 - that it is away was said
            return
        self._is_fit = True
        with self._lock:
            self._is_away = False
            self._failures = 0
        self._carry()
        with self._lock:
            if not self._is_away:
                self._said.warning("back", "the quotas' store %s is back", self._name)
                self._on_away(False)


def _scaled(limit: Limit, share: float) -> Limit:
    return dataclasses.replace(limit, amount=max(1, int(limit.amount * share)))


def _unread(line: Line) -> Reading:
    """Answer for a counter that nobody reads."""
    return Reading(line.limit.amount, float(line.limit.seconds), 0.0)
