"""How much may they still ask? Windows of requests and of predicted rows."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlguard import refusals
from mlguard.messages import Deny, Headers
from mlguard.settings import Quotas, Rate


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request costs one counter.

    Attributes:
        key: Whose counter.
        unit: What is counted: "requests" or "rows".
        rates: The windows that must all admit the cost.
        cost: Units.
    """

    key: Hashable
    unit: str
    rates: tuple[Rate, ...]
    cost: int


class Reading(NamedTuple):
    """One window after a debit was tried.

    Attributes:
        unit: What it counts.
        rate: The window.
        remaining: Units it would still admit.
        reset: Seconds until its current bucket ends.
        wait: Seconds until it admits the cost; 0 where it did.
    """

    unit: str
    rate: Rate
    remaining: int
    reset: float
    wait: float


class _Counter:
    """A sliding-window counter, as in `limits`: the bucket before weighs less and less.

    Time never runs backwards here: a bucket that has begun stays the current one.
    """

    __slots__ = ("bucket", "current", "previous")

    def __init__(self) -> None:
        self.bucket = 0
        self.current = 0
        self.previous = 0

    def elapsed(self, rate: Rate, now: float) -> float:
        """Turn to the bucket of this moment and tell how many seconds of it have passed."""
        bucket = int(now // rate.seconds)
        if bucket > self.bucket:
            self.previous = self.current if bucket == self.bucket + 1 else 0
            self.current = 0
            self.bucket = bucket
        return now % rate.seconds if bucket == self.bucket else 0.0

    def used(self, rate: Rate, now: float) -> float:
        elapsed = self.elapsed(rate, now)
        return self.previous * (1 - elapsed / rate.seconds) + self.current

    def wait(self, rate: Rate, cost: int, now: float) -> float:
        """Compute when it admits a cost that fits at all: once old buckets weigh little enough."""
        if self.used(rate, now) + cost <= rate.limit:
            return 0.0
        elapsed, room = self.elapsed(rate, now), rate.limit - cost
        if self.current <= room:
            return rate.seconds * (1 - (room - self.current) / self.previous) - elapsed
        return rate.seconds - elapsed + rate.seconds * (1 - room / self.current)

    def settle(self, rate: Rate, extra: int, since: float, now: float) -> None:
        """Add debt, at most a whole window of it, or give back where it was charged."""
        self.elapsed(rate, now)
        age = self.bucket - int(since // rate.seconds)
        if extra > 0:
            self.current = max(self.current, min(self.current + extra, 2 * rate.limit))
        elif age <= 0:
            self.current = max(0, self.current + extra)
        elif age == 1:
            self.previous = max(0, self.previous + extra)


class MemoryLedger:
    """Counters of one process; a debit is all or nothing.

    A counter that nobody touched for two of its longest windows leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._young: dict[Hashable, tuple[_Counter, ...]] = {}
        self._old: dict[Hashable, tuple[_Counter, ...]] = {}
        self._longest = 1
        self._born = 0.0

    def debit(self, charges: Sequence[Charge], now: float) -> list[Reading]:
        """Charge every window of every counter, or none where one does not admit its cost.

        Args:
            charges: Each of another counter.
            now: Seconds of a clock that runs forward.

        Returns:
            A reading per window; the debit was refused where one of them has to wait.
        """
        with self._lock:
            self._age(charges, now)
            windows = [
                (charge, rate, counter)
                for charge in charges
                for counter, rate in zip(self._counters(charge), charge.rates, strict=True)
            ]
            used = [counter.used(rate, now) for _, rate, counter in windows]
            fits = all(u + w[0].cost <= w[1].limit for u, w in zip(used, windows, strict=True))
            readings = []
            for before, (charge, rate, counter) in zip(used, windows, strict=True):
                wait, after = 0.0, before
                if fits:
                    counter.current += charge.cost
                    after += charge.cost
                else:
                    wait = counter.wait(rate, charge.cost, now)
                left = max(0, math.floor(rate.limit - after))
                reset = rate.seconds - counter.elapsed(rate, now)
                readings.append(Reading(charge.unit, rate, left, reset, wait))
            return readings

    def wait(self, charge: Charge, now: float) -> float:
        """Tell how many seconds it takes until a charge would be admitted; charges nothing."""
        with self._lock:
            self._age([charge], now)
            windows = zip(self._counters(charge), charge.rates, strict=True)
            return max(counter.wait(rate, charge.cost, now) for counter, rate in windows)

    def settle(self, charge: Charge, cost: int, since: float, now: float) -> None:
        """Make an admitted charge cost something else.

        Args:
            charge: As it was admitted.
            cost: Units it turned out to cost; 0 refunds it.
            since: When it was admitted, in seconds of the same clock.
            now: Seconds of that clock.
        """
        with self._lock:
            self._age([charge], now)
            for counter, rate in zip(self._counters(charge), charge.rates, strict=True):
                counter.settle(rate, cost - charge.cost, since, now)

    def _counters(self, charge: Charge) -> tuple[_Counter, ...]:
        counters = self._young.get(charge.key)
        if counters is None:
            counters = self._old.pop(charge.key, None) or tuple(_Counter() for _ in charge.rates)
            self._young[charge.key] = counters
        return counters

    def _age(self, charges: Sequence[Charge], now: float) -> None:
        self._longest = max(self._longest, *(r.seconds for c in charges for r in c.rates))
        if now - self._born > 2 * self._longest:
            self._old = self._young if now - self._born <= 4 * self._longest else {}
            self._young = {}
            self._born = now


class Debit:
    """What an admitted call was charged, until the answer tells what it costs.

    Attributes:
        left: What is left of each window, by the window's name.
    """

    __slots__ = ("_at", "_charges", "_ledger", "left")

    def __init__(
        self, ledger: MemoryLedger, charges: Sequence[Charge], at: float, left: Mapping[str, str]
    ) -> None:
        self._ledger = ledger
        self._charges = charges
        self._at = at
        self.left = left

    @property
    def rows(self) -> int:
        """The rows it was charged."""
        return sum(c.cost for c in self._charges if c.unit == "rows")

    def settle(self, rows: int, now: float) -> None:
        """Make its rows cost what they turned out to be; 0 refunds them."""
        for charge in self._charges:
            if charge.unit == "rows" and charge.cost != rows:
                self._ledger.settle(charge, rows, self._at, now)

    def cancel(self, now: float) -> None:
        """Give everything back: the call was refused after all."""
        for charge in self._charges:
            self._ledger.settle(charge, 0, self._at, now)


class Quota:
    """Decide whether a principal may go on, and say in headers what is left.

    Args:
        settings: The windows.
        ledger: Where counts are kept.
    """

    def __init__(self, settings: Quotas, ledger: MemoryLedger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._largest = min((r.limit for r in settings.rows), default=None)
        windows = [("requests", r) for r in settings.requests]
        windows += [("rows", r) for r in settings.rows]
        self._policies = {
            _name(u, r): f'"{_name(u, r)}";q={r.limit};w={r.seconds}' for u, r in windows
        }

    def admit(
        self,
        principal: tuple[str, str, str],
        model: str | None,
        rows: int,
        now: float,
        *,
        request: bool = True,
    ) -> Debit | Deny:
        """Charge everything that a call touches, or refuse it and charge nothing.

        Args:
            principal: The principal's key.
            model: The model asked, None where none is.
            rows: Predicted rows asked.
            now: Seconds of a clock that runs forward.
            request: Whether the request itself counts too.
        """
        if rows < 0:
            raise ValueError(f"{rows} rows: must not be below zero")
        if model is not None and self._largest is not None and rows > self._largest:
            return refusals.batch_exceeds_quota(self._largest)
        charges = self._charges(principal, model, rows, request=request)
        if not charges:
            return Debit(self._ledger, (), now, {})
        readings = self._ledger.debit(charges, now)
        left = {_name(r.unit, r.rate): f"r={r.remaining};t={math.ceil(r.reset)}" for r in readings}
        wait, unit = max((r.wait, r.unit) for r in readings)
        if wait == 0:
            return Debit(self._ledger, charges, now, left)
        refusal = refusals.quota_exceeded if unit == "rows" else refusals.rate_exceeded
        return refusal(max(1, math.ceil(wait)), self.headers(left))

    def _charges(
        self, principal: tuple[str, str, str], model: str | None, rows: int, *, request: bool
    ) -> list[Charge]:
        charges = []
        if request and self._settings.requests:
            charges.append(Charge(principal, "requests", self._settings.requests, 1))
        if model is not None and self._settings.rows:
            charges.append(Charge((principal, model), "rows", self._settings.rows, rows))
        return charges

    def headers(self, left: Mapping[str, str]) -> Headers:
        """Write draft-ietf-httpapi-ratelimit-headers: what the policy is and what is left of it."""
        if not left:
            return ()
        policy = ", ".join(self._policies[name] for name in left)
        return (
            ("RateLimit-Policy", policy),
            ("RateLimit", ", ".join(f'"{name}";{rest}' for name, rest in left.items())),
        )


def _name(unit: str, rate: Rate) -> str:
    return f"{unit}-{rate.seconds}"
