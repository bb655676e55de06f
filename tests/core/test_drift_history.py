"""Is it kept what the windows before said, and only so much?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mlguard.cli import main
from mlguard.drift.history import History, Past
from mlguard.drift.verdict import FeatureVerdict, Verdict
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.sampled_rows import SampledRows
from mlguard.reference import Reference


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


def test_all_can_be_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that wait in the file, the report and what it remembers; twice is no mistake."""
    monkeypatch.chdir(tmp_path)
    for name in ("drift.html", "drift.history"):
        Path(name).write_text("x")
    Reference.build({"a": [1.0, 2.0] * 50}).save("reference.parquet")
    Path("mlguard.toml").write_text(
        '[service]\nname = "forgotten"\n[[models]]\nname = "iris"\n'
        'reference = "reference.parquet"\n[drift]\nreport = "drift.html"\n'
    )
    folder = Folder.of("forgotten")
    folder.prepare()
    with closing(Database(folder.database, wait=5.0)) as database:
        SampledRows(database, "digest").put(['["iris","1",[1.0],null]'] * 3)

    assert main(["drift", "forget"]) == 0
    assert capsys.readouterr().out == "3 rows and 2 files are gone\n"
    assert main(["drift", "forget"]) == 0
    assert capsys.readouterr().out == "0 rows and 0 files are gone\n"
    assert not list(tmp_path.glob("drift.*"))
