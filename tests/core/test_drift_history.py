"""Is it kept what the windows before said, and only so much?"""

from __future__ import annotations

from pathlib import Path

import pytest

from mlguard.drift.history import History, Past
from mlguard.drift.verdict import FeatureVerdict, Verdict


def verdict(score: float, *, rows: int = 100) -> Verdict:
    feature = FeatureVerdict(
        "a", "numeric", "wasserstein", score, 0.2, score >= 0.2, 0.0, 0.0, 0.0, 0.3, ()
    )
    return Verdict(score >= 0.2, rows, (feature,))


def test_it_outlives_a_process(tmp_path: Path) -> None:
    """The next one goes on with what the one before has written."""
    path = tmp_path / "drift.history"
    History(path).add(verdict(0.1), 1.5)

    again = History(path)
    again.add(verdict(0.4, rows=50), 2.5)

    assert History(path).windows == [
        Past(1.5, 100, {"a": (0.5, False)}),
        Past(2.5, 50, {"a": (2.0, True)}),
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["drift.history"]


def test_it_is_bounded(tmp_path: Path) -> None:
    """The oldest windows leave."""
    history = History(tmp_path / "drift.history", most=3)
    for number in range(5):
        history.add(verdict(0.1), float(number))

    assert [past.when for past in history.windows] == [2, 3, 4]
    assert len((tmp_path / "drift.history").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "junk", ["", "{", "[]", "[1, 2, 3]", '["x", 1, {}]', '[1, 1, {"a": 1}]', "\udcff", "[1e999"]
)
def test_junk_is_passed_over(tmp_path: Path, junk: str) -> None:
    """What somebody else wrote into the file spoils no check."""
    path = tmp_path / "drift.history"
    path.write_bytes(junk.encode("utf-8", "surrogateescape") + b"\n")

    history = History(path)
    history.add(verdict(0.1), 1.0)

    assert [past.when for past in history.windows] == [1.0]
