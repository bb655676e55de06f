"""Who is taken for a thief, and who is not?"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from mlguard.drift import Reference
from mlguard.errors import InvalidReference
from mlguard.extraction import ExtractionMonitor, ExtractionVerdict, Verdict

KEY = b"of the tests"
REGIONS = ("north", "south", "east", "west")


def people(rows: int, seed: int) -> pd.DataFrame:
    """Draw rows whose features depend on each other: numbers, counts, a flag, categories."""
    rng = np.random.default_rng(seed)
    wealth, age = rng.normal(size=rows), rng.normal(size=rows)
    region = (wealth + rng.normal(0, 0.5, rows) > 0).astype(int) + 2 * (age > 0.5)
    return pd.DataFrame(
        {
            "income": np.exp(10 + 0.5 * wealth + 0.1 * rng.normal(size=rows)),
            "spending": np.exp(9 + 0.5 * wealth + 0.2 * rng.normal(size=rows)),
            "age": np.round(45 + 12 * age),
            "tenure": np.round(np.abs(6 * age + 12 + 2 * rng.normal(size=rows))),
            "debt": wealth - age + 0.3 * rng.normal(size=rows),
            "ratio": wealth + 0.2 * rng.normal(size=rows),
            "visits": rng.poisson(np.exp(1 + 0.3 * age)).astype(float),
            "active": age + 0.3 * rng.normal(size=rows) > 0,
            "month": rng.integers(1, 13, rows).astype(float),
            "day": rng.integers(1, 29, rows).astype(float),
            "region": np.array(REGIONS)[region],
            "plan": np.where(wealth + 0.3 * rng.normal(size=rows) > 0.3, "gold", "basic"),
        }
    )


REFERENCE = people(4000, 0)
NATURAL = people(12_000, 1)


def apart(rows: int, seed: int = 2) -> pd.DataFrame:
    """Draw each feature by itself, as a thief without data does."""
    rng = np.random.default_rng(seed)
    drawn = {n: REFERENCE[n].to_numpy()[rng.integers(4000, size=rows)] for n in REFERENCE}
    return pd.DataFrame(drawn)


@pytest.fixture(scope="module")
def built() -> ExtractionMonitor:
    return ExtractionMonitor(REFERENCE, key=KEY)


@pytest.fixture
def monitor(built: ExtractionMonitor) -> ExtractionMonitor:
    """Return a monitor that has seen nobody."""
    for name in [*built.scores()["principals"]]:
        built.forget(name)
    return built


def one_by_one(
    monitor: ExtractionMonitor, frame: pd.DataFrame, answers: Any = None
) -> tuple[int, ExtractionVerdict]:
    """Send rows one by one; return how many there were until a verdict, and the last."""
    verdict = monitor.verdict("somebody")
    for at, row in enumerate(frame.to_numpy(dtype=object).tolist()):
        given = None if answers is None else [answers[at]]
        verdict = monitor.observe("somebody", [row], given)
        if verdict.is_suspicious:
            return at + 1, verdict
    return len(frame), verdict


def test_a_thief_without_data_is_seen(monitor: ExtractionMonitor) -> None:
    """Whoever draws each feature by itself is flagged within 100 rows."""
    rows, verdict = one_by_one(monitor, apart(500))

    assert (verdict.is_suspicious, verdict.score) == (True, 1.0)
    assert rows <= 100
    assert any(signal.name.startswith("independent") for signal in verdict.signals)


def test_a_uniform_thief_is_seen(monitor: ExtractionMonitor) -> None:
    """Whoever draws from the ranges is flagged within 30 rows."""
    rng = np.random.default_rng(3)
    frame = apart(100)
    for name in ("income", "spending", "age", "tenure", "debt", "ratio", "visits"):
        given = REFERENCE[name]
        frame[name] = rng.uniform(given.min(), given.max(), len(frame))

    rows, verdict = one_by_one(monitor, frame)

    assert verdict.is_suspicious
    assert rows <= 30


def _tilted(frame: pd.DataFrame) -> pd.DataFrame:
    weights = np.exp(frame["ratio"].clip(-2, 2))
    return frame.sample(3000, replace=True, weights=weights, random_state=0)


def _imputed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.head(3000).assign(income=REFERENCE["income"].median(), region="north")


def _lossy(frame: pd.DataFrame) -> pd.DataFrame:
    some = frame.head(3000).astype(object)
    is_lost = np.random.default_rng(4).random(some.shape) < 0.05
    return some.where(~is_lost, None)


def _dates(frame: pd.DataFrame) -> pd.DataFrame:
    each = frame.head(60)
    walked = each.loc[each.index.repeat(40)].copy()
    walked["month"] = np.tile(np.arange(40.0) % 12 + 1, 60)
    walked["day"] = np.tile(np.arange(40.0) % 28 + 1, 60)
    return walked


HONEST = {
    "independent rows": lambda frame: frame.head(6000),
    "one segment": lambda frame: frame[frame["region"] == "west"],
    "a tilted population": _tilted,
    "imputed fields": _imputed,
    "lost cells": _lossy,
    "a sorted file": lambda frame: frame.head(6000).sort_values(["income", "age"]),
    "sorted by a category": lambda frame: frame.head(6000).sort_values(["region", "debt"]),
    "a walk of dates": _dates,
    "retries": lambda frame: frame.loc[frame.index[:1500].repeat(3)],
    "a load test": lambda frame: frame.loc[np.tile(frame.index[:50], 60)],
}


@pytest.mark.parametrize("request_rows", [1, 500])
@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_honest_clients_are_not_flagged(
    monitor: ExtractionMonitor, make: Any, request_rows: int
) -> None:
    """There is no verdict on clients that send the population, in whatever order and part."""
    rows = make(NATURAL).to_numpy(dtype=object).tolist()
    if request_rows == 1:
        rows = rows[:700]

    for at in range(0, len(rows), request_rows):
        verdict = monitor.observe("somebody", rows[at : at + request_rows])
        assert verdict.kind == "none", (at, verdict)


def test_edits_are_off_the_population_but_no_probing(monitor: ExtractionMonitor) -> None:
    """An analyst who changes one field after the other of real rows is unusual, no more."""
    rng = np.random.default_rng(5)
    rows = []
    for base in NATURAL.to_numpy(dtype=object).tolist()[:60]:
        for at in rng.permutation(len(base)):
            row = list(base)
            row[at] = NATURAL.iat[int(rng.integers(len(NATURAL))), int(at)]
            rows.append(row)

    kinds = {monitor.observe("somebody", [row]).kind for row in rows}

    assert kinds == {"none", "off_population"}
    assert monitor.verdict("somebody").signals[0].name == "edits"


def test_finite_differences_are_probing(monitor: ExtractionMonitor) -> None:
    """Rows that differ from earlier ones by a little in one field, one after the other."""
    names = ["income", "spending", "debt", "ratio"]
    found = []
    for at in range(30):
        base = NATURAL.iloc[[at]]
        found.append(base)
        found += [base.assign(**{n: base[n] + 0.005 * REFERENCE[n].std()}) for n in names]

    rows, verdict = one_by_one(monitor, pd.concat(found))

    assert verdict.kind == "probing"
    assert rows <= 60
    assert "probe" in {signal.name for signal in verdict.signals}


def test_lines_are_probing() -> None:
    """Whoever bisects between real rows is flagged."""
    values = load_breast_cancer().data
    monitor = ExtractionMonitor(values, key=KEY)
    rng = np.random.default_rng(6)
    verdict = monitor.verdict("somebody")

    for _ in range(8):
        low, high = values[rng.choice(len(values), 2, replace=False)]
        for _ in range(8):
            verdict = monitor.observe("somebody", [(low + high) / 2])
            low, high = (low, (low + high) / 2) if rng.random() < 0.5 else ((low + high) / 2, high)

    assert verdict.kind == "probing"
    assert "line" in {signal.name for signal in verdict.signals}


def test_answers_that_flip_nearby_are_probing() -> None:
    """Small steps around a boundary, each with another answer, are told by the answers."""
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(6, 6))
    known = rng.normal(size=(3000, 6)) @ mixing
    start = known[0]
    steps = start + rng.normal(0, 0.01, (80, 6)) @ mixing
    silent = ExtractionMonitor(known, key=KEY)
    told = ExtractionMonitor(known, key=KEY)

    for row in steps:
        without = silent.observe("somebody", [row])
        verdict = told.observe(
            "somebody", [row], [[0.4, 0.6] if rng.random() < 0.5 else [0.6, 0.4]]
        )

    assert (without.kind, verdict.kind) == ("none", "probing")


def test_exact_repeats_carry_no_weight(monitor: ExtractionMonitor) -> None:
    """A row that is sent again changes nothing, however unusual it is."""
    row = apart(1).to_numpy(dtype=object).tolist()
    first = monitor.observe("somebody", row)

    for _ in range(200):
        again = monitor.observe("somebody", row * 3)

    assert (again.kind, again.score) == (first.kind, first.score)
    assert (again.rows, again.counted) == (601, 1)


def test_rows_may_come_in_any_form() -> None:
    """Lists, mappings, tuples and a frame are read alike."""
    frame = NATURAL.head(50)
    rows = frame.to_numpy(dtype=object).tolist()
    forms = [rows, list(map(tuple, rows)), frame.to_dict("records"), frame]
    monitors = [ExtractionMonitor(REFERENCE, key=KEY) for _ in forms]

    said = [m.observe("somebody", form) for m, form in zip(monitors, forms, strict=True)]
    kept = [m.scores() for m in monitors]

    assert said == said[:1] * len(forms)
    assert kept == kept[:1] * len(forms)


def test_a_reference_file_will_do(tmp_path: Any) -> None:
    """What `Reference.build` made is taken as it is; predictions are no input."""
    frame = REFERENCE.assign(answer="yes")
    Reference.build(frame, predictions=["answer"]).save(tmp_path / "r.parquet")

    monitor = ExtractionMonitor(Reference.load(tmp_path / "r.parquet"), key=KEY)

    assert monitor.features == tuple(REFERENCE)
    assert one_by_one(monitor, NATURAL.head(300))[1].kind == "none"
    assert one_by_one(monitor, apart(300))[1].is_suspicious


def test_an_array_with_names_will_do() -> None:
    """Rows of an array may go by the names that were given."""
    data = load_breast_cancer()
    monitor = ExtractionMonitor(data.data, names=data.feature_names, key=KEY)
    rows = [dict(zip(data.feature_names, row, strict=True)) for row in data.data[:100].tolist()]

    assert monitor.observe("somebody", rows).kind == "none"


@pytest.mark.parametrize("width", [100, 400])
def test_wide_rows_are_projected(width: int) -> None:
    """Embeddings that no longer lie where the model's inputs do are seen; others are not."""
    rng = np.random.default_rng(8)
    mixing = rng.normal(size=(12, width))
    known, natural = (np.tanh(rng.normal(size=(n, 12)) @ mixing / 3) for n in (800, 500))
    monitor = ExtractionMonitor(known, key=KEY)
    drawn = known[rng.integers(len(known), size=(100, width)), np.arange(width)]

    assert monitor.observe("customer", natural).kind == "none"
    assert monitor.observe("thief", drawn).is_suspicious
    assert monitor.state("thief")["bytes"] <= 16_000


def test_digits_are_told_from_noise() -> None:
    """Images of digits are natural, and pixels drawn by themselves are not."""
    values = load_digits().data
    known, natural = values[::2], values[1::2]
    monitor = ExtractionMonitor(known, key=KEY)
    rng = np.random.default_rng(9)
    drawn = known[rng.integers(len(known), size=(60, 64)), np.arange(64)]

    assert monitor.observe("customer", natural).kind == "none"
    assert monitor.observe("thief", drawn).is_suspicious


def test_a_verdict_lasts_and_ends() -> None:
    """It holds for so many rows, whatever they are, and is taken back after natural ones."""
    monitor = ExtractionMonitor(REFERENCE, key=KEY, hold=500)
    monitor.observe("somebody", apart(300))
    natural = NATURAL.to_numpy(dtype=object).tolist()

    said = [monitor.observe("somebody", natural[at : at + 50]) for at in range(0, 2000, 50)]

    assert all(verdict.is_suspicious for verdict in said[:9])
    assert (said[-1].kind, said[-1].signals) == ("none", ())
    assert monitor.suspects() == {}


def test_a_score_moves_in_tenths(monitor: ExtractionMonitor) -> None:
    """No verdict tells more than tenths."""
    for row in apart(60).to_numpy(dtype=object).tolist():
        verdict = monitor.observe("somebody", [row])
        shown = [verdict.score, *(signal.strength for signal in verdict.signals)]
        assert [round(10 * each) / 10 for each in shown] == shown


HOSTILE: dict[str, Any] = {
    "nothing": [],
    "an empty row": [[]],
    "a short row": [[1.0, 2.0]],
    "a long row": [[1.0] * 1000],
    "no row": [None, 5, "text", b"bytes", object()],
    "text for rows": "rows",
    "NaN and infinities": [[math.nan, math.inf, -math.inf, math.nan, 0.0] * 2],
    "huge numbers": [[1e308, -1e308, 10**400, -(10**400), 5e-324, *([1e308] * 7)]],
    "wrong types": [[{}, [], set(), object(), "x", b"y", 1j, True, 1, 2, ["gold"], {"a": 1}]],
    "nested": [[[[1]], [[2]], *([None] * 10)]],
    "long texts": [[*([0.0] * 10), "x" * 1_000_000, "\ud800"]],
    "strange mappings": [{}, {"income": "much"}, {1: 2}, {"region": ["north"]}],
    "a flat array": np.arange(5.0),
    "a deep array": np.zeros((2, 3, 4)),
    "an array of objects": np.array([[None, "x"], [object(), 1]], dtype=object),
    "a number": 5,
    "a frame without the columns": pd.DataFrame({"other": [1, 2]}),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", HOSTILE.values(), ids=HOSTILE)
def test_whatever_rows_hold_is_taken(monitor: ExtractionMonitor, rows: Any) -> None:
    """Nothing in rows or answers raises, warns, or leaves evidence that is no number."""
    for answers in (None, rows, [None], [math.nan, math.inf, 1e308], 7, [[]], [{}], "answers"):
        verdict = monitor.observe("somebody", rows, answers)
        assert verdict.score >= 0

    natural = NATURAL.to_numpy(dtype=object).tolist()[:50]
    assert monitor.observe("somebody", natural).kind in ("none", "off_population", "probing")
    packed = monitor.state("somebody")["evidence"]
    assert all(math.isfinite(value) for value in packed.values())


def test_new_categories_by_the_thousand_cost_nothing(monitor: ExtractionMonitor) -> None:
    """They are seen as such, and none is kept."""
    rows = NATURAL.head(3000).to_numpy(dtype=object).tolist()
    for at, row in enumerate(rows):
        row[10] = f"region {at}"

    verdict = monitor.observe("somebody", rows)

    assert verdict.kind == "off_population"
    assert "category" in {signal.name for signal in verdict.signals}
    assert monitor.state("somebody")["bytes"] <= 16_000


def test_principals_are_bounded() -> None:
    """Who was seen least recently leaves; the evidence stays longer; nothing grows without end."""
    monitor = ExtractionMonitor(REFERENCE, key=KEY, most_principals=5, most_scores=20)
    monitor.observe("thief", apart(100))
    row = NATURAL.head(1).to_numpy(dtype=object).tolist()

    for at in range(20):
        monitor.observe(f"customer {at}", row)
    seen = monitor.verdict("thief"), monitor.state("thief")
    for at in range(20, 60):
        monitor.observe(f"customer {at}", row)

    assert (seen[0].is_suspicious, seen[1]["kept_rows"]) == (True, 0)
    assert monitor.verdict("thief").kind == "none"
    assert len(monitor) == 25


def test_who_comes_back_is_known_again() -> None:
    """Evidence against somebody who left the store goes on from where it was."""
    monitor = ExtractionMonitor(REFERENCE, key=KEY, most_principals=1)
    thief = apart(400).to_numpy(dtype=object).tolist()
    row = NATURAL.head(1).to_numpy(dtype=object).tolist()

    for at in range(0, len(thief), 4):
        verdict = monitor.observe("thief", thief[at : at + 4])
        monitor.observe("customer", row)
        if verdict.is_suspicious:
            break

    assert verdict.is_suspicious


def test_names_may_be_long(monitor: ExtractionMonitor) -> None:
    """Of a long name a hash is kept."""
    name = "x" * 1_000_000

    monitor.observe(name, NATURAL.head(1))

    assert monitor.verdict(name).rows == 1
    assert all(len(key) < 100 for key in monitor.scores()["principals"])
    assert monitor.forget(name)


def test_forgetting_leaves_nothing(monitor: ExtractionMonitor) -> None:
    """Of somebody who is forgotten, neither rows nor evidence are kept."""
    monitor.observe("somebody", apart(100))
    flagged = monitor.suspects()

    done = monitor.forget("somebody"), monitor.forget("somebody")

    assert list(flagged) == ["somebody"]
    assert done == (True, False)
    assert (monitor.state("somebody"), monitor.suspects(), len(monitor)) == ({}, {}, 0)


def test_an_operator_sees_numbers(monitor: ExtractionMonitor) -> None:
    """The state of a principal says what speaks against it, and holds nothing of a row."""
    monitor.observe("somebody", apart(200))

    state = json.loads(json.dumps(monitor.state("somebody")))

    assert (state["kind"] != "none", state["rows"], state["kept_rows"]) == (True, 200, 16)
    assert max(state["evidence"].values()) >= state["takes"]
    assert state["bytes"] <= 16_000


def test_scores_survive_a_restart(monitor: ExtractionMonitor) -> None:
    """What was written as JSON is taken up by another monitor of the same reference."""
    monitor.observe("thief", apart(100))
    monitor.observe("customer", NATURAL.head(100))
    written = json.dumps(monitor.scores())

    other = ExtractionMonitor(REFERENCE)
    restored = other.restore(json.loads(written))

    assert restored == 2
    assert other.verdict("thief").is_suspicious
    assert other.verdict("customer").kind == "none"
    assert other.restore({"format": 99}) == 0


def test_hosts_exchange_steps() -> None:
    """A host that applies the steps of others says what one host with all the rows would say."""
    hosts = [ExtractionMonitor(REFERENCE, key=KEY) for _ in range(4)]
    alone = ExtractionMonitor(REFERENCE, key=KEY)
    rows = apart(400).to_numpy(dtype=object).tolist()

    def until(*, together: bool) -> int:
        for at, row in enumerate(rows):
            if together:
                step = hosts[at % 4].step("thief", [row])
                said = [host.apply("thief", step) for host in hosts if host is not hosts[at % 4]]
                if all(verdict.is_suspicious for verdict in said):
                    return at + 1
            elif alone.observe("thief", [row]).is_suspicious:
                return at + 1
        return len(rows)

    assert until(together=True) <= 2 * until(together=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"most_principals": 0}, "most_principals=0 must be at least 1"),
        ({"most_scores": 0}, "most_scores=0 must be at least 1"),
        ({"hold": -1}, "hold=-1 must not be negative"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    """An option that cannot be is named."""
    with pytest.raises(ValueError, match=said):
        ExtractionMonitor(REFERENCE, **options)


@pytest.mark.parametrize("table", [np.zeros(3), [], pd.DataFrame({"a": []}), [[1, 2]]])
def test_a_reference_must_be_a_table(table: Any) -> None:
    """What is no table, or too small a one, is refused."""
    with pytest.raises(InvalidReference):
        ExtractionMonitor(table)


def test_names_must_fit() -> None:
    """As many names as columns."""
    with pytest.raises(InvalidReference, match="3 names are given for 2 columns"):
        ExtractionMonitor(np.zeros((50, 2)), names=["a", "b", "c"])


def test_the_verdict_has_a_short_name() -> None:
    """`Verdict` is the verdict of this room."""
    assert Verdict is ExtractionVerdict


def test_without_numpy_it_says_what_to_install() -> None:
    """The message names the extra."""
    program = "import sys; sys.modules['numpy'] = None; import mlguard.extraction"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "extraction needs numpy: pip install 'mlguard-core[extraction]'" in done.stderr


def test_large_requests_cost_less_a_row(monitor: ExtractionMonitor) -> None:
    """Rows in requests of 500 take at most a third of the time of single ones."""
    import time

    rows = NATURAL.to_numpy(dtype=object).tolist()

    def took(part: int, count: int) -> float:
        began = time.process_time()
        for at in range(0, count, part):
            monitor.observe("somebody", rows[at : at + part])
        return (time.process_time() - began) / count

    assert 3 * took(500, 4000) < took(1, 500)
