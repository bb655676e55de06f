"""How is one number kept?

prometheus-client's own classes turn into memory-mapped files, without exemplars, as soon as
anybody sets PROMETHEUS_MULTIPROC_DIR; these stay in memory, and cost half.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from math import isnan
from threading import Lock
from typing import Any

from prometheus_client import Metric as CollectedMetric
from prometheus_client.registry import Collector

from mlguard.metrics.families import Family, Written
from mlguard.metrics.table import METRICS

_TABLE = {metric.name: metric for metric in METRICS}


class Number:
    """A count that goes up, or a gauge that goes both ways; NaN where there is nothing to tell."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin at zero, with a lock that nobody holds."""
        self._lock = Lock()
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Add `amount`, which may be negative for a gauge."""
        with self._lock:
            self.value += amount

    def set(self, value: float) -> None:
        """Replace the number."""
        self.value = float(value)

    def samples(self, name: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        """Tell the number."""
        value = self.value
        return [] if isnan(value) else [{"name": name, "labels": labels, "value": value}]


class Histogram:
    """Values counted by bucket, the last trace of each bucket beside it."""

    __slots__ = ("_bounds", "_clock", "_counts", "_exemplars", "_lock", "_names", "_sum")

    def __init__(self, bounds: Sequence[float], clock: Callable[[], float]) -> None:
        self._bounds = bounds
        self._names = (*map(str, bounds), "+Inf")
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin at zero, with a lock that nobody holds."""
        self._lock = Lock()
        self._counts = [0] * len(self._names)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * len(self._names)
        self._sum = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count one value, and remember its trace."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
            if trace_id:
                self._exemplars[bucket] = (trace_id, value, self._clock())

    def samples(self, name: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        """Tell the numbers: each bucket counts what the ones before it do."""
        with self._lock:
            counts, exemplars, total = self._counts.copy(), self._exemplars.copy(), self._sum
        seen, bucket = 0, f"{name}_bucket"
        found: list[dict[str, Any]] = []
        for le, count, kept in zip(self._names, counts, exemplars, strict=True):
            seen += count
            told: dict[str, Any] = {"name": bucket, "labels": {**labels, "le": le}, "value": seen}
            if kept is not None:
                trace_id, value, moment = kept
                told["exemplar"] = {
                    "labels": {"trace_id": trace_id},
                    "value": value,
                    "timestamp": moment,
                }
            found.append(told)
        found.append({"name": f"{name}_count", "labels": labels, "value": seen})
        found.append({"name": f"{name}_sum", "labels": labels, "value": total})
        return found


class Numbers(Collector):
    """The numbers of every metric of the table, kept in one process.

    A cell is named by its metric and the values of its labels, in the order of the table.

    Args:
        clock: Seconds since 1970, for exemplars.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._cells: dict[tuple[str, ...], Any] = {}

    def number(self, *named: str) -> Number:
        """Return the cell of a counter or gauge; without a lock where it was made before."""
        return self._cells.get(named) or self._made(named)  # type: ignore[no-any-return]

    def histogram(self, *named: str) -> Histogram:
        """Return the cell of a histogram."""
        return self._cells.get(named) or self._made(named)  # type: ignore[no-any-return]

    def _made(self, named: tuple[str, ...]) -> Any:
        metric = _TABLE[named[0]]
        is_histogram = metric.kind == "histogram"
        made = Histogram(metric.buckets, self._clock) if is_histogram else Number()
        with self._lock:
            return self._cells.setdefault(named, made)

    def add(self, *named: str, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self.number(*named).add(amount)

    def forget(self) -> None:
        """Begin at zero, in a forked process: what was counted is the parent's."""
        self._lock = Lock()
        for cell in self._cells.values():
            cell.forget()

    def set(self, *named: str, to: float) -> None:
        """Replace the number of a gauge."""
        self.number(*named).set(to)

    def families(self) -> list[Family]:
        """Tell all that was counted, in the order of the table."""
        with self._lock:
            cells = list(self._cells.items())
        samples: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLE}
        for (name, *values), cell in cells:
            labels = dict(zip(_TABLE[name].labels, values, strict=True))
            samples[name] += cell.samples(name, labels)
        return [
            {"name": m.family, "type": m.kind, "help": m.help, "samples": samples[m.name]}
            for m in METRICS
            if samples[m.name]
        ]

    def describe(self) -> list[CollectedMetric]:
        """Name every metric, so that nobody else registers one of these names."""
        return [CollectedMetric(m.family, m.help, m.kind) for m in METRICS]

    def collect(self) -> Iterator[CollectedMetric]:
        """Tell all that was counted, in prometheus-client's words."""
        yield from Written(self.families()).collect()
