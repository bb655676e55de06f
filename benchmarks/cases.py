"""Which kinds of refusal are there, and what leads to each?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Request
from benchmarks.proofs import scrape
from benchmarks.service import Tables, bearer

HEAD, BODY, SCRAPE = 3.0, 8.0, 5.0  # goals, as multiples of a bare 404
MIB = 2**20
MANY = 2_700_000  # rows in less than the largest body
REST = ("model", "auth", "quotas", "tracing")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of refusal.

    Attributes:
        name: In the table.
        request: Is refused.
        status: What it is answered, one of these.
        goal: How many bare 404s it may cost.
        changes: What the settings say besides.
        before: What is sent before, so that it is refused.
        is_held: Whether another request is in its handler meanwhile.
        is_repeated: Whether it is measured in one stretch.
        at_once: How many are sent at the same time.
    """

    name: str
    request: Request
    status: tuple[int, ...]
    goal: float = HEAD
    changes: Tables = field(default_factory=dict)
    before: tuple[Request, ...] = ()
    is_held: bool = False
    is_repeated: bool = False
    at_once: int = 1


def cases() -> tuple[Case, ...]:
    """List every kind of refusal."""
    return (*_by_token(), *_by_path(), *_by_body(), *_by_quota(), *_by_room(), *_scrapes())


def sent(authorization: str = "", **others: Any) -> Request:
    """Make a request, with a token or without."""
    headers = {"authorization": authorization} if authorization else {}
    return Request(headers=headers, **others)


def _resigned(token: str) -> str:
    """Change the signature."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{signature[:-8]}{'A' * 8}"


OPEN: Tables = {
    "auth": {"failures_per_client": "off"},
    "quotas": {"unmatched_per_client": "off"},
}
TWO = "2/day"


def _by_token() -> Iterator[Case]:
    bad, junk = sent(_resigned(bearer())), sent("Bearer " + '"' * 8192)
    yield Case("401 no token", sent(), (401,), changes=OPEN)
    yield Case("401 junk token, 8 KiB of quotes", junk, (401,), changes=OPEN)
    yield Case("401 bad signature", bad, (401,), changes=OPEN)
    query = "a=1&" * 15_360
    yield Case("401 no token, query of 60 KB", sent(query=query), (401, 414), changes=OPEN)
    yield Case(
        "429 too_many_failures",
        bad,
        (429,),
        changes={"auth": {"failures_per_client": TWO}},
        before=(bad,) * 3,
    )
    yield Case("403 scope_missing", sent(bearer()), (403,), changes={"auth": {"scopes": ["ask"]}})


def _by_path() -> Iterator[Case]:
    lost = Request("GET", "/nowhere", headers={"authorization": bearer()}, body=b"")
    far = Request("GET", f"/{'a' * 61_440}", headers=lost.headers, body=b"")
    yield Case("404 unmatched, with a token", lost, (404,), changes=OPEN)
    yield Case(
        "429 unmatched, throttled",
        lost,
        (429,),
        changes={"quotas": {"unmatched_per_client": TWO}},
        before=(lost,) * 3,
    )
    yield Case("path of 60 KB, with a token", far, (404, 414), changes=OPEN)


def _by_body() -> Iterator[Case]:
    token, large = bearer(), b" " * (9 * MIB)
    yield Case("413 announced", sent(token, body=b"", length=len(large)), (413,), changes=OPEN)
    by_chunks = sent(token, body=large, length=None)
    yield Case("413 by chunks", by_chunks, (413,), BODY, OPEN, is_repeated=True)


def _rows(count: int, row: str) -> bytes:
    return b'{"instances": [' + ",".join([row] * count).encode() + b"]}"


def crowded() -> Tables:
    """Give each caller fewer rows than `crowd` and one more have."""
    return {"quotas": {"rows": [f"{MANY}/day"]}}


def crowd() -> bytes:
    """Write as many rows as 8 MB hold: empty ones."""
    return _rows(MANY, "[]")


def _by_quota() -> Iterator[Case]:
    token = bearer()
    one = sent(token)
    yield Case(
        "429 requests spent",
        one,
        (429,),
        changes={"quotas": {"requests": [TWO]}},
        before=(one,) * 3,
    )
    yield Case(
        "429 rows, 8 MB of `[],`",
        sent(token, body=crowd()),
        (422, 429),
        BODY,
        crowded(),
        before=(one,),
        is_repeated=True,
    )
    batch = _rows(MIB // 18, "[5.9,3.0,4.2,1.5]")
    yield Case(
        "422 batch_exceeds_quota, 1 MB",
        sent(token, body=batch),
        (422, 429),
        BODY,
        {"quotas": {"rows": ["1000/day"]}},
        is_repeated=True,
    )


def _by_room() -> Iterator[Case]:
    one = sent(bearer())
    full: Tables = {"quotas": {"max_in_flight": 1}}
    busy: Tables = {"quotas": {"concurrency": 1}}
    yield Case("503 overloaded", one, (503,), changes=full, is_held=True)
    yield Case("429 too_many_in_flight", one, (429,), changes=busy, is_held=True)


def _scrapes() -> Iterator[Case]:
    ours = (sent(bearer()),)
    met: Tables = {**OPEN, "service": {"host_file": True}}
    yield Case("/metrics, alone", scrape(), (200,), SCRAPE, OPEN, ours)
    yield Case("/metrics, with a file", scrape(), (200,), SCRAPE, met, ours)
    many = "/metrics, with a file, each of 8"
    yield Case(many, scrape(), (200,), SCRAPE, met, ours, at_once=8)
