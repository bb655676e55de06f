"""Who is taken for a thief, how soon, and what does he have by then?

Populations and families of attacks that were looked at while the detector was made are reported
apart from those that were not; benign kinds are never pooled. Rows are observed as an analyst gets
them; those that a client sends one by one are never shuffled.

BENCHMARK_ACCOUNTS, BENCHMARK_ROWS and BENCHMARK_VICTIMS say how many of each, and so how long it
takes: docs/extraction.md tells of 8, 2000 and 1.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import extraction_clients as clients
from benchmarks import extraction_thieves as thieves
from benchmarks.extraction_clients import Account
from benchmarks.extraction_data import HELD_OUT, TUNED, Matrix, Table, table
from benchmarks.extraction_rivals import Prada
from benchmarks.report import Found, Verdict
from benchmarks.report import table as written
from benchmarks.turns import say
from mlguard.extraction import ExtractionMonitor

ACCOUNTS = int(os.environ.get("BENCHMARK_ACCOUNTS", "7"))  # of a kind in a population
VICTIMS_EACH = int(os.environ.get("BENCHMARK_VICTIMS", "2"))  # of each population and family
PRADA_ACCOUNTS, PRADA_ROWS = 1, 1000
ASKED = 600  # rows of a thief
PART = 64  # rows of single requests that an analyst takes at once
SEEDED_GOAL, FREE_GOAL = 0.70, 0.98
ORDINARY_GOAL, KIND_GOAL, PROBING_GOAL = 0.005, 0.01, 0.03
BALANCED = 0.75  # the share of the most frequent answer, beyond which 90 % agreement says little
AGREEMENT = 0.9
ORDINARY = (*clients.ORDINARY, *clients.STREAMS, *clients.DATES)


class Unshuffled:
    """Takes rows in the order in which they were sent."""

    def permutation(self, rows: int) -> NDArray[np.intp]:
        return np.arange(rows)


@dataclass(frozen=True, eq=False)
class Watch:
    """A population with its monitor."""

    known: Table
    traffic: Table
    monitor: ExtractionMonitor

    @classmethod
    def of(cls, name: str) -> Watch:
        known, traffic = table(name).split()
        monitor = ExtractionMonitor(known.frame(known.values), key=b"benchmark")
        return cls(known, traffic, monitor)

    def flagged(
        self, account: Account, labels: Any = None, *, part: int = PART, first: bool = False
    ) -> dict[str, int]:
        """Return after how many rows each verdict was first given.

        Args:
            account: The rows.
            labels: Their answers.
            part: Rows that are taken at once, where requests have one.
            first: Whether to stop at the first verdict.
        """
        monitor, found = self.monitor, dict[str, int]()
        size, dice = account.request, monitor._rng
        rows = self.known.frame(account.values).to_numpy(dtype=object).tolist()
        if size == 1:
            size, monitor._rng = part, Unshuffled()  # type: ignore[assignment]
        for at in range(0, len(rows), size):
            answers = None if labels is None else labels[at : at + size]
            said = monitor.observe("somebody", rows[at : at + size], answers)
            if said.is_suspicious:
                found.setdefault(said.kind, min(at + size, len(rows)))
                if first:
                    break
        monitor._rng = dice
        monitor.forget("somebody")
        return found


def benign(names: Sequence[str]) -> dict[str, list[tuple[int, bool, bool, bool]]]:
    """Return for each kind of honest client: rows, and whether flagged, probing, by PRADA."""
    found: dict[str, list[tuple[int, bool, bool, bool]]] = defaultdict(list)
    for place, name in enumerate(names):
        watch = Watch.of(name)
        for kind, make in clients.kinds(watch.known).items():
            for each in range(ACCOUNTS):
                account = make(watch.traffic, np.random.default_rng([place, each, 11]))
                flags = watch.flagged(account)
                rival = each < PRADA_ACCOUNTS and prada(watch, account.values)
                found[kind].append((len(account.values), bool(flags), "probing" in flags, rival))
        say(f"  honest clients: {name}")
    return found


def prada(watch: Watch, values: Matrix, labels: NDArray[np.int64] | None = None) -> bool:
    """Say whether PRADA reports an attack; classes are those of the nearest reference row."""
    numbers = np.nan_to_num(watch.known.values)
    center, spread = numbers.mean(axis=0), numbers.std(axis=0) + 1e-9
    rows = (np.nan_to_num(values[:PRADA_ROWS]) - center) / spread
    if labels is None:
        labels = victim(watch, "tree", 0).answer(values[:PRADA_ROWS])
    rival = Prada()
    said = [rival.observe(row, int(each)) for row, each in zip(rows, labels, strict=False)]
    return any(said)


@dataclass(frozen=True, eq=False)
class Victim:
    """A model, and the natural rows on which a copy is compared with it."""

    model: Any
    natural: Matrix

    def answer(self, values: Matrix) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.model.predict(np.nan_to_num(values))
        return found

    def copied(self, asked: Matrix, name: str, seed: int) -> float:
        """Return the agreement that a thief reaches with what he asked: the better of two."""
        labels = self.answer(asked)
        if len(np.unique(labels)) < 2:
            return float((self.answer(self.natural) == labels[0]).mean())
        truth, best = self.answer(self.natural), 0.0
        for kind in {name, "forest"}:
            copy = pipeline(kind, seed).fit(np.nan_to_num(asked), labels)
            best = max(best, float((copy.predict(np.nan_to_num(self.natural)) == truth).mean()))
        return best


def pipeline(name: str, seed: int) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), thieves.models(seed)[name])


def victim(watch: Watch, name: str, seed: int) -> Victim:
    model = pipeline(name, seed).fit(np.nan_to_num(watch.known.values), watch.known.labels)
    return Victim(model, watch.traffic.values[:2000])


@dataclass(frozen=True)
class Theft:
    """How one thief fared.

    Attributes:
        rows: After which there was a verdict; None where there was none.
        then: His agreement with the victim at that row.
        end: And after all that he asked.
        is_telling: Whether 90 % agreement says something of this victim.
        prada: Whether PRADA reported him.
    """

    rows: int | None
    then: float
    end: float
    is_telling: bool
    prada: bool


VICTIMS = ("tree", "boosting", "MLP", "logistic regression")


def stolen(names: Sequence[str]) -> dict[str, list[Theft]]:
    """Let every family of thieves steal from victims of every population."""
    found: dict[str, list[Theft]] = defaultdict(list)
    for place, name in enumerate(names):
        watch = Watch.of(name)
        made: dict[str, Victim] = {}
        families = {**thieves.DATA_FREE, **thieves.SEEDED, "natural rows": thieves.natural}
        for turn, (family, ask) in enumerate(families.items()):
            for each in range(VICTIMS_EACH):
                kind = VICTIMS[(place + turn + 2 * each + 1) % len(VICTIMS)]
                if kind not in made:
                    made[kind] = victim(watch, kind, place)
                found[family].append(_theft(watch, made[kind], kind, ask, [place, turn, each]))
        say(f"  thieves: {name}")
    return found


def _theft(
    watch: Watch, owner: Victim, kind: str, ask: thieves.Thief, seed: Sequence[int]
) -> Theft:
    rng = np.random.default_rng(seed)
    rows = watch.traffic.values
    seeds = rows[2000:] if len(rows) > 3000 else rows
    seeds = seeds[rng.choice(len(seeds), thieves.SEEDS)]
    asked = ask(thieves.Aim(watch.known, seeds, owner.answer, rng, ASKED))
    labels = owner.answer(asked)
    flags = watch.flagged(Account(asked, 1), labels, part=4, first=True)
    first = min(flags.values(), default=None)
    then = owner.copied(asked[:first], kind, 1) if first is not None else float("nan")
    usual = np.unique(owner.answer(owner.natural), return_counts=True)[1].max()
    return Theft(
        first,
        then,
        owner.copied(asked, kind, 1),
        bool(usual / len(owner.natural) < BALANCED and kind != "logistic regression"),
        prada(watch, asked, labels),
    )


def told(title: str, found: Mapping[str, list[Theft]]) -> str:
    """Write what became of thieves."""
    heads = ("family", "thieves", "flagged", "median rows", "p90", "then", "at the end", "PRADA")
    rows = []
    for family, thefts in found.items():
        seen = [each for each in thefts if each.rows is not None]
        after = np.array([each.rows if each.rows is not None else np.inf for each in thefts])
        rows.append(
            (
                family + (" (held out)" if family in thieves.HELD_OUT else ""),
                str(len(thefts)),
                f"{len(seen) / len(thefts):.0%}",
                *(f"{np.quantile(after, q, method='lower'):.0f}" for q in (0.5, 0.9)),
                f"{np.median([each.then for each in seen]):.2f}" if seen else "-",
                f"{np.median([each.end for each in thefts]):.2f}",
                f"{np.mean([each.prada for each in thefts]):.0%}",
            )
        )
    return written(title, heads, rows)


def kinds_told(title: str, found: Mapping[str, list[tuple[int, bool, bool, bool]]]) -> str:
    heads = ("kind", "accounts", "flagged", "probing", "per 10 000 rows", "PRADA")
    rows = []
    for kind, accounts in found.items():
        size, flagged, probing, _ = np.array(accounts, float).T
        rivals = [each[3] for each in accounts[::ACCOUNTS]]
        rows.append(
            (
                kind,
                str(len(accounts)),
                f"{flagged.mean():.2%}",
                f"{probing.mean():.2%}",
                f"{10_000 * flagged.sum() / size.sum():.2%}",
                f"{np.mean(rivals):.0%}",
            )
        )
    return written(title, heads, rows)


def verdicts(
    honest: Mapping[str, list[tuple[int, bool, bool, bool]]],
    found: Mapping[str, list[Theft]],
    what: str,
) -> list[Verdict]:
    """Compare with what was to be reached."""
    free = [each for name in thieves.DATA_FREE for each in found[name] if each.is_telling]
    in_time = [each.rows is not None and each.then < AGREEMENT for each in free]
    seeded = [each for name in thieves.SEEDED for each in found[name]]
    soon = [each.rows is not None and each.rows <= 500 for each in seeded]
    ordinary = [account for kind in ORDINARY for account in honest.get(kind, [])]
    rows, flagged = sum(each[0] for each in ordinary), sum(each[1] for each in ordinary)
    said = [
        Verdict(f"{what}: data-free flagged in time", float(np.mean(in_time)), FREE_GOAL, True),
        Verdict(f"{what}: seeded within 500 rows", float(np.mean(soon)), SEEDED_GOAL, True),
        Verdict(f"{what}: honest, per 10 000 rows", 10_000 * flagged / rows, ORDINARY_GOAL),
    ]
    for kind, accounts in honest.items():
        if kind in ORDINARY:
            share = float(np.mean([each[1] for each in accounts]))
            said.append(Verdict(f"{what}: {kind}", share, KIND_GOAL))
        else:
            share = float(np.mean([each[2] for each in accounts]))
            said.append(Verdict(f"{what}: {kind}, probing", share, PROBING_GOAL))
    return said


def cost() -> str:
    """Return what a row costs, in microseconds of the processor, and the state of a principal."""
    rows = []
    for name in ("magic", "flights", "digits"):
        watch = Watch.of(name)
        values = watch.traffic.values[:2000]
        values = values + np.where(watch.known.categorical, 0.0, 1e-7)
        given = watch.known.frame(values).to_numpy(dtype=object).tolist()
        began = time.process_time()
        for at, row in enumerate(given[:500]):
            watch.monitor.observe(f"one {at % 3}", [row])
        one = (time.process_time() - began) / 500
        began = time.process_time()
        for at in range(0, len(given), 250):
            watch.monitor.observe("many", given[at : at + 250])
        many = (time.process_time() - began) / len(given)
        size = watch.monitor.state("many")["bytes"]
        width = values.shape[1]
        rows.append((name, str(width), f"{1e6 * one:.0f}", f"{1e6 * many:.1f}", str(size)))
    heads = ("population", "features", "us alone", "us in batches", "bytes")
    return written("What a row costs", heads, rows)


def main(what: Sequence[str] = ("tuned", "held out")) -> Found:
    """Run the study."""
    warnings.filterwarnings("ignore")
    said: list[Verdict] = []
    for part, names in (("tuned", TUNED), ("held out", HELD_OUT)):
        if part not in what:
            continue
        honest, found = benign(names), stolen(names)
        print(kinds_told(f"Honest clients, {part}", honest))
        print(told(f"Thieves, {part}", found))
        said += verdicts(honest, found, part)
    print(cost())
    return Found({}, tuple(said))
