"""How is one number kept?

prometheus-client's own classes turn into memory-mapped files, without exemplars, as soon as
anybody sets PROMETHEUS_MULTIPROC_DIR; these stay in memory, and cost half.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from math import isnan
from threading import Lock
from typing import Any

from prometheus_client import Metric as CollectedMetric
from prometheus_client.registry import Collector

from mlguard.metrics.families import Family, Written
from mlguard.metrics.page import Labels
from mlguard.metrics.table import METRICS, Metric

_TABLE = {metric.name: metric for metric in METRICS}


class Number:
    """A count that goes up, or a gauge that goes both ways; NaN where there is nothing to tell."""

    __slots__ = ("_labels", "_lock", "_name", "value")

    def __init__(self, metric: Metric, labels: Mapping[str, str]) -> None:
        self._name = metric.name
        self._labels = Labels(labels)
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

    def samples(self) -> list[dict[str, Any]]:
        """Tell the number."""
        value = self.value
        told = {"name": self._name, "labels": self._labels, "value": value}
        return [] if isnan(value) else [told]


class Histogram:
    """Values counted by bucket, the last trace of each bucket beside it."""

    __slots__ = (
        "_bounds",
        "_buckets",
        "_clock",
        "_counts",
        "_exemplars",
        "_labels",
        "_lock",
        "_name",
        "_sum",
    )

    def __init__(
        self, metric: Metric, labels: Mapping[str, str], clock: Callable[[], float]
    ) -> None:
        self._name = metric.name
        self._labels = Labels(labels)
        self._bounds = metric.buckets
        names = (*map(str, metric.buckets), "+Inf")
        self._buckets = tuple(Labels({**labels, "le": name}) for name in names)
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin at zero, with a lock that nobody holds."""
        self._lock = Lock()
        self._counts = [0] * len(self._buckets)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * len(self._buckets)
        self._sum = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count one value, and remember its trace."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
            if trace_id:
                self._exemplars[bucket] = (trace_id, value, self._clock())

    def samples(self) -> list[dict[str, Any]]:
        """Tell the numbers: each bucket counts what the ones before it do."""
        with self._lock:
            counts, exemplars, total = self._counts.copy(), self._exemplars.copy(), self._sum
        name, sums = f"{self._name}_bucket", [*accumulate(counts)]
        found: list[dict[str, Any]] = [
            {"name": name, "labels": labels, "value": seen}
            for labels, seen in zip(self._buckets, sums, strict=True)
        ]
        for told, kept in zip(found, exemplars, strict=True):
            if kept is not None:
                trace_id, value, moment = kept
                told["exemplar"] = {
                    "labels": {"trace_id": trace_id},
                    "value": value,
                    "timestamp": moment,
                }
        found.append({"name": f"{self._name}_count", "labels": self._labels, "value": sums[-1]})
        found.append({"name": f"{self._name}_sum", "labels": self._labels, "value": total})
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

    def __len__(self) -> int:
        """Count the cells."""
        return len(self._cells)

    def _made(self, named: tuple[str, ...]) -> Any:
        metric = _TABLE[named[0]]
        labels = dict(zip(metric.labels, named[1:], strict=True))
        is_histogram = metric.kind == "histogram"
        made = Histogram(metric, labels, self._clock) if is_histogram else Number(metric, labels)
        with self._lock:
            return self._cells.setdefault(named, made)

    def add(self, *named: str, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        cell = self._cells.get(named) or self._made(named)
        cell.add(amount)

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
        samples: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for named, cell in cells:
            samples[named[0]] += cell.samples()
        return [
            {"name": m.family, "type": m.kind, "help": m.help, "samples": samples[m.name]}
            for m in METRICS
            if samples.get(m.name)
        ]

    def describe(self) -> list[CollectedMetric]:
        """Name every metric, so that nobody else registers one of these names."""
        return [CollectedMetric(m.family, m.help, m.kind) for m in METRICS]

    def collect(self) -> Iterator[CollectedMetric]:
        """Tell all that was counted, in prometheus-client's words."""
        yield from Written(self.families()).collect()
