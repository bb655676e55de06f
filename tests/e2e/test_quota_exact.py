"""Do four workers admit what one would, to the row?"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.e2e.quota_clients import Connection, Counted, Reply, counted, settings
from tests.redis_servers import Redis

WORKERS = 4
CLIENTS = 64
LARGEST = 50
EVERY = 10  # of which one answer is longer than what was asked
MORE = 7
DAY = 86400
QUOTAS = {
    # Long windows: none of them ends while the test runs.
    "requests": ["100000 per 10 days"],
    "rows": ["20000 per 10 days", "30000 per 20 days"],
    "concurrency": 1000,
    "store_timeout": 2.0,
    "plans": {
        "few": {"requests": ["150 per 10 days", "300 per 20 days"]},
        "less": {"rows": ["3000 per 10 days", "2000 per 20 days"]},
        "longer": {"rows": ["5000 per 10 days"]},
    },
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("host", marks=pytest.mark.xdist_group("exact host")),
        pytest.param("redis", marks=pytest.mark.xdist_group("exact redis")),
    ],
)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "host":
        yield "host://"
        return
    with Redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("fastapi", marks=pytest.mark.xdist_group("exact fastapi")),
        pytest.param("flask", marks=pytest.mark.xdist_group("exact flask")),
    ],
)
def service(
    request: pytest.FixtureRequest, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Counted]:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find who holds what")
    folder = tmp_path_factory.mktemp("exact")
    quotas: dict[str, Any] = {**QUOTAS, "store": store, "prefix": f"mlguard-{request.param}"}
    with counted(request.param, folder, settings(quotas), workers=WORKERS) as service:
        yield service


async def _spend(url: str, subject: str, seed: int, *, more: int, **claims: Any) -> list[Reply]:
    """Ask for batches of all sizes until some are refused, then row by row until that is, too."""
    draw, replies, refused = random.Random(seed), [], 0
    connection = Connection(url, subject, **claims)
    with contextlib.closing(connection):
        while refused < 3:
            rows = draw.randint(1, LARGEST) if refused < 2 else 1
            extra = more if (seed + len(replies)) % EVERY == 0 else 0
            replies.append(await connection.ask("/predict", rows, more=extra))
            refused += not replies[-1].is_admitted
            if len(replies) % 8 == 0:
                connection.close()  # another worker may accept the next one
    return replies


def _spend_all(
    service: Counted, callers: Sequence[tuple[str, str | None]], *, more: int = 0
) -> dict[str, list[Reply]]:
    """Have 64 clients of some callers, each of a plan, spend all that there is."""

    async def spend() -> dict[str, list[Reply]]:
        names = [callers[n % len(callers)] for n in range(CLIENTS)]
        each = await asyncio.gather(
            *(
                _spend(service.url, name, seed, more=more, plan=plan)
                for seed, (name, plan) in enumerate(names)
            )
        )
        found: dict[str, list[Reply]] = {name: [] for name, _ in callers}
        for (name, _), replies in zip(names, each, strict=True):
            found[name] += replies
        return found

    return asyncio.run(spend())


def _refused(replies: Sequence[Reply]) -> list[Reply]:
    refused = [reply for reply in replies if not reply.is_admitted]
    assert {reply.status for reply in refused} <= {429}
    return refused


def _check_chain(
    replies: Sequence[Reply],
    window: str,
    amount: int,
    costs: Sequence[int],
    *,
    is_read_later: bool,
) -> None:
    """Hold the headers against each other.

    Sorted by what they say is left, the answers must be one sequence of debits: none was lost, none
    was made twice. What is read after its debit may know of later ones too, but the last of none.
    """
    used = sorted(
        (amount - reply.left[window], cost)
        for reply, cost in zip(replies, costs, strict=True)
        if reply.is_admitted
    )
    total = 0
    for seen, cost in used:
        total += cost
        is_right = seen >= total if is_read_later else seen == total
        assert is_right, f"{window}: {seen} is used, where {total} was charged"
    assert not used or used[-1][0] == total


def _is_tight(reply: Reply) -> bool:
    """Say whether a refused call did not fit in some window that it was told about.

    What is refused unread, as a window is known to be spent, is not told what is left.
    """
    if not reply.left:
        return True
    wanted = {"rows": reply.rows, "requests": 1}
    return any(left < wanted[name.partition("-")[0]] for name, left in reply.left.items())


def _check(
    service: Counted, subject: str, replies: Sequence[Reply], windows: dict[str, int]
) -> None:
    """Hold a caller's answers against its windows and the books."""
    admitted = [reply for reply in replies if reply.is_admitted]
    rows = sum(reply.rows for reply in admitted)
    books = service.used(subject)
    for window, amount in windows.items():
        unit, _, seconds = window.partition("-")
        if unit == "rows":
            costs = [reply.rows for reply in replies]
            _check_chain(replies, window, amount, costs, is_read_later=service.is_on_host)
            assert books[f"rows:predict:{seconds}"] == rows <= amount
        else:  # a request whose rows are refused was one all the same
            assert len(admitted) <= books[f"requests::{seconds}"] <= len(replies)
    assert all(_is_tight(reply) for reply in _refused(replies))


def test_one_caller_spends_all_and_no_more(service: Counted) -> None:
    """64 clients of one get exactly 20000 rows, by the answers, the headers and the books."""
    replies = _spend_all(service, [("alice", None)])["alice"]
    windows = {
        f"rows-{10 * DAY}": 20000,
        f"rows-{20 * DAY}": 30000,
        f"requests-{10 * DAY}": 100000,
    }

    _check(service, "alice", replies, windows)
    assert sum(reply.rows for reply in replies if reply.is_admitted) == 20000
    assert len({reply.worker for reply in replies if reply.is_admitted}) > 1


def test_callers_at_once_each_have_their_own(service: Counted) -> None:
    """Each caller gets what its plan says, by its narrowest window, whoever asks beside it."""
    callers = [("bob", "few"), ("carol", "less"), ("dave", "less"), ("erin", "less")]
    found = _spend_all(service, callers)
    few = {f"requests-{10 * DAY}": 150, f"requests-{20 * DAY}": 300, f"rows-{10 * DAY}": 20000}
    less = {f"rows-{10 * DAY}": 3000, f"rows-{20 * DAY}": 2000, f"requests-{10 * DAY}": 100000}

    for name, plan in callers:
        _check(service, name, found[name], few if plan == "few" else less)
    admitted = {name: [r for r in replies if r.is_admitted] for name, replies in found.items()}
    assert len(admitted["bob"]) == 150
    assert [sum(r.rows for r in admitted[name]) for name in ("carol", "dave", "erin")] == [2000] * 3


def test_longer_answers_are_charged_or_withheld(service: Counted) -> None:
    """What an answer holds beyond what was asked is charged before it leaves, or it does not."""
    labels = {"model": "predict", "unit": "rows"}
    before = service.metric("mlguard_quota_debt_total", **labels)
    replies = _spend_all(service, [("frank", "longer")], more=MORE)["frank"]
    admitted = [reply for reply in replies if reply.is_admitted]
    rows = sum(reply.rows for reply in admitted)
    debt = service.metric("mlguard_quota_debt_total", **labels) - before
    withheld = [reply for reply in _refused(replies) if reply.code == "answer_withheld"]
    reserved = sum(reply.rows for reply in withheld)
    used = service.used("frank")

    assert used[f"rows:predict:{10 * DAY}"] == rows + debt + reserved <= 5000
    assert debt == sum(_more(reply) for reply in admitted) > 0
    assert len(admitted) + len(withheld) <= used[f"requests::{10 * DAY}"] <= len(replies)


def _more(reply: Reply) -> int:
    """Tell how many predictions an answer has beyond what was asked."""
    return len(reply.predictions) - reply.rows


@pytest.mark.parametrize("subject", ["alice", "bob", "frank"])
def test_nothing_stays_in_flight(service: Counted, subject: str) -> None:
    """When all is answered, nobody holds anything, and no store was ever away."""
    servers.wait_until(
        lambda: (
            not any(used for field, used in service.used(subject).items() if "concurrency" in field)
        ),
        "all that was in flight has landed",
    )
    assert not service.said("is away")
    assert not service.is_degraded
