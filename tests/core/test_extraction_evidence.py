"""Is the evidence what the mathematics say?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard.extraction.evidence import (
    CEILING,
    NOTHING,
    THRESHOLD,
    Detectors,
    Step,
    of_signal,
    together,
)

TOLERANCES = np.array([0.05, 0.3, 0.85, 0.005])


def by_hand(events: np.ndarray, windows: list[bool]) -> np.ndarray:
    """Return M of each signal and alternative, row by row: (M + 1) times the likelihood."""
    found = np.zeros((4, 2))
    for signal, tolerated in enumerate(TOLERANCES):
        for at, reach in enumerate((0.5, 0.9)):
            rate, m = tolerated + reach * (1 - tolerated), 0.0
            for event in windows if signal == 3 else events[:, signal]:
                is_more = rate / tolerated if event else (1 - rate) / (1 - tolerated)
                m = (m + 1) * is_more
            found[signal, at] = m
    return found


rows = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(rows, st.lists(st.booleans(), max_size=2))
def test_evidence_is_shiryaev_roberts(events: list[tuple[bool, ...]], windows: list[bool]) -> None:
    """The step of many rows does what the recursion does row by row."""
    detectors = Detectors(TOLERANCES)
    given_events = np.array(events)
    silent = np.zeros((len(events), 3), bool)

    step, most = detectors.of_rows(given_events, silent, windows, detectors.nothing())
    after = step.apply(detectors.nothing())

    expected = np.minimum(by_hand(given_events, windows), np.exp(CEILING))
    assert np.exp(after) == pytest.approx(expected, rel=1e-9)
    assert (most >= after - 1e-9).all()


@settings(deadline=None, max_examples=60)
@given(rows, rows)
def test_steps_compose(first: list[tuple[bool, ...]], second: list[tuple[bool, ...]]) -> None:
    """Two steps joined do what they do one after the other."""
    detectors = Detectors(TOLERANCES)

    def step(events: list[tuple[bool, ...]]) -> Step:
        silent = np.zeros((len(events), 3), bool)
        return detectors.of_rows(np.array(events), silent, [], detectors.nothing())[0]

    one, two = step(first), step(second)
    joined, apart = one.then(two), two.apply(one.apply(detectors.nothing()))

    assert joined.counted == len(first) + len(second)
    assert np.minimum(joined.apply(detectors.nothing()), CEILING) == pytest.approx(apart)


def test_silent_rows_say_nothing() -> None:
    """They leave the evidence as it is."""
    detectors = Detectors(TOLERANCES)
    events, silent = np.ones((5, 3), bool), np.ones((5, 3), bool)

    before = np.full(detectors.shape, 3.0)

    step, most = detectors.of_rows(events, silent, [], before)

    assert step.apply(before) == pytest.approx(before)
    assert most == pytest.approx(before)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Events at the tolerated rate reach c within n rows in n / c of the runs at most."""
    rng = np.random.default_rng(0)
    runs, length, level = 400, 1000, np.log(1e4)
    detectors = Detectors(np.array([0.3, 0.3]))
    reached = 0
    for _ in range(runs):
        events = rng.random((length, 1)) < 0.3
        silent = np.zeros((length, 1), bool)
        _, most = detectors.of_rows(events, silent, [], detectors.nothing())
        reached += together(of_signal(most[:1])) >= level

    assert reached / runs <= length / 1e4 + 0.03


def test_means_of_nothing_are_nothing() -> None:
    """Without evidence the mean is minus infinity, without a warning."""
    assert (of_signal(np.full((3, 2), NOTHING)) == NOTHING).all()
    assert together(np.full(3, NOTHING)) == NOTHING
    assert together(np.array([THRESHOLD, NOTHING])) == pytest.approx(THRESHOLD - np.log(2))
