"""What must be true of guard.limit on every framework? Inherited like the contract itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.client import SETTINGS, Answer, Client, bearer, metric

ROW = [1.0, 2.0]


def limit_settings() -> dict[str, Any]:
    """Quotas so wide that limits are met first, and a model on a limited route."""
    model = {**SETTINGS["models"][0], "route": "/limited/predict"}
    return {
        **SETTINGS,
        "service": {**SETTINGS["service"], "trusted_proxies": ["127.0.0.0/8"]},
        "models": [model, {"name": "own"}],
        "auth": {**SETTINGS["auth"], "public": ["/health", "/limited/open"]},
        "quotas": {"requests": ["100/hour"], "rows": ["10/hour"]},
    }


def ask(
    client: Client,
    path: str,
    subject: str,
    method: str = "GET",
    more: Iterable[tuple[str, str]] = (),
    **claims: Any,
) -> Answer:
    """Send a request of one caller."""
    return client.ask(method, path, headers=[*bearer(subject, **claims), *more])


def statuses(
    client: Client, path: str, subject: str, number: int, method: str = "GET"
) -> list[int]:
    """Ask so many times."""
    return [ask(client, path, subject, method).status for _ in range(number)]


def requests_left(answer: Answer) -> int:
    """Read how many requests of the quota are left."""
    found = re.search(r'"requests-3600";r=(\d+)', answer.header("ratelimit") or "")
    assert found, "the answer says nothing of the quota"
    return int(found[1])


class LimitContract:
    """Black-box tests; a subclass provides the fixture `client`."""

    @pytest.mark.parametrize(
        "path",
        [
            "/limited", "/limited/sync", "/limited/odd", "/limited/windows",
            "/limited/items/{}", "/limited/items/{}?n={}",
        ],
    )  # fmt: skip
    def test_a_limited_route(self, client: Client, path: str) -> None:
        """It answers as often as declared, whatever its parameters, each caller for itself."""
        answers = [ask(client, path.format(n, n), f"ann {path}") for n in range(4)]

        assert [a.status for a in answers] == [200, 200, 200, 429]
        assert answers[3].code == "rate_exceeded"
        assert 0 < int(answers[3].header("retry-after") or 0) <= 3 * 3600
        assert ask(client, path.format(1, 1), f"bob {path}").status == 200

    def test_all_or_nothing(self, client: Client) -> None:
        """What the limit refuses spends nothing of the quota, and the other way round."""
        statuses(client, "/limited", "cleo", 3)
        before = requests_left(ask(client, "/me", "cleo"))
        refused = statuses(client, "/limited", "cleo", 4)
        after = requests_left(ask(client, "/me", "cleo"))

        assert refused == [429] * 4
        assert before - after == 1

    def test_a_limited_model(self, client: Client) -> None:
        """On a model's route, limit, requests and rows are charged together or not at all."""

        def predict(rows: int) -> Answer:
            headers = [*bearer("dora"), ("Content-Type", "application/json")]
            body = json.dumps({"instances": [ROW] * rows}).encode()
            return client.ask("POST", "/limited/predict", headers=headers, body=body)

        first, too_many, second, third = (predict(rows) for rows in (6, 5, 4, 1))

        assert [a.status for a in (first, too_many, second, third)] == [200, 429, 200, 429]
        assert too_many.code == "quota_exceeded"
        assert second.json == {"predictions": [3.0] * 4}

    def test_routes_do_not_share(self, client: Client) -> None:
        """Routes made by one function, or of one router included twice, count for themselves."""
        for path in (
            "/limited/made/a",
            "/limited/made/b",
            "/v1/limited/twice",
            "/v2/limited/twice",
        ):
            assert statuses(client, path, "eve", 3) == [200, 200, 429]

    def test_stacked_limits(self, client: Client) -> None:
        """Each declaration counts for itself, and all of them hold."""
        assert statuses(client, "/limited/stacked", "finn", 2) == [200, 429]

    def test_per_method(self, client: Client) -> None:
        """With per_method, each method counts for itself."""
        for method in ("GET", "POST"):
            assert statuses(client, "/limited/each", "gus", 3, method) == [200, 200, 429]

    def test_methods(self, client: Client) -> None:
        """With methods, others are not counted."""
        assert statuses(client, "/limited/posts", "hal", 4) == [200] * 4
        assert statuses(client, "/limited/posts", "hal", 3, "POST") == [200, 200, 429]

    def test_head(self, client: Client) -> None:
        """HEAD counts as GET does."""
        answers = [ask(client, "/limited/head", "ida", m) for m in ("HEAD", "GET", "HEAD")]

        assert [a.status for a in answers] == [200, 200, 429]
        assert answers[2].body == b""

    def test_preflights(self, client: Client) -> None:
        """Neither preflights nor OPTIONS that no code of the app answers are counted."""
        asked = [("Origin", "https://a.example.com"), ("Access-Control-Request-Method", "GET")]
        for _ in range(4):
            assert client.ask("OPTIONS", "/limited", headers=asked).status == 200
            ask(client, "/limited", "jo", "OPTIONS")

        assert statuses(client, "/limited", "jo", 3) == [200] * 3

    def test_methods_that_it_does_not_serve(self, client: Client) -> None:
        """A 405 reaches no handler: it spends nothing of the limit."""
        refused = statuses(client, "/limited/sync", "juno", 4, "DELETE")

        assert refused == [405] * 4
        assert statuses(client, "/limited/sync", "juno", 3) == [200] * 3

    def test_costs(self, client: Client) -> None:
        """A cost of several uses up the limit at once; what is free leaves it alone."""
        costs = (0, 4, 5, 2, 1, 1)
        answers = [ask(client, f"/limited/weighed?cost={c}", "kim").status for c in costs]

        assert answers == [200, 200, 200, 429, 200, 429]

    @pytest.mark.parametrize("cost", ["-1", "-9999999999", "many", "1.5"])
    def test_odd_costs(self, client: Client, cost: str) -> None:
        """A cost below zero, or that is no number, counts as one: it never refills a limit."""
        found = statuses(client, f"/limited/weighed?cost={cost}", f"lea {cost}", 11)

        assert found == [200] * 10 + [429]

    def test_costs_that_never_fit(self, client: Client) -> None:
        """A cost above the limit is refused, however large, and spends nothing."""
        for cost in (11, 10**30):
            answer = ask(client, f"/limited/weighed?cost={cost}", "mona")
            assert answer.status in (422, 429)

        assert ask(client, "/limited/weighed?cost=10", "mona").status == 200

    @pytest.mark.parametrize("path", ["/limited/friends", "/limited/friends/odd"])
    def test_exempt(self, client: Client, path: str) -> None:
        """exempt_when knows the caller; who is not exempt is limited."""
        assert statuses(client, path, f"friend {path}", 4) == [200] * 4
        assert statuses(client, path, f"foe {path}", 3) == [200, 200, 429]

    def test_rates_that_a_function_tells(self, client: Client) -> None:
        """Rates may be told at each request."""
        assert statuses(client, "/limited/told", "nils", 3) == [200, 200, 429]

    def test_public_routes(self, client: Client) -> None:
        """On a public route the client's network is counted, whatever else it sends."""

        def status(address: str) -> int:
            return client.ask("GET", "/limited/open", headers=[("X-Forwarded-For", address)]).status

        assert [status("10.9.8.7") for _ in range(4)] == [200, 200, 200, 429]
        assert [status(f"2001:db8:1:2::{n}") for n in range(4)] == [200, 200, 200, 429]
        assert status("10.9.8.6") == 200

    def test_refused_before(self, client: Client) -> None:
        """Who may not ask at all spends nothing of the limit."""
        refused = [ask(client, "/limited/admin", "olga").status for _ in range(3)]
        granted = [
            ask(client, "/limited/admin", "olga", scope="predict admin").status for _ in range(3)
        ]

        assert (refused, granted) == ([403] * 3, [200, 200, 429])
        assert client.ask("GET", "/limited").code == "token_missing"

    def test_streams(self, client: Client) -> None:
        """A streamed answer is limited before its first byte, and arrives whole."""
        answers = [ask(client, "/limited/stream", "pia") for _ in range(3)]

        assert [a.body for a in answers[:2]] == [b"one two"] * 2
        assert answers[2].code == "rate_exceeded"

    def test_concurrency(self, client: Client) -> None:
        """Requests at the same time are admitted up to the limit and no further."""
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, client, "/limited/crowd", "quinn") for _ in range(20)]
        found = [a.result().status for a in asked]

        assert (found.count(200), found.count(429)) == (10, 10)

    def test_refusals_are_counted(self, client: Client) -> None:
        """An operator sees refusals by what they were."""
        labels = {"model": "", "code": "rate_exceeded"}
        before = metric(client, "mlguard_quota_refused_total", **labels)
        statuses(client, "/limited/told", "rolf", 3)

        assert metric(client, "mlguard_quota_refused_total", **labels) - before == 1

    def test_in_the_words_of_the_route(self, client: Client) -> None:
        """A refusal says what the route wants it to say, and which code it is all the same."""
        answers = [ask(client, "/limited/told", "reader") for _ in range(3)]

        assert (answers[2].status, answers[2].code) == (429, "rate_exceeded")
        assert answers[2].json["title"] == "Two an hour, please."
