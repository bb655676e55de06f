"""What does a drift check look like to a person?"""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from mlguard.drift import check
from mlguard.drift.history import Past
from mlguard.drift.report import render
from mlguard.reference import Reference

pytestmark = pytest.mark.xdist_group("evidently")

WHEN = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
ATTACK = "</script><script>alert(1)</script>"
VOID = {"meta", "path"}


class Outline(HTMLParser):
    """Collects the tags, the attributes and the text of a page, and checks the nesting."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(data: dict[str, Any], window: Any, **names: str) -> str:
    reference = Reference.build(data)
    verdict = check(reference, window)
    words = {"model": "iris", "version": "3"} | names
    return render(verdict, reference, window, **words, when=WHEN)


def test_page() -> None:
    """The page names the model, the time, the rows, the drifted features and their reasons."""
    rng = np.random.default_rng(0)
    data = {"same": rng.normal(size=2000), "moved": rng.normal(size=2000)}
    window = np.stack([rng.normal(size=300), rng.normal(3, 1, size=300)], axis=1)

    found = Outline(page(data, window))

    text = "|".join(found.texts)
    for words in ("Drift of iris 3", "2024-05-01 12:30:00", "300 rows", "2,000 rows"):
        assert words in text
    assert "1 of 2 features drifted." in text
    assert text.index("moved|") < text.index("distribution") < text.index("same|")
    assert found.open == []


def test_no_drift() -> None:
    """Without drift the page says so."""
    values = [float(value) for value in range(100)]

    assert "No drift in 1 feature." in page({"a": values}, [[value] for value in values])


@pytest.mark.parametrize(
    "attack", [ATTACK, "\" onload='alert(1)' x=\"", "<img src=x>", "&lt;b&gt;"]
)
def test_escapes(attack: str) -> None:
    """Whatever a name or a category holds is shown as text."""
    data = {attack: ["a", attack] * 50}
    window = [["a"], [attack], [attack + "!"]] * 40

    found = Outline(page(data, window, model=attack, version=attack))

    assert not {"script", "img"} & set(found.tags)
    assert not {"onload", "src", "href"} & {name for name, _ in found.attributes}
    assert f"{attack}!" in found.texts
    assert found.texts.count(attack) >= 2
    assert found.open == []


def test_how_scores_went() -> None:
    """Of a feature that earlier windows had, the page draws their scores, and where it drifted."""
    data = {"a": [float(v) for v in range(100)], "new": [float(v) for v in range(100)]}
    reference = Reference.build(data)
    window = [[float(v), float(v)] for v in range(100)]
    verdict = check(reference, window)
    past = [Past(1e9 + n, 100, {"a": (n, n == 2), "gone": (9.0, True)}) for n in range(4)]

    text = render(verdict, reference, window, model="m", version="1", when=WHEN, history=past)

    assert Outline(text).open == []
    assert text.count('class="course"') == 1
    assert "M0 100L10 50L20 0L30 0" in text  # what is beyond twice the limit is cut
    assert text.count('class="hit"') == 1
    assert "2001-09-09 01:46" in text


def test_loads_nothing() -> None:
    """The page has no scripts, no addresses and a policy that forbids them."""
    text = page({"a": [1.0, 2.0] * 20}, [[1.0], [2.0]] * 20)

    assert "default-src 'none'" in text
    assert all(word not in text for word in ("http://", "https://", "url(", "@import", "<script"))


def test_size() -> None:
    """A page of 50 features with long category names stays below 200 kB."""
    rng = np.random.default_rng(1)
    names = np.array([f"{ATTACK * 8} {number}" for number in range(90)])
    data: dict[str, Any] = {f"x{i}": rng.normal(size=500) for i in range(25)}
    data |= {f"c{i}": rng.choice(names, 500) for i in range(25)}
    reference = Reference.build(data)
    rows = zip(*(values.tolist() for values in data.values()), strict=True)
    window = [[*row[:25], *(f"{text}{row[0]}" for text in row[25:])] for row in rows]
    verdict = check(reference, window)

    text = render(verdict, reference, window, model="m", version="1", when=WHEN)

    assert len(text.encode()) < 200_000


@pytest.mark.parametrize(
    ("values", "window"),
    [
        pytest.param([1.0, None] * 50, [None] * 40, id="vanished"),
        pytest.param([3.0] * 50, [4.0] * 40, id="constant"),
        pytest.param([float(v) for v in range(50)], [1e308, -1e308] * 20, id="huge window"),
        pytest.param([v * 3.5e306 for v in range(-49, 50)], [0.0] * 40, id="huge reference"),
        pytest.param([*map(float, range(50)), np.inf], [np.inf, 1.5] * 20, id="infinite"),
        pytest.param([f"id-{v}" for v in range(400)], ["x", [1], None] * 20, id="identifiers"),
        pytest.param(["a", "b"] * 50, ["\ud800", "\u202e"] * 20, id="half surrogates"),
        pytest.param([0.0] * 300 + [1.0, 2, 3, 4, 5, 6], [0.0] * 40, id="nearly constant"),
    ],
)
def test_any_feature(values: list[Any], window: list[Any]) -> None:
    """Every kind of feature and window has a page."""
    text = page({"a": values}, [[value] for value in window])

    text.encode()
    assert Outline(text).open == []
    assert "nan" not in text.lower()
