"""Do the benchmarks measure what they say?"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.chart import Bar, draw
from benchmarks.contestants import exporting
from benchmarks.measure import ASGI, CHUNK, WSGI, Request
from benchmarks.receiver import Receiver
from benchmarks.report import Verdict, table
from benchmarks.soak import Look, verdicts
from benchmarks.turns import Spread, calls, rounds_of

LARGE = b"0" * (2 * CHUNK + 1)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer how many bytes came in how many pieces."""
    size, pieces, is_more = 0, 0, True
    while is_more:
        message = await receive()
        size, pieces = size + len(message["body"]), pieces + 1
        is_more = message["more_body"]
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": f"{size} in {pieces}".encode()})


def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    """Answer how many bytes came, and how many were announced."""
    start_response("201 Created", [])
    body = environ["wsgi.input"].read()
    return [f"{len(body)} of {environ['CONTENT_LENGTH'] or 'some'}".encode()]


@pytest.mark.parametrize(
    ("driver", "app", "length", "expected"),
    [
        pytest.param(ASGI, asgi, -1, f"{len(LARGE)} in 3", id="ASGI, in pieces"),
        pytest.param(WSGI, wsgi, -1, f"{len(LARGE)} of {len(LARGE)}", id="WSGI, announced"),
        pytest.param(WSGI, wsgi, None, f"{len(LARGE)} of some", id="WSGI, by chunks"),
    ],
)
def test_a_body_reaches_the_app(driver: Any, app: Any, length: int | None, expected: str) -> None:
    """A driver hands an app the whole body, as a server does."""
    driven = driver()

    answer = driven.ask(app, Request(body=LARGE, length=length))
    driven.close()

    assert (answer.status, answer.body.decode()) == (201, expected)


def test_the_receiver_counts_spans() -> None:
    """The receiver tells whose spans came, and how many."""
    with Receiver() as receiver:
        for name, spans in (("one", 2), ("other", 3)):
            provider = exporting(name, receiver.url)
            for _ in range(spans):
                provider.get_tracer("test").start_span("span").end()
            provider.shutdown()

        assert receiver.counts() == {"one": 2, "other": 3}


def test_everybody_has_a_turn_in_each_round() -> None:
    """All are measured equally often, and each begins a round in turn."""
    order: list[str] = []

    def turn(name: str) -> Any:
        return lambda: float(len(order)) if order.append(name) is None else 0.0

    rounds_of({n: turn(n) for n in "abc"}, seconds=0, progress=lambda _: None, least=3)

    assert "".join(order) == "abcbcacab"


def test_quartiles() -> None:
    """A spread is the median between its quartiles."""
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_calls_are_counted() -> None:
    """Python functions are counted, and what is written in C is not."""

    def inner() -> int:
        return len([])

    def outer() -> None:
        for _ in range(3):
            inner()

    assert calls(outer) == 1 + 3


@pytest.mark.parametrize(
    ("value", "at_least", "expected"),
    [
        pytest.param(0.5, False, True, id="little enough"),
        pytest.param(0.51, False, False, id="too much"),
        pytest.param(0.5, True, True, id="much enough"),
        pytest.param(0.49, True, False, id="too little"),
    ],
)
def test_goals(value: float, at_least: bool, expected: bool) -> None:
    """A goal is the most, or the least, that may be found."""
    assert Verdict("share", value, 0.5, at_least).is_reached is expected


def test_a_table_is_aligned() -> None:
    """Names are to the left, figures to the right."""
    text = table("title", ("", "µs"), [("bare", "7"), ("mlguard", "120")])

    assert text == "\ntitle\n\n           µs\nbare        7\nmlguard   120"


def test_the_chart_is_a_picture() -> None:
    """The chart is well-formed, and its longest bar is twice as long as one of half the value."""
    drawn = draw([("A < B & C", [Bar("other", 2.0, "2 µs"), Bar("mlguard", 1.0, "1 µs")])])

    rects = ElementTree.fromstring(drawn).findall(".//{*}rect[@height='20']")
    long, short = (int(rect.attrib["width"]) for rect in rects)
    assert long == 2 * short


def test_a_soak_tells_what_grew() -> None:
    """What a service has at the end is held against the middle, and no request is lost."""
    look = Look(1, 1.0, memory=100, descriptors=10, threads=4, series=50, file=1000)
    later = replace(look, memory=105, descriptors=12)
    statuses = Counter({"200": 9, "401": 3, "000": 1})

    missed = [v.what for v in verdicts("x", [look, look, later], statuses) if not v.is_reached]

    assert missed == [
        "x: descriptors at the end ÷ in the middle",
        "x: requests without an answer",
    ]
