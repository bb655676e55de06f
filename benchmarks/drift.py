"""Which drift alarms can one believe, how soon do they come, and what do they cost?

Independent rows: ten features, a reference of 10 000 rows, windows of 1000; and real rows in the
order in which they came, in windows as the reference proposes. mlguard's alarm is an episode, a
feature that drifts in two windows in a row; each rival's is a window after one without an alarm.
Real rows are shifted, too, by what the reference says that such a window shows.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import drift_rivals as rivals
from benchmarks.drift_streams import CHANGES, Stream, changed, draw, real
from benchmarks.report import Found, Verdict, table
from benchmarks.turns import say
from mlguard.drift import Reference, check
from mlguard.drift.episodes import Episodes
from mlguard.drift.profile import comparable

QUIET, FEW_QUIET = 1000, 40  # windows, of mlguard and of rivals
STREAMS, FEW_STREAMS = 100, 20  # streams for each change
ROWS = 1000
SEEN = 40  # shifted windows of a real feature, at most
OURS = "mlguard"
CHECK_GOAL = 0.1  # CPU seconds, of 16 features and 1000 rows


@dataclass(frozen=True)
class Alarms:
    """What somebody said of windows.

    Attributes:
        windows: How many were judged.
        drifted: In how many any column drifts.
        episodes: How many alarms those are.
        seconds: Of the processor, a window.
    """

    windows: int
    drifted: int
    episodes: int
    seconds: float = math.nan

    @classmethod
    def of(
        cls, found: Sequence[Iterable[str]], needed: int = 1, seconds: float = math.nan
    ) -> Alarms:
        """Count alarms: features that drift in so many windows in a row."""
        episodes = Episodes(needed, needed)
        names = [list(each) for each in found]
        lasting = [bool(episodes.add(each if needed > 1 else each and ["any"])) for each in names]
        begun = sum(
            now and not before for before, now in zip([False, *lasting], lasting, strict=False)
        )
        return cls(len(names), sum(map(bool, names)), begun, seconds)

    def row(self, name: str) -> tuple[str, ...]:
        """Write them down for a table."""
        each = f"{self.drifted / self.windows:.1%}"
        per = f"{1000 * self.episodes / self.windows:.1f}"
        cost = "-" if math.isnan(self.seconds) else f"{1000 * self.seconds:.0f}"
        return (name, str(self.windows), each, str(self.episodes), per, cost)


HEADS = ("", "windows", "drifted", "alarms", "per 1000", "ms CPU")


def judged(judge: rivals.Judge, windows: Iterable[pd.DataFrame], needed: int = 1) -> Alarms:
    """Let somebody judge windows."""
    found, took = [], 0.0
    for window in windows:
        began = time.process_time()
        found.append(list(judge(window)))
        took += time.process_time() - began
    return Alarms.of(found, needed, took / max(len(found), 1))


def independent() -> dict[str, Any]:
    """Ask everybody about independent rows."""
    known = draw(10_000, 0)
    reference = Reference.build(known)
    others = {
        "evidently, any column": rivals.evidently(known),
        "evidently, half of the columns": rivals.half_of_columns(known),
        "KS and chi-square, Bonferroni": rivals.kolmogorov_smirnov(known),
    }
    check(reference, draw(ROWS, 1))  # what is made once is not a window's
    quiet = {
        OURS: judged(rivals.mlguard(reference), (draw(ROWS, 2, i) for i in range(QUIET)), needed=2)
    }
    few = [draw(ROWS, 2, i) for i in range(FEW_QUIET)]
    quiet |= {name: judged(judge, few) for name, judge in others.items()}
    if (found := rivals.nannyml(known, few, ROWS)) is not None:
        quiet["NannyML, any column"] = Alarms.of(found)
    print(table("Independent rows without drift", HEADS, (a.row(n) for n, a in quiet.items())))
    seen = {OURS: {c: _within_two(rivals.mlguard(reference), c, STREAMS) for c in CHANGES}}
    for name, judge in others.items():
        seen[name] = {change: _at_once(judge, change, FEW_STREAMS) for change in CHANGES}
    rows = [(name, *(f"{share:.0%}" for share in shares.values())) for name, shares in seen.items()]
    title = "Drift in one of ten, seen: by mlguard as an episode within two windows, else at once"
    print(table(title, ("", *CHANGES.values()), rows))
    return {"quiet": quiet, "seen": seen[OURS]}


def _within_two(judge: rivals.Judge, change: str, streams: int) -> float:
    found = 0
    for number in range(streams):
        episodes = Episodes()
        for turn in range(2):
            window = changed(draw(ROWS, 3, number, turn), change, 4, number, turn)
            lasting = episodes.add(judge(window))
        found += change in lasting
    return found / streams


def _at_once(judge: rivals.Judge, change: str, streams: int) -> float:
    windows = (changed(draw(ROWS, 3, n, 0), change, 4, n, 0) for n in range(streams))
    return sum(change in set(judge(window)) for window in windows) / streams


def in_order(stream: Stream) -> dict[str, Any]:
    """Ask everybody about real rows."""
    began = time.process_time()
    reference = Reference.build(stream.reference, **stream.options)
    took = time.process_time() - began
    size = reference.calibration.window
    windows = list(stream.windows(size))
    check(reference, windows[0])
    found = {OURS: judged(rivals.mlguard(reference), windows, needed=2)}
    known = stream.reference.drop(columns=[reference.seasons.time or ""], errors="ignore")
    found["evidently, any column"] = judged(rivals.evidently(known), windows)
    found["evidently, half of the columns"] = judged(rivals.half_of_columns(known), windows)
    found["KS and chi-square, Bonferroni"] = judged(rivals.kolmogorov_smirnov(known), windows)
    aside = [window[known.columns] for window in windows]
    if (alerts := rivals.nannyml(known, aside, size)) is not None:
        found["NannyML, any column"] = Alarms.of(alerts)
    clock = reference.seasons.clock or "no clock"
    about = f"windows of {size}, {clock}, built in {took:.0f} s CPU"
    print(table(f"{stream.name}: {about}", HEADS, (a.row(n) for n, a in found.items())))
    shown = detected(reference, windows) if stream.is_quiet else {}
    if shown:
        said = ", ".join(
            f"{name} {reference.calibration.detectable(name, size):.2f}" for name in shown
        )
        least = min(shown.values())
        mean = float(np.mean(list(shown.values())))
        print(
            f"smallest detectable: {said}\nof those shifts seen: {mean:.0%}, at least {least:.0%}\n"
        )
    return {"alarms": found, "seen": shown, "window": size}


def detected(reference: Reference, windows: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Return of each feature how many windows show the smallest shift that they can."""
    size = reference.calibration.window
    shown: dict[str, float] = {}
    for feature in reference.profile:
        smallest = reference.calibration.detectable(feature.name, size)
        if math.isinf(smallest) or feature.levels:
            continue
        seen = []
        for number, window in enumerate(windows[:SEEN]):
            rng = np.random.default_rng(number)
            values = window[feature.name]
            if feature.is_continuous:
                deviation = np.nanstd(comparable(feature, reference.sample[feature.name]))
                by = smallest * deviation * (feature.high - feature.low)
                values = values + rng.choice([-1, 1]) * by
            else:
                most = feature.counted / 2
                names = [name for name, rows in feature.categories if rows <= most][:5]
                turned = rng.random(len(values)) < smallest
                values = values.astype(object).mask(turned, rng.choice(names))
            # A feature's verdict does not depend on the others: without them it is sooner there.
            aside = window.columns.intersection([reference.seasons.time])
            alone = window[aside].assign(**{feature.name: values})
            seen.append(feature.name in check(reference, alone).drifted)
        shown[feature.name] = sum(seen) / len(seen)
    return shown


def cost() -> float:
    """Return the CPU seconds of a check of 16 features and 1000 rows, the median of 20."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{n}": rng.normal(size=10_000) for n in range(12)}
    columns |= {f"c{n}": rng.choice(list("abcdef"), 10_000) for n in range(4)}
    reference, window = Reference.build(columns), pd.DataFrame(columns)[:ROWS]
    rows = window.to_numpy().tolist()
    took = []
    for _ in range(21):
        began = time.process_time()
        check(reference, rows)
        took.append(time.process_time() - began)
    return float(np.median(took[1:]))


def main() -> Found:
    """Compare, and conclude."""
    warnings.simplefilter("ignore")  # of rivals' packages
    say("drift: independent rows")
    found: dict[str, Any] = {"independent": independent()}
    verdicts = [Verdict("CPU seconds of a check, 16 features, 1000 rows", cost(), CHECK_GOAL)]
    quiet = found["independent"]["quiet"][OURS]
    verdicts.append(Verdict("false episodes in 1000 independent windows", quiet.episodes, 1))
    for change, share in found["independent"]["seen"].items():
        verdicts.append(
            Verdict(f"{CHANGES[change]} within two windows", share, 0.95, at_least=True)
        )
    for stream in real():
        say(f"drift: {stream.name}")
        found[stream.name] = in_order(stream)
        alarms = found[stream.name]["alarms"][OURS]
        if not stream.is_quiet:
            continue
        rate = alarms.episodes / alarms.windows
        verdicts.append(Verdict(f"false episodes a window, {stream.name}", rate, 0.02))
        if shown := found[stream.name]["seen"]:
            share = float(np.mean(list(shown.values())))
            what = f"detectable shifts seen, {stream.name}"
            verdicts.append(Verdict(what, share, 0.9, at_least=True))
    return Found(_plain(found), tuple(verdicts))


def _plain(value: Any) -> Any:
    if isinstance(value, Alarms):
        return vars(value) | {"seconds": None if math.isnan(value.seconds) else value.seconds}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
