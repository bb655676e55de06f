"""Which honest clients must not be taken for thieves?

Each kind makes an account: rows in the order in which they are sent, and how many one request has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.extraction_data import Matrix, Table

Rng = np.random.Generator
ROWS = int(os.environ.get("BENCHMARK_ROWS", "10000"))


@dataclass(frozen=True, eq=False)
class Account:
    """What one client sends.

    Attributes:
        values: Rows, in their order.
        request: Rows of one request.
    """

    values: Matrix
    request: int


def _any(traffic: Table, rng: Rng, rows: int = ROWS) -> Matrix:
    """Draw rows, each once as long as there are some."""
    there = len(traffic.values)
    chosen = [rng.permutation(there) for _ in range(-(-rows // there))]
    return traffic.values[np.concatenate(chosen)[:rows]]


def _column(traffic: Table, rng: Rng, *, categorical: bool | None = None) -> int:
    """Choose a feature that varies."""
    fits = [
        at
        for at in range(traffic.values.shape[1])
        if categorical in (None, bool(traffic.categorical[at]))
        and len(np.unique(traffic.values[:, at])) > 1
    ]
    return int(rng.choice(fits or [0]))


def independent(traffic: Table, rng: Rng) -> Account:
    return Account(_any(traffic, rng), 1)


def segment(traffic: Table, rng: Rng) -> Account:
    """One category, or one fifth of a number's range."""
    at = _column(traffic, rng)
    given = traffic.values[:, at]
    value = rng.choice(given[~np.isnan(given)])
    is_in = given == value
    if not traffic.categorical[at] and is_in.mean() < 0.05:
        rank = np.argsort(np.argsort(given)) / len(given)
        start = rng.uniform(0, 0.8)
        is_in = (rank >= start) & (rank < start + 0.2)
    return Account(_any(traffic.take(np.flatnonzero(is_in)), rng), 1)


def tilted(traffic: Table, rng: Rng) -> Account:
    """More of those who have much of two features."""
    weight = np.zeros(len(traffic.values))
    for _ in range(2):
        given = traffic.values[:, _column(traffic, rng)]
        rank = np.argsort(np.argsort(given)) / len(given)
        weight += rng.choice([-2.0, 2.0]) * rank
    chance = np.exp(weight) / np.exp(weight).sum()
    return Account(traffic.values[rng.choice(len(chance), ROWS, p=chance)], 1)


def noisy(traffic: Table, rng: Rng) -> Account:
    """An integration that loses one cell in thirty, and rounds or converts two of the numbers."""
    values = _any(traffic, rng)
    numbers = np.flatnonzero(~traffic.categorical)
    for at in rng.choice(numbers, min(2, len(numbers)), replace=False) if len(numbers) else []:
        if rng.random() < 0.5:
            scale = np.nanstd(values[:, at]) / 5 or 1.0
            values[:, at] = np.round(values[:, at] / scale) * scale
        else:
            values[:, at] *= 1 + rng.normal(0, 0.01, len(values))
    values[rng.random(values.shape) < 1 / 30] = np.nan
    return Account(values, 1)


def imputed(traffic: Table, rng: Rng) -> Account:
    """A client that does not know one to three fields, and sends what is usual."""
    values = _any(traffic, rng)
    for at in rng.choice(values.shape[1], min(int(rng.integers(1, 4)), values.shape[1] - 1)):
        there = traffic.values[:, at][~np.isnan(traffic.values[:, at])]
        if traffic.categorical[at]:
            found, counts = np.unique(there, return_counts=True)
            values[:, at] = found[counts.argmax()]
        else:
            values[:, at] = np.median(there)
    return Account(values, 1)


def retries(traffic: Table, rng: Rng) -> Account:
    """Every fifth row comes again, up to three times."""
    values = _any(traffic, rng)
    times = np.where(rng.random(len(values)) < 0.2, rng.integers(2, 5, len(values)), 1)
    return Account(np.repeat(values, times, axis=0)[:ROWS], 1)


def batches(traffic: Table, rng: Rng) -> Account:
    return Account(_any(traffic, rng), 500)


def load_test(traffic: Table, rng: Rng) -> Account:
    """A few rows, again and again."""
    few = int(rng.choice([1, 10, 100, 1000]))
    return Account(np.tile(_any(traffic, rng, few), (-(-ROWS // few), 1))[:ROWS], 1)


def sorted_file(traffic: Table, rng: Rng) -> Account:
    """A file sorted by one feature, and by another where that is equal, row by row."""
    values = _any(traffic, rng)
    first, second = _column(traffic, rng), _column(traffic, rng)
    order = np.lexsort((values[:, second], values[:, first]))
    return Account(values[order[:: rng.choice([-1, 1])]], 1)


def sorted_batches(traffic: Table, rng: Rng) -> Account:
    return Account(sorted_file(traffic, rng).values, 500)


def in_order(traffic: Table, rng: Rng) -> Account:
    """Rows as they came."""
    start = int(rng.integers(0, max(1, len(traffic.values) - ROWS)))
    return Account(traffic.values[start : start + ROWS], int(rng.choice([1, 50])))


def date_grid(traffic: Table, rng: Rng) -> Account:
    """Some rows, each asked for at every date: a forecast."""
    rows = []
    for base in _any(traffic, rng, max(1, ROWS // 250)):
        asked = np.tile(base, (250, 1))
        asked[:, 0] = np.arange(250) // 28 % 12 + 1
        asked[:, 1] = np.arange(250) % 28 + 1
        asked[:, 2] = np.arange(250) % 7
        rows.append(asked)
    return Account(np.concatenate(rows), int(rng.choice([1, 250])))


def drifted(traffic: Table, rng: Rng) -> Account:
    """One number has moved by half a standard deviation, for all rows."""
    values = _any(traffic, rng)
    at = _column(traffic, rng, categorical=False)
    moved = values[:, at] + rng.choice([-1, 1]) * 0.5 * np.nanstd(values[:, at])
    is_whole = np.all(np.mod(traffic.values[:200, at], 1) == 0)
    values[:, at] = np.round(moved) if is_whole else moved
    return Account(values, 1)


def what_if(traffic: Table, rng: Rng) -> Account:
    """An analyst who changes one or two fields of real rows, to values that are usual there."""
    rows = []
    for base in _any(traffic, rng, max(1, ROWS // 33)):
        asked = np.tile(base, (12, 1))
        for row in asked[1:]:
            for at in rng.choice(len(base), min(2, len(base)), replace=False)[: rng.integers(1, 3)]:
                row[at] = traffic.values[rng.integers(len(traffic.values)), at]
        rows.append(asked)
    return Account(np.concatenate(rows), 1)


Kind = Callable[[Table, Rng], Account]
ORDINARY: Mapping[str, Kind] = {
    "independent": independent,
    "segment": segment,
    "tilted": tilted,
    "noisy": noisy,
    "imputed": imputed,
    "retries": retries,
    "batches": batches,
    "load test": load_test,
    "sorted file": sorted_file,
    "sorted batches": sorted_batches,
}
STREAMS: Mapping[str, Kind] = {"in order": in_order}
DATES: Mapping[str, Kind] = {"date grid": date_grid}
UNUSUAL: Mapping[str, Kind] = {"drifted": drifted, "what-if": what_if}


def kinds(table: Table) -> dict[str, Kind]:
    """Return the kinds that a population has."""
    found = {**ORDINARY, **UNUSUAL}
    if table.is_stream:
        found |= STREAMS
    if table.dates:
        found |= DATES
    return found
