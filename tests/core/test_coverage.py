"""What stands between the world and each route of an app?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlguard.app.drivers import drive
from mlguard.app.service import Service
from mlguard.ledger import FLIGHT, MemoryLedger, Order, Receipt
from mlguard.messages import Call
from mlguard.quotas import RouteLimit
from mlguard.routes.coverage import Coverage, Covered, rate
from mlguard.routes.route import Route
from mlguard.settings import Rate, Settings, load

AUTH = {
    "issuer": "https://login.example.com/",
    "audience": "iris-api",
    "algorithms": ["RS256"],
    "public": ["/health", "/predict", "/limited"],
}
MODEL = {"name": "iris", "route": "/predict", "inputs": "instances"}
OTHER = {"name": "own", "route": "/own", "inputs": "instances"}
REQUESTS = {"requests": ["600/minute"]}
ROWS = {**REQUESTS, "rows": ["10000/hour"]}


def settings(**tables: Any) -> Settings:
    return load({"models": [MODEL, OTHER], **tables}, named=())


def covered(route: Route | str, **tables: Any) -> Covered:
    """Tell what covers one route."""
    found = Route(("GET",), route) if isinstance(route, str) else route
    (covered,) = Coverage(settings(**tables), [found]).covered()
    return covered


class TestAccess:
    @pytest.mark.parametrize(
        ("route", "auth", "access"),
        [
            (Route((), "/x"), None, "public"),
            (Route((), "/x"), AUTH, "token"),
            (Route((), "/health"), AUTH, "public"),
            (Route((), "/x"), {**AUTH, "scopes": ["b", "a"]}, "scopes a b"),
            (Route((), "/health"), {**AUTH, "scopes": ["b"]}, "public"),
            (Route((), "/health", frozenset(["c"])), {**AUTH, "scopes": ["b"]}, "scopes b c"),
            (Route((), "/x", is_guarded=False), AUTH, "unguarded"),
        ],
        ids=["no auth", "token", "public", "scopes", "public beats", "own scopes", "unguarded"],
    )
    def test_who_may_ask(self, route: Route, auth: Any, access: str) -> None:
        """Public routes are those that the settings name and that demand no scope."""
        assert covered(route, auth=auth).access == access

    def test_scopes_of_a_model(self) -> None:
        """A model's scopes are demanded on its route, though that is public."""
        models = [{**MODEL, "scopes": ["iris"]}]

        found = covered("/predict", models=models, auth=AUTH)

        assert (found.access, found.models) == ("scopes iris", ("iris",))

    @pytest.mark.parametrize(
        ("route", "asked"),
        [
            (Route(("GET", "HEAD"), "/"), "GET"),
            (Route(("HEAD",), "/"), "HEAD"),
            (Route(("GET", "POST"), "/"), "GET,POST"),
            (Route((), "/"), "any"),
            (Route((), "/", is_websocket=True), "WEBSOCKET"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_how_it_is_asked(self, route: Route, asked: str) -> None:
        """Methods are told as people say them."""
        assert covered(route).asked == asked


class TestQuotas:
    @pytest.mark.parametrize(
        ("route", "quotas", "expected"),
        [
            ("/x", None, []),
            ("/x", ROWS, ["600/minute requests"]),
            ("/own", ROWS, ["600/minute requests, 10000/hour rows of own"]),
            (
                "/own",
                {
                    **ROWS,
                    "units": {"tokens": ["5 per 2 hours"]},
                    "lifetime": 9,
                    "concurrency": 3,
                    "store": "redis://localhost",
                },
                [
                    ("600/minute requests, 3 requests in flight, 10000/hour rows of own, "
                    "5 per 2 hours tokens of own, 9 rows of own ever")
                ],
            ),
            (
                "/own",
                {**ROWS, "models": {"own": {"rows": ["5/second"], "requests": ["9/day"]}}},
                ["9/day requests of own, 5/second rows of own"],
            ),
            (
                "/own",
                {**ROWS, "plans": {"gold": {"rows": []}, "same": {"rows": ["10000/hour"]}}},
                [
                    "600/minute requests, 10000/hour rows of own",
                    "plan gold: 600/minute requests",
                ],
            ),
            (
                "/x",
                {**ROWS, "tenant": {"requests": ["9000/minute"], "rows": ["1/day"]}},
                ["600/minute requests", "tenant: 9000/minute requests"],
            ),
            ("/x", {**ROWS, "exempt": {"routes": ["/x"]}}, []),
            ("/health", ROWS, []),
            ("/predict", ROWS, ["600/minute requests, 10000/hour rows of iris"]),
            ("/predict", {**ROWS, "plans": {"gold": {"rows": []}}, "tenant": ROWS},
             ["600/minute requests, 10000/hour rows of iris"]),
        ],
        ids=[
            "none",
            "requests",
            "a model's",
            "everything",
            "of one model",
            "plans that differ",
            "tenant",
            "exempt",
            "public",
            "a public model's",
            "no plan without a token",
        ],
    )  # fmt: skip
    def test_of_the_settings(self, route: str, quotas: Any, expected: list[str]) -> None:
        """What is counted for a route is said as the settings do."""
        found = covered(route, auth={**AUTH, "tenant_claim": "tid"}, quotas=quotas)

        assert found.sentences == expected
        assert found.models == {"/own": ("own",), "/predict": ("iris",)}.get(route, ())

    @pytest.mark.parametrize(
        ("template", "quotas", "expected"),
        [
            ("/x", None, ["5/minute;9/day declared"]),
            ("/x", REQUESTS, ["600/minute requests, 5/minute;9/day declared"]),
            ("/limited", REQUESTS, ["5/minute;9/day declared"]),
            (
                "/limited",
                {**REQUESTS, "concurrency": 2},
                ["2 requests in flight, 5/minute;9/day declared"],
            ),
            ("/x", {**REQUESTS, "exempt": {"routes": ["/x"]}}, []),
        ],
        ids=["alone", "with others", "public", "public in flight", "exempt"],
    )
    def test_declared(self, template: str, quotas: Any, expected: list[str]) -> None:
        """What a handler declares counts beside that, on public routes alone."""
        route = Route((), template, limits=("5/minute;9/day",))

        assert covered(route, auth=AUTH, quotas=quotas).sentences == expected

    @pytest.mark.parametrize(
        ("amount", "seconds", "text"),
        [
            (10_000, 3600, "10000/hour"),
            (5, 1, "5/second"),
            (5, 90, "5 per 90 seconds"),
            (5, 7200, "5 per 2 hours"),
            (1, 86_400, "1/day"),
            (1, 30 * 86_400, "1/month"),
            (1, 360 * 86_400, "1/year"),
        ],
    )
    def test_rates(self, amount: int, seconds: int, text: str) -> None:
        """A window is written as people do, and read again as what it was."""
        assert rate(amount, seconds) == text
        read = settings(quotas={"requests": [text]}).quotas
        assert read is not None
        assert read.requests is not None
        assert (read.requests[0].limit, read.requests[0].seconds) == (amount, seconds)


class TestGaps:
    @pytest.mark.parametrize(
        ("route", "tables", "said"),
        [
            (Route((), "/x", is_guarded=False), {}, "is not guarded: mount it before MLGuard"),
            (Route((), "/x"), {}, "add the table [auth] or [quotas]"),
            (Route((), "/x"), {"quotas": {"rows": ["1/day"]}}, "set `quotas.requests`"),
            (
                Route((), "/x"),
                {"quotas": {**REQUESTS, "exempt": {"routes": ["/x"]}}},
                "`quotas.exempt.routes` names it",
            ),
            (Route((), "/health"), {"auth": AUTH}, "take it out of `auth.public`"),
            (Route((), "/predict"), {"auth": AUTH}, "take it out of `auth.public`"),
        ],
        ids=["unguarded", "nothing", "rows only", "exempt", "public", "a public model"],
    )
    def test_what_is_not_covered(self, route: Route, tables: Any, said: str) -> None:
        """Where neither a token nor a quota stands before a route, it is said what to do."""
        gap = covered(route, **tables).gap

        assert gap is not None
        assert said in gap

    @pytest.mark.parametrize(
        ("route", "tables"),
        [
            (Route((), "/x"), {"auth": AUTH}),
            (Route((), "/x"), {"quotas": REQUESTS}),
            (Route((), "/predict"), {"auth": AUTH, "quotas": {"rows": ["1/day"]}}),
            (Route((), "/limited", limits=("5/minute",)), {"auth": AUTH}),
            (Route((), "/x", frozenset(["admin"])), {}),
        ],
        ids=["token", "quota", "public with rows", "declared", "a scope that nobody has"],
    )
    def test_what_is(self, route: Route, tables: Any) -> None:
        """A token or a quota will do."""
        assert covered(route, **tables).gap is None


def test_for_the_log() -> None:
    """Each route is one line, with all that is known of it."""
    routes = [
        Route(("POST",), "/own"),
        Route(("GET", "HEAD"), "/health"),
        Route((), "/old", is_guarded=False),
    ]
    quotas = {**ROWS, "plans": {"gold": {"requests": ["9/second"]}}}

    assert Coverage(settings(auth=AUTH, quotas=quotas), routes).lines() == [
        (
            "POST /own: token; 600/minute requests, 10000/hour rows of own; "
            "plan gold: 9/second requests, 10000/hour rows of own; model own"
        ),
        (
            "GET /health: public; nothing covers it: it needs no token and has no quota: take it "
            'out of `auth.public`, or declare one with @guard.limit("60/minute")'
        ),
        (
            "any /old: unguarded; nothing covers it: it is not guarded: mount it before "
            "MLGuard(app, ...), or give it an MLGuard of its own"
        ),
    ]


class TestTheGuardAgrees:
    """What is said of a route is what the guard charges on it."""

    @pytest.mark.parametrize("auth", [None, AUTH], ids=["nobody", "tokens"])
    @pytest.mark.parametrize("template", ["/x", "/health", "/limited", "/predict", "/free"])
    @pytest.mark.parametrize("is_limited", [False, True], ids=["", "limited"])
    def test_of_strangers(self, auth: Any, template: str, *, is_limited: bool) -> None:
        """A request without a token is refused, or charged what the list says."""
        quotas: Mapping[str, Any] = {**ROWS, "exempt": {"routes": ["/free"]}}
        tables = {"auth": auth, "quotas": quotas}
        route = Route((), template, limits=("5/minute",) if is_limited else ())
        found = covered(route, **tables)

        charged = _charged(settings(**tables), template, is_limited=is_limited)

        if found.is_public:
            assert sorted(charged or []) == sorted(
                text for _, texts in found.quotas for text in texts
            )
        else:
            assert charged is None


class Noting(MemoryLedger):
    """A ledger that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[Order] = []

    def debit(self, order: Order, holder: str = "") -> Receipt:
        self.orders.append(order)
        return super().debit(order, holder)


def _charged(told: Settings, template: str, *, is_limited: bool) -> list[str] | None:
    """Tell what the guard charges for a request without a token, None where it refuses it."""
    guard = Service(told).guard
    ledger = guard.parts.quota.ledger = Noting()
    exchange = guard.open(Call("POST", peer="192.0.2.7", has_body=True))
    limit = RouteLimit(Rate(text="5/minute", limit=5, seconds=60), 1, f"{template} f", None)
    steps = exchange.matched(guard.parts.bind("", template), (limit,) if is_limited else ())
    refused = drive(steps, lambda *_: b'{"instances": [[1]]}')
    return None if refused else _said(ledger.orders)


def _said(orders: list[Order]) -> list[str]:
    from mlguard.routes.coverage import said

    return [
        "5/minute declared" if limit.field.startswith("route:") else said(limit)
        for order in orders
        for _, limit, _ in order.lines
        if limit.kind != FLIGHT
    ]
