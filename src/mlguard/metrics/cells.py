"""How is one number kept?

prometheus-client's own classes turn into memory-mapped files, without exemplars, as soon as
anybody sets PROMETHEUS_MULTIPROC_DIR; these stay in memory, and cost half.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Generic, Protocol, TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

# The boundaries that OpenTelemetry advises for HTTP durations, in seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0)


class Number:
    """A count that goes up, or a gauge that goes both ways."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = Lock()
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Add `amount`, which may be negative for a gauge."""
        with self._lock:
            self.value += amount

    def set(self, value: float) -> None:
        """Replace the number."""
        self.value = float(value)

    def write(self, metric: Metric, name: str, labels: dict[str, str]) -> None:
        """Add the sample to `metric`."""
        metric.add_sample(name, labels, self.value)


class Reading:
    """A gauge that is read when it is asked for."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        self.read: Callable[[], float | None] = lambda: None

    def write(self, metric: Metric, name: str, labels: dict[str, str]) -> None:
        """Add the sample to `metric`, where there is something to read."""
        value = self.read()
        if value is not None:
            metric.add_sample(name, labels, value)


class Histogram:
    """Values counted by bucket, the last trace of each bucket beside it."""

    __slots__ = ("_bounds", "_clock", "_counts", "_exemplars", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float], clock: Callable[[], float]) -> None:
        self._bounds = bounds
        self._clock = clock
        self._lock = Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count one value, and remember its trace."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
            if trace_id:
                self._exemplars[bucket] = (trace_id, value, self._clock())

    def write(self, metric: Metric, name: str, labels: dict[str, str]) -> None:
        """Add the samples to `metric`: each bucket counts what the ones before it do."""
        with self._lock:
            counts, exemplars, total = self._counts.copy(), self._exemplars.copy(), self._sum
        seen = 0
        bounds = (*map(str, self._bounds), "+Inf")
        for le, count, kept in zip(bounds, counts, exemplars, strict=True):
            seen += count
            exemplar = kept and Exemplar({"trace_id": kept[0]}, kept[1], kept[2])
            metric.add_sample(f"{name}_bucket", {**labels, "le": le}, seen, None, exemplar)
        metric.add_sample(f"{name}_count", labels, seen)
        metric.add_sample(f"{name}_sum", labels, total)


class Cell(Protocol):
    """What holds the number of one label set."""

    def write(self, metric: Metric, name: str, labels: dict[str, str]) -> None:
        """Add the samples to `metric`."""


C = TypeVar("C", bound=Cell)


class _Labelled(Collector, Generic[C]):
    """One metric: a cell for each label set, made once."""

    def __init__(
        self, kind: str, make: Callable[[], C], name: str, text: str, labels: tuple[str, ...]
    ) -> None:
        self._kind = kind
        self._make = make
        self._name = name
        self._text = text
        self._labels = labels
        self._lock = Lock()
        self._cells: dict[tuple[str, ...], C] = {}

    def cell(self, *values: str) -> C:
        """Return the cell of these label values, in the order of the metric's labels."""
        with self._lock:
            if values not in self._cells:
                self._cells[values] = self._make()
            return self._cells[values]

    def describe(self) -> list[Metric]:
        # prometheus-client keeps a counter's name without the suffix of its samples.
        return [Metric(self._name.removesuffix("_total"), self._text, self._kind)]

    def collect(self) -> Iterator[Metric]:
        (metric,) = self.describe()
        with self._lock:
            cells = list(self._cells.items())
        for values, cell in cells:
            cell.write(metric, self._name, dict(zip(self._labels, values, strict=True)))
        if metric.samples:
            yield metric


class Counters(_Labelled[Number]):
    """Counts that only go up; the name ends in `_total`."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__("counter", Number, name, text, labels)


class Gauges(_Labelled[Number]):
    """Numbers that go up and down."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__("gauge", Number, name, text, labels)


class Readings(_Labelled[Reading]):
    """Gauges that are read when they are asked for."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__("gauge", Reading, name, text, labels)


class Histograms(_Labelled[Histogram]):
    """Distributions: of seconds, unless other bounds are given."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        bounds: Sequence[float] = BOUNDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("histogram", lambda: Histogram(bounds, clock), name, text, labels)
