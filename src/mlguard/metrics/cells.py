"""How is one number kept?

prometheus-client's own classes turn into memory-mapped files, without exemplars, as soon as
anybody sets PROMETHEUS_MULTIPROC_DIR; these stay in memory, and cost half.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

# The boundaries that OpenTelemetry advises for HTTP durations, in seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0)


Told: TypeAlias = dict[str, Any]
"""A metric or a sample of one, ready for JSON, as `mlguard.metrics.Family` says."""


class Number:
    """A count that goes up, or a gauge that goes both ways."""

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

    def samples(self, name: str, labels: dict[str, str]) -> list[Told]:
        """Tell the number."""
        return [{"name": name, "labels": labels, "value": self.value}]


class Reading:
    """A gauge that is read when it is asked for."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        self.read: Callable[[], float | None] = lambda: None

    def forget(self) -> None:
        """Do nothing: it counts nothing."""

    def samples(self, name: str, labels: dict[str, str]) -> list[Told]:
        """Tell the number, where there is something to read."""
        value = self.read()
        return [] if value is None else [{"name": name, "labels": labels, "value": value}]


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

    def samples(self, name: str, labels: dict[str, str]) -> list[Told]:
        """Tell the numbers: each bucket counts what the ones before it do."""
        with self._lock:
            counts, exemplars, total = self._counts.copy(), self._exemplars.copy(), self._sum
        seen, bucket = 0, f"{name}_bucket"
        found: list[Told] = []
        for le, count, kept in zip(self._names, counts, exemplars, strict=True):
            seen += count
            told: Told = {"name": bucket, "labels": {**labels, "le": le}, "value": seen}
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


class Cell(Protocol):
    """What holds the number of one label set."""

    def forget(self) -> None:
        """Begin at zero."""

    def samples(self, name: str, labels: dict[str, str]) -> list[Told]:
        """Tell the numbers of one label set."""


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

    def forget(self) -> None:
        """Begin at zero, in a forked process: what was counted is the parent's."""
        self._lock = Lock()
        for cell in self._cells.values():
            cell.forget()

    def describe(self) -> list[Metric]:
        # prometheus-client keeps a counter's name without the suffix of its samples.
        return [Metric(self._name.removesuffix("_total"), self._text, self._kind)]

    def told(self) -> Told | None:
        """Tell all that it counts, ready for JSON; None where that is nothing."""
        with self._lock:
            cells = list(self._cells.items())
        samples: list[Told] = []
        for values, cell in cells:
            samples += cell.samples(self._name, dict(zip(self._labels, values, strict=True)))
        if not samples:
            return None
        name = self._name.removesuffix("_total")
        return {"name": name, "type": self._kind, "help": self._text, "samples": samples}

    def collect(self) -> Iterator[Metric]:
        told = self.told()
        if told is None:
            return
        (metric,) = self.describe()
        for s in told["samples"]:
            kept = s.get("exemplar")
            exemplar = kept and Exemplar(kept["labels"], kept["value"], kept["timestamp"])
            metric.add_sample(s["name"], s["labels"], s["value"], None, exemplar)
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
