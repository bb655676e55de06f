"""In which order? The guard without a framework: calls in, verdicts out."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Semaphore
from typing import Any, ClassVar

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mlguard.app.drivers import adrive, drive
from mlguard.app.running import Running
from mlguard.app.service import Service
from mlguard.errors import BlockingCall, InvalidSettings, Refused, UnknownModel
from mlguard.guard import Exchange, Guard
from mlguard.guard.decision import LARGE, Steps
from mlguard.messages import Compute, Cut, Deny, FetchKeys, ReadBody
from mlguard.quotas import RouteLimit
from mlguard.reference import Reference
from mlguard.settings import Rate
from tests.core.guards import (
    AUTH,
    ISSUER,
    MODEL,
    ROW,
    SETTINGS,
    Drive,
    answered,
    at,
    call,
    guarded,
    handling,
    in_a_thread,
    instances,
    metric,
    on_a_loop,
    predictions,
    sent,
    served,
    token,
)
from tests.servers import wait_until

PER_MINUTE = Rate(text="2/minute", limit=2, seconds=60)


class Fixed(Random):
    """Chance that always falls alike."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


def inference(guard: Guard, model: str, rows: Any) -> Running:
    return Running(guard.inference(model, rows))


def code(deny: Deny | None) -> str | None:
    return deny.code if deny else None


def decide(exchange: Exchange, route: str | None = "/predict") -> Steps:
    return exchange.matched(at(exchange, route))


def refused(steps: Steps) -> Deny:
    """Tell how a decision refuses, without asking for anything first."""
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert isinstance(stop.value.value, Deny)
    return stop.value.value


def left(guard: Guard, subject: str = "alice") -> int:
    """Tell how many rows a caller may still ask: by asking them, each in vain."""
    for rows in range(100, 0, -1):
        exchange = guard.open(call(subject))
        if in_a_thread(exchange, "/predict", instances(rows)) is None:
            answered(exchange, 400)
            return rows
        exchange.closed()
    return 0


ROWS_ONLY = SETTINGS | {"quotas": {"rows": ["100/hour"]}}


@pytest.fixture(params=[in_a_thread, on_a_loop])
def driven(request: pytest.FixtureRequest) -> Drive:
    """Either driver: what a thread decides and what an event loop decides is the same."""
    drive: Drive = request.param
    return drive


UNREADABLE = [
    pytest.param(b"[0," * 300, id="deep"),
    pytest.param(b"\x1f\x8b", id="packed"),
    pytest.param(b'{"instances": [' + b"1," * 300, id="cut off"),
]


class TestOrder:
    def test_who_before_what(self) -> None:
        """Without a token no byte of the body is asked for."""
        assert refused(decide(guarded().open(call(None)))).code == "token_missing"

    def test_may_before_what(self) -> None:
        """Without the scope no byte of the body is asked for."""
        header = (f"Bearer {token(scope='other')}",)

        deny = refused(decide(guarded().open(call(authorization=header))))

        assert (deny.status, deny.code) == (403, "scope_missing")

    @pytest.mark.parametrize(
        ("head", "code"),
        [({"uri": 1025}, "uri_too_long"), ({"longest": 2000}, "header_too_large")],
        ids=["path and query", "a header"],
    )
    def test_the_head_before_anything(self, head: dict[str, Any], code: str) -> None:
        """A head that is too long is refused before anything else."""
        source = SETTINGS | {"service": {"max_uri": 1024, "max_header": 1024}}
        exchange = guarded(source).open(call(None, **head))

        deny = exchange.opened()

        assert deny is not None
        assert (deny.code, exchange.principal, exchange.decided) == (code, None, True)

    def test_a_head_that_just_fits(self) -> None:
        """A path and a query of as many bytes as the service takes are looked at."""
        source = SETTINGS | {"service": {"max_uri": 1024}}
        exchange = guarded(source).open(call(None, path="/" * 1000, query="q" * 24, uri=1024))

        assert exchange.opened() is None
        assert in_a_thread(exchange, "/health", b"") is None

    def test_announced_size_before_the_body(self) -> None:
        """A body that says it is too large is refused unread."""
        deny = refused(decide(guarded().open(call(content_length=10_001))))

        assert (deny.status, deny.code) == (413, "body_too_large")

    def test_the_body_before_the_debit(self) -> None:
        """The body is asked for with its bounds; until it is there, nothing is charged."""
        guard = guarded()

        assert next(decide(guard.open(call()))) == ReadBody(10_000, 30)
        assert served(guard, 100) is None

    def test_known_windows_before_the_body(self) -> None:
        """Who is known to have spent a window is refused before the body is read."""
        guard = guarded(SETTINGS | {"quotas": {"requests": ["1/hour"]}})
        answers = [served(guard, 1), served(guard, 1)]

        deny = refused(decide(guard.open(call())))

        assert [code(answer) for answer in answers] == [None, "rate_exceeded"]
        assert deny.code == "rate_exceeded"
        assert code(served(guard, 1, subject="bob")) is None

    def test_known_windows_of_rows(self) -> None:
        """Rows that are known to be spent refuse the next call of that model unread, no other."""
        guard = guarded(ROWS_ONLY)
        answers = [served(guard, 100), served(guard, 1)]

        deny = refused(decide(guard.open(call())))

        assert [code(answer) for answer in answers] == [None, "quota_exceeded"]
        assert deny.code == "quota_exceeded"
        assert in_a_thread(guard.open(call()), "/me", b"") is None

    @pytest.mark.parametrize(
        ("body", "status", "expected"),
        [
            (b"x" * 10_001, 413, "body_too_large"),
            (Cut.TOO_LARGE, 413, "body_too_large"),
            (Cut.TOO_SLOW, 408, "body_timeout"),
            (Cut.LEFT, 499, "client_left"),
        ],
        ids=["beyond the limit", "too large", "too slow", "left"],
    )
    def test_bodies_that_are_not_whole(
        self, driven: Drive, body: bytes | Cut, status: int, expected: str
    ) -> None:
        """A body that is too large, comes too late or never ends is refused, and costs no rows."""
        guard = guarded()
        exchange = guard.open(call())

        deny = driven(exchange, "/predict", body)
        exchange.closed()

        assert deny is not None
        assert (deny.status, deny.code) == (status, expected)
        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_response_status_code=str(status)) == 1
        assert served(guard, 100) is None

    def test_what_is_refused_unread_costs_nothing(self, driven: Drive) -> None:
        """What is refused before its body is read spent nothing."""
        guard = guarded()
        refusals = [
            driven(guard.open(call(None)), "/predict", instances(1)),
            driven(guard.open(call(content_length=10**9)), "/predict", b""),
        ]

        assert [code(deny) for deny in refusals] == ["token_missing", "body_too_large"]
        assert served(guard, 100) is None
        assert [served(guard, 0, status=400) for _ in range(4)] == [None] * 4
        assert code(served(guard, 0)) == "rate_exceeded"

    def test_a_body_that_was_read_is_a_request(self, driven: Drive) -> None:
        """A request whose body was read counts as a request, though its rows are refused."""
        guard = guarded()
        denies = [driven(guard.open(call()), "/predict", instances(101)) for _ in range(5)]

        assert {code(deny) for deny in denies} == {"batch_exceeds_quota"}
        assert code(driven(guard.open(call()), "/me", b"")) == "rate_exceeded"

    def test_refused_rows_are_not_charged(self, driven: Drive) -> None:
        """Rows that are refused are not charged: all or nothing."""
        guard = guarded()
        assert served(guard, 60) is None

        assert code(driven(guard.open(call()), "/predict", instances(41))) == "quota_exceeded"
        assert served(guard, 40) is None

    def test_public_routes(self, driven: Drive) -> None:
        """A public route asks for nothing, charges nothing and knows nobody."""
        guard = guarded()
        for _ in range(10):
            exchange = guard.open(call(None))
            assert driven(exchange, "/health", b"") is None
            assert exchange.principal is None
            assert exchange.headers == ()

    def test_public_routes_of_models(self, driven: Drive) -> None:
        """On a public route of a model rows are charged, to the client's network."""
        public = SETTINGS | {"auth": AUTH | {"public": ["/predict"]}}
        guard = guarded(public)

        def ask(peer: str, rows: int) -> str | None:
            return code(driven(guard.open(call(None, peer=peer)), "/predict", instances(rows)))

        assert [ask("10.0.0.1", 60), ask("10.0.0.1", 60), ask("10.0.0.2", 60)] == [
            None,
            "quota_exceeded",
            None,
        ]

    @pytest.mark.parametrize("route", [None, "", "/health/", "/HEALTH", "/health/x", "/nowhere"])
    def test_what_is_not_public(self, driven: Drive, route: str | None) -> None:
        """Only exactly the public templates are public; what matched nothing is not."""
        assert code(driven(guarded().open(call(None)), route, b"")) == "token_missing"

    def test_routes_without_a_model(self, driven: Drive) -> None:
        """Any other route costs a request and reads no body."""
        guard = guarded()
        exchange = guard.open(call())

        assert driven(exchange, "/me", b"x" * 100_000) is None
        assert exchange.run is None
        assert dict(exchange.headers)["RateLimit"] == '"requests-3600";r=4;t=3600'

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_get_is_no_inference(self, driven: Drive, method: str) -> None:
        """GET of a model's route, without a body, is a request and no inference."""
        guard = guarded()
        request = call(has_body=False)
        request.method = method
        exchange = guard.open(request)

        assert driven(exchange, "/predict", instances(101)) is None
        assert exchange.run is None
        assert dict(exchange.headers)["RateLimit"] == '"requests-3600";r=4;t=3600'

    def test_a_get_with_a_body_is(self, driven: Drive) -> None:
        """GET of a model's route with a body is an inference as any other."""
        request = call()
        request.method = "GET"
        exchange = guarded().open(request)

        assert driven(exchange, "/predict", instances(3)) is None
        assert exchange.run is not None
        assert exchange.run.inference.rows == 3

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"null", b'{"instances": 7}', b"\xff", b'{"instances": [1.0, 2.0]}'],
        ids=lambda body: repr(body[:16]),
    )
    def test_bodies_without_rows(self, driven: Drive, body: bytes) -> None:
        """What can hold no more than a row costs one, and is the handler's business."""
        exchange = guarded().open(call())

        assert driven(exchange, "/predict", body) is None
        assert exchange.run is not None
        assert exchange.run.inference.rows == 1
        assert '"rows-3600";r=99' in dict(exchange.headers)["RateLimit"]

    @pytest.mark.parametrize("body", UNREADABLE)
    def test_bodies_that_may_hold_too_much(self, driven: Drive, body: bytes) -> None:
        """What cannot be read, and could hold more than a quota admits, is told to be readable."""
        deny = driven(guarded().open(call()), "/predict", body)

        assert deny is not None
        assert (deny.status, deny.code) == (422, "rows_unreadable")
        assert deny.more == {"largest_batch": 100}

    @pytest.mark.parametrize("body", UNREADABLE)
    @pytest.mark.parametrize("status", [200, 400], ids=["answered", "refused"])
    def test_bodies_that_may_hold_much(self, driven: Drive, body: bytes, status: int) -> None:
        """Where it fits it is charged what its bytes could hold, unless the handler refuses it."""
        guard = guarded(SETTINGS | {"quotas": {"rows": ["5000/hour"]}})
        exchange = guard.open(call())

        assert driven(exchange, "/predict", body) is None
        assert exchange.run is not None
        reserved = exchange.run.inference.rows
        answered(exchange, status)

        assert reserved > 100
        assert metric(guard, "mlguard_inference_rows_total") == (reserved if status == 200 else 0)
        spent = reserved if status == 200 else 0
        assert code(served(guard, 5001 - spent, status=400)) is not None
        assert served(guard, min(400, 5000 - spent), status=400) is None

    @pytest.mark.parametrize(
        ("peer", "forwarded", "client"),
        [
            ("203.0.113.7", ("10.0.0.1",), "203.0.113.7"),
            ("10.0.0.1", ("203.0.113.7",), "203.0.113.7"),
            ("2001:db8::1", (), "2001:db8::/64"),
            ("", (), ""),
        ],
    )
    def test_without_authentication(
        self, driven: Drive, peer: str, forwarded: tuple[str, ...], client: str
    ) -> None:
        """Without authentication the client's network is who calls."""
        source = {k: v for k, v in SETTINGS.items() if k != "auth"}
        source["service"] = {"trusted_proxies": ["10.0.0.0/8"]}
        exchange = guarded(source).open(call(None, peer=peer, forwarded=forwarded))

        assert driven(exchange, "/predict", instances(1)) is None
        assert exchange.principal is not None
        assert exchange.principal.key == ("", "", client)

    def test_own_scopes(self, driven: Drive) -> None:
        """What a handler demands is demanded on its route, beyond the settings' scopes."""
        guard = guarded()

        def ask(route: str, demanded: str, **claims: Any) -> str | None:
            exchange = guard.open(call(authorization=(f"Bearer {token(**claims)}",)))
            bound = exchange.bind("", route, frozenset([demanded]))
            return code(drive(exchange.matched(bound)))

        assert ask("/me", "admin") == "scope_missing"
        assert ask("/me", "admin", scope="admin") == "scope_missing"
        assert ask("/me", "admin", scope="predict admin") is None
        assert ask("/health", "admin") == "scope_missing"

    def test_declared_limits(self, driven: Drive) -> None:
        """What a handler declares is charged with the rest, on a public route too."""
        guard = guarded()
        limit = RouteLimit(PER_MINUTE, 1, "/health f", None, "Not so fast.")

        def ask() -> Deny | None:
            exchange = guard.open(call(None, peer="10.0.0.1"))
            return drive(exchange.matched(at(exchange, "/health"), (limit,)))

        answers = [ask(), ask(), ask()]

        assert [code(deny) for deny in answers] == [None, None, "rate_exceeded"]
        assert answers[2] is not None
        assert answers[2].title == "Not so fast."


class TestAnswers:
    def test_the_problem_document(self) -> None:
        """A refusal is one document: status, headers and bytes (RFC 9457)."""
        exchange = guarded().open(call(None))
        in_a_thread(exchange, "/predict", b"")

        status, headers, body = exchange.answer()

        assert status == 401
        assert dict(headers) == {
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
            "WWW-Authenticate": "Bearer",
        }
        assert json.loads(body) == {
            "type": "urn:mlguard:problem:token_missing",
            "title": "A bearer token is required.",
            "status": 401,
            "code": "token_missing",
        }

    def test_who_is_known_is_told_the_windows(self) -> None:
        """A refusal that is about no quota says which windows hold, to a caller who is known."""
        exchange = guarded().open(call(authorization=(f"Bearer {token(scope='other')}",)))
        in_a_thread(exchange, "/predict", b"")

        assert dict(exchange.answer()[1])["RateLimit-Policy"] == (
            '"requests-3600";q=5;w=3600, "rows-3600";q=100;w=3600'
        )

    def test_only_refusals_have_one(self) -> None:
        """Asking for the refusal of an admitted request is a mistake of ours."""
        exchange = guarded().open(call())
        in_a_thread(exchange, "/me", b"")

        with pytest.raises(AssertionError):
            exchange.answer()

    def test_what_is_counted(self) -> None:
        """Requests, decisions and refusals are counted once each, by bounded labels."""
        guard = guarded()
        served(guard, 60)
        served(guard, 60)
        exchange = guard.open(call(None))
        in_a_thread(exchange, None, b"")
        for _ in "12":
            exchange.closed()

        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_route="/predict", http_response_status_code="200") == 1
        assert metric(guard, count, http_route="/predict", http_response_status_code="429") == 1
        assert metric(guard, count, http_route="", http_response_status_code="401") == 1
        assert metric(guard, "http_server_active_requests") == 0
        assert metric(guard, "mlguard_auth_total", outcome="ok") == 2
        assert metric(guard, "mlguard_auth_total", outcome="token_missing") == 1
        assert metric(guard, "mlguard_quota_refused_total", model="iris") == 1
        assert metric(guard, "mlguard_inference_rows_total", model="iris", version="3") == 60

    def test_how_long_it_took(self) -> None:
        """Times run from the first byte in: to the first byte out, and to the last."""
        now = [7200.0]
        guard = guarded(timer=lambda: now[0])
        exchange = guard.open(call())
        now[0] += 1
        in_a_thread(exchange, "/predict", instances(1))
        now[0] += 2
        exchange.handler_started()
        now[0] += 4
        exchange.end_run(200)
        exchange.started(200)
        now[0] += 8
        exchange.chunk()
        now[0] += 16
        exchange.chunk()
        exchange.ended()
        now[0] += 32
        exchange.closed()

        assert metric(guard, "mlguard_inference_wait_seconds_sum") == 2
        assert metric(guard, "mlguard_inference_duration_seconds_sum") == 4
        assert metric(guard, "mlguard_first_byte_seconds_sum") == 15
        assert metric(guard, "http_server_request_duration_seconds_sum") == 31


class TestSettling:
    @pytest.mark.parametrize(
        ("status", "predicted", "remaining"),
        [
            pytest.param(200, 40, 60, id="as asked"),
            pytest.param(200, None, 60, id="not read"),
            pytest.param(200, 10, 60, id="fewer answered"),
            pytest.param(200, 70, 30, id="more answered"),
            pytest.param(200, 100, 0, id="all answered"),
            pytest.param(400, None, 100, id="not asked"),
            pytest.param(422, 40, 100, id="invalid"),
            pytest.param(500, None, 100, id="failed"),
        ],
    )
    def test_the_larger_of_asked_and_answered(
        self, status: int, predicted: int | None, remaining: int
    ) -> None:
        """A request costs the larger of the rows asked and answered; a failed one costs none."""
        guard = guarded(ROWS_ONLY)
        assert served(guard, 40, status=status, predicted=predicted) is None

        assert left(guard) == remaining

    @pytest.mark.parametrize(
        ("predicted", "remaining"), [(None, 96), (1, 99), (3, 97), (4, 96), (7, 93)], ids=str
    )
    def test_doubtful_rows(self, predicted: int | None, remaining: int) -> None:
        """Of rows that can be read in two ways most are reserved; the answer tells which it was."""
        guard = guarded(ROWS_ONLY)
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", b'{"instances": [1, 2, 3, 4, 5, 6, 7, 8]}')
        answered(exchange, 200, None if predicted is None else predictions(predicted))

        assert left(guard) == remaining

    def test_an_answer_that_cannot_be_paid(self) -> None:
        """An answer of more rows than the caller has left is withheld; what was asked is paid."""
        guard = guarded(ROWS_ONLY)
        assert served(guard, 50) is None

        deny = served(guard, 40, predicted=51)

        assert deny is not None
        assert (deny.status, deny.code) == (429, "answer_withheld")
        assert "Retry-After" in dict(deny.headers)
        assert left(guard) == 10
        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_response_status_code="429") >= 1

    def test_an_answer_that_never_can(self) -> None:
        """One that no window would ever admit is withheld without saying when to come back."""
        deny = served(guarded(ROWS_ONLY), 40, predicted=141)

        assert deny is not None
        assert (deny.code, "Retry-After" in dict(deny.headers)) == ("answer_withheld", False)

    def test_what_an_answer_says(self) -> None:
        """The headers of an answer that cost more than was reserved say what is left after it."""
        guard = guarded(ROWS_ONLY)
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(40))
        answered(exchange, 200, predictions(70))

        assert dict(exchange.headers)["RateLimit"] == '"rows-3600";r=30;t=3600'

    @pytest.mark.parametrize(
        ("media_type", "length", "holds"),
        [
            ("application/json", None, True),
            ("application/json", 10_000, True),
            ("application/problem+json; charset=utf-8", 5, True),
            ("application/json", 10_001, False),
            ("text/plain", 5, False),
            ("", None, False),
        ],
    )
    def test_which_answers_are_held(
        self, media_type: str, length: int | None, *, holds: bool
    ) -> None:
        """JSON is held that is no larger than a body may be; anything else goes on as it comes."""
        with handling(guarded(), "/predict", instances(1)) as exchange:
            assert (exchange.held_answer(media_type, length) is not None) is holds

    def test_answers_of_routes_without_a_model(self) -> None:
        """Nobody's answer but a model's is held."""
        with handling(guarded()) as exchange:
            assert exchange.held_answer("application/json", 5) is None

    def test_an_answer_that_grows_too_large(self) -> None:
        """An answer that turns out to be too large is held no longer."""
        with handling(guarded(), "/predict", instances(1)) as exchange:
            held = exchange.held_answer("application/json", None)
            assert held is not None

            assert [held.add(b"x" * 5000), held.add(b"x" * 5000), held.add(b"x")] == [
                True,
                True,
                False,
            ]

    def test_lifetimes_forgive_nothing(self) -> None:
        """Rows beyond what was reserved count in a lifetime in full, once they were predicted."""
        guard = guarded(SETTINGS | {"quotas": {"lifetime": 100, "store": "redis://nowhere"}})
        with handling(guard, "/predict", instances(1)) as exchange:
            with inference(guard, "iris", [ROW]) as run:
                run.predictions = [0] * 350
            answered(exchange)

        deny = served(guard, 1)

        assert deny is not None
        assert (deny.code, deny.more) == ("quota_lifetime_spent", {"remaining": 0})
        assert metric(guard, "mlguard_quota_debt_total", unit="rows") == 349

    def test_the_handlers_exception(self) -> None:
        """An exception is counted by its class, refunded, and no row is answered."""
        guard = guarded()
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(100))

        exchange.failed(ZeroDivisionError())
        exchange.closed()

        errors = "mlguard_inference_errors_total"
        assert metric(guard, errors, model="iris", error_type="ZeroDivisionError") == 1
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 0
        assert served(guard, 100) is None

    def test_an_error_answer(self) -> None:
        """A 5xx answer is counted by its status."""
        guard = guarded()
        served(guard, 5, status=503)

        errors = "mlguard_inference_errors_total"
        assert metric(guard, errors, model="iris", error_type="503") == 1

    def test_tried_again(self) -> None:
        """What became of one dispatch says nothing of the next, and is refunded where it failed."""
        guard = guarded(ROWS_ONLY)
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(40))
        exchange.failed(ZeroDivisionError())
        exchange.dispatching()
        assert in_a_thread(exchange, "/predict", instances(40)) is None
        answered(exchange, 200, predictions(40))

        assert left(guard) == 60
        assert metric(guard, "mlguard_inference_errors_total", error_type="ZeroDivisionError") == 1
        assert metric(guard, "mlguard_inference_rows_total") == 40

    def test_once(self) -> None:
        """An inference ends once, however often an adapter says so."""
        guard = guarded()
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(2))

        for _ in range(3):
            exchange.end_run(200)
        sent(exchange, 200)

        assert metric(guard, "mlguard_inference_duration_seconds_count", model="iris") == 1

    @pytest.mark.parametrize("begun", [False, True], ids=["no byte", "a stream"])
    def test_who_leaves_has_had_the_model(self, *, begun: bool) -> None:
        """Who leaves while the model runs, or streams, pays for what was asked."""
        guard = guarded(ROWS_ONLY)
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(40))
        if begun:
            exchange.started(200)
            exchange.chunk()
        exchange.left()
        exchange.closed()

        assert left(guard) == 60
        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_response_status_code="499") == 1

    def test_who_leaves_a_refusal(self) -> None:
        """Who leaves while the handler's own refusal streams has had no model."""
        guard = guarded(ROWS_ONLY)
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(40))
        exchange.started(422)
        exchange.chunk()
        exchange.left()
        exchange.closed()

        assert left(guard) == 100


class TestInHandlers:
    def test_spends(self) -> None:
        """A handler's inference is charged to its caller, and refused where it does not fit."""
        guard = guarded()
        with handling(guard) as exchange:
            with inference(guard, "own", [ROW] * 60) as run:
                run.predictions = [0] * 60
            with pytest.raises(Refused) as refused, inference(guard, "own", 60):
                raise AssertionError("the model was asked")

        assert refused.value.deny.code == "quota_exceeded"
        exchange.refuse(refused.value.deny)
        assert exchange.answer()[0] == 429
        sent(exchange, 429)
        assert metric(guard, "mlguard_inference_rows_total", model="own") == 60

    def test_whatever_catches_a_refusal(self) -> None:
        """An error that became of a refusal on its way out is that refusal."""
        guard = guarded()
        with handling(guard) as exchange, pytest.raises(Refused), inference(guard, "own", 101):
            pass

        deny = exchange.started(500)

        assert code(deny) == "batch_exceeds_quota"
        assert exchange.answer()[0] == 422
        exchange.ended()
        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_response_status_code="422") == 1

    def test_a_refusal_that_is_made_good(self) -> None:
        """A handler that answers in another way than the model's is not refused."""
        guard = guarded()
        with handling(guard) as exchange, pytest.raises(Refused), inference(guard, "own", 101):
            pass

        assert exchange.started(200) is None

    def test_a_refusal_that_comes_too_late(self) -> None:
        """When a byte has left, the answer stays what it was."""
        guard = guarded()
        with handling(guard) as exchange:
            exchange.started(200)
            exchange.chunk()
            with pytest.raises(Refused), inference(guard, "own", 101):
                pass

        assert exchange.started(500) is None

    def test_predictions_that_cannot_be_paid(self) -> None:
        """Predictions of more rows than the caller has left are withheld: it raises on leaving."""
        guard = guarded(ROWS_ONLY)
        with (
            handling(guard) as exchange,
            pytest.raises(Refused) as refused,
            inference(guard, "own", 10) as run,
        ):
            run.predictions = [0] * 101

        assert refused.value.deny.code == "answer_withheld"
        assert code(exchange.refusal_in(ValueError())) == "answer_withheld"
        assert metric(guard, "mlguard_quota_refused_total", code="answer_withheld") == 1
        assert getattr(self.asked(guard, 91), "code", None) == "quota_exceeded"
        assert self.asked(guard, 90) is None

    @staticmethod
    def asked(guard: Guard, rows: int) -> Deny | None:
        with handling(guard):
            try:
                with inference(guard, "own", rows):
                    return None
            except Refused as refused:
                return refused.deny

    def test_no_second_request(self) -> None:
        """Inferences of one request are one request; the answer says what is left of both."""
        guard = guarded()
        with handling(guard) as exchange:
            for _ in range(20):
                with inference(guard, "own", 1):
                    pass

        assert '"requests-3600";r=4;t=3600' in dict(exchange.headers)["RateLimit"]
        assert '"rows-3600";r=80;t=3600' in dict(exchange.headers)["RateLimit"]

    def test_on_a_loop(self) -> None:
        """Async code says `async with`, and gets the same."""
        guard = guarded()

        async def handler() -> None:
            async with inference(guard, "own", 60) as run:
                assert run.rows == 60
            async with inference(guard, "own", 60):
                raise AssertionError("the model was asked")

        with handling(guard), pytest.raises(Refused):
            asyncio.run(handler())

    def test_blocking_on_a_loop(self) -> None:
        """The blocking form on an event loop is an error that says what to write."""
        guard = guarded()

        async def handler() -> None:
            with inference(guard, "own", 1):
                pass

        with pytest.raises(BlockingCall, match=r"async with guard\.inference"):
            asyncio.run(handler())

    def test_blocking_in_a_worker_thread(self) -> None:
        """A sync handler in a thread of the loop may block."""
        guard = guarded()

        def handler() -> int:
            with inference(guard, "own", 3) as run:
                return run.rows

        async def main() -> int:
            return await asyncio.to_thread(handler)

        assert asyncio.run(main()) == 3

    def test_outside_of_a_request(self) -> None:
        """Without a request there is nobody to charge: the model runs, and is measured."""
        guard = guarded()
        with inference(guard, "own", 10**6):
            pass

        assert guard.caller() is None
        assert metric(guard, "mlguard_inference_rows_total", model="own") == 10**6

    def test_after_the_request(self) -> None:
        """An inference that outlives its request is charged, and told alone."""
        guard = guarded()
        with handling(guard) as exchange, inference(guard, "own", 60):
            sent(exchange, 200)

        assert metric(guard, "http_server_request_duration_seconds_count") == 1
        assert metric(guard, "mlguard_inference_rows_total", model="own") == 60
        assert code(self.asked(guard, 41)) == "quota_exceeded"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("iriss", "did you mean 'iris'?"),
            ("xyzzy", "valid: iris, own"),
            ("", "valid: iris, own"),
        ],
    )
    def test_unknown_models(self, name: str, said: str) -> None:
        """A model that the settings lack is told with the nearest one."""
        with pytest.raises(UnknownModel) as caught:
            guarded().inference(name, 1)

        assert str(caught.value) == f"no model is named {name!r}; {said}"

    def test_the_caller(self) -> None:
        """The caller is known while the request is handled."""
        guard = guarded()
        with handling(guard):
            caller = guard.caller()

        assert caller is not None
        assert caller.subject == "alice"
        assert guard.caller() is None

    def test_scopes(self) -> None:
        """A handler may demand scopes itself, of its caller alone."""
        guard = guarded()
        with handling(guard):
            guard.demand(frozenset(["predict"]))
            with pytest.raises(Refused) as missing:
                guard.demand(frozenset(["admin"]))
        with pytest.raises(Refused) as nobody:
            guard.demand(frozenset(["predict"]))

        assert (missing.value.deny.code, nobody.value.deny.code) == (
            "scope_missing",
            "token_missing",
        )

    def test_scopes_of_a_model(self) -> None:
        """A model that needs scopes needs them in a handler of any route."""
        guard = guarded(SETTINGS | {"models": [MODEL, {"name": "own", "scopes": ["own"]}]})

        with handling(guard), pytest.raises(Refused) as refused, inference(guard, "own", 1):
            raise AssertionError("the model was asked")

        assert refused.value.deny.code == "scope_missing"

    def test_what_a_handler_raises(self) -> None:
        """An exception passes through, is counted and refunded."""
        guard = guarded()
        with handling(guard) as exchange:
            with pytest.raises(KeyError), inference(guard, "own", 100):
                raise KeyError("x")
            with inference(guard, "own", 100):
                pass
        sent(exchange, 200)

        assert metric(guard, "mlguard_inference_errors_total", error_type="KeyError") == 1

    def test_what_a_handler_refuses(self) -> None:
        """A framework's own 4xx is an answer: the model was not asked, and nothing failed."""

        class Unprocessable(Exception):
            status_code = 422

        guard = guarded()
        with handling(guard) as exchange:
            with pytest.raises(Unprocessable), inference(guard, "own", 100):
                raise Unprocessable
            with inference(guard, "own", 100):
                pass
        sent(exchange, 200)

        assert metric(guard, "mlguard_inference_errors_total") == 0
        assert metric(guard, "mlguard_inference_rows_total", model="own") == 100

    def test_another_version(self) -> None:
        """A handler says which version answered."""
        guard = guarded()
        with inference(guard, "own", 2) as run:
            run.version = "4-canary"

        assert metric(guard, "mlguard_inference_rows_total", model="own", version="4-canary") == 2

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            (0, 0),
            (7, 7),
            ([], 0),
            ([ROW], 1),
            (np.zeros((4, 2)), 4),
            pytest.param(np.int64(7), 7),
        ],
        ids=repr,
    )
    def test_rows_or_how_many(self, rows: Any, expected: int) -> None:
        """A handler gives the rows, or how many they are."""
        assert guarded().inference("own", rows).inference.rows == expected

    def test_less_than_nothing(self) -> None:
        """A number of rows that a client may have computed gives no quota while it runs."""
        guard = guarded()

        def handler() -> None:
            with inference(guard, "own", -1000), inference(guard, "own", 100):
                inference(guard, "own", 100).__enter__()

        with handling(guard) as exchange, pytest.raises((ValueError, Refused)):
            handler()
        assert exchange.deny is None

    def test_limits_that_the_decision_did_not_see(self) -> None:
        """A limit that the handler itself looks at is charged then, and refuses."""
        guard = guarded()
        limit = RouteLimit(PER_MINUTE, 1, "/me f late", "declared")
        with handling(guard) as exchange:
            answers = [drive(exchange.limit((limit,))) for _ in range(3)]

        assert [code(deny) for deny in answers] == [None, None, "rate_exceeded"]
        assert exchange.limited == {"declared"}
        assert code(exchange.refusal_in(ValueError())) == "rate_exceeded"


class TestJoined:
    """A handler that names the model whose inference the settings have opened already."""

    def test_charged_once(self) -> None:
        """It is one inference: charged, measured and counted once."""
        guard = guarded()
        with handling(guard, "/predict", instances(60)) as exchange:
            with inference(guard, "iris", [ROW] * 60) as run:
                run.version = "4"
            answered(exchange, 200, predictions(60))

        assert metric(guard, "mlguard_inference_duration_seconds_count") == 1
        assert metric(guard, "mlguard_inference_rows_total", version="4") == 60
        assert served(guard, 40) is None
        assert code(served(guard, 1)) == "quota_exceeded"

    def test_on_a_loop(self) -> None:
        """It is joined by `async with` too, and the blocking form is an error there too."""
        guard = guarded()

        async def handler() -> int:
            async with inference(guard, "iris", [ROW] * 2) as run:
                return run.rows

        async def blocking() -> None:
            with inference(guard, "iris", [ROW] * 2):
                pass

        with handling(guard, "/predict", instances(2)):
            assert asyncio.run(handler()) == 2
            with pytest.raises(BlockingCall):
                asyncio.run(blocking())

    def test_another_model_is_another_inference(self) -> None:
        """Another model in the same handler is charged for itself."""
        guard = guarded()
        with handling(guard, "/predict", instances(2)) as exchange:
            with inference(guard, "own", 5):
                pass
            answered(exchange)

        assert metric(guard, "mlguard_inference_rows_total", model="own") == 5
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 2

    def test_the_handler_knows_better(self) -> None:
        """Where the body did not show them, the rows that the handler gives are charged."""
        guard = guarded(ROWS_ONLY)
        with handling(guard, "/predict", b"\xff") as exchange:
            with inference(guard, "iris", [ROW] * 60):
                pass
            answered(exchange)

        assert left(guard) == 40

    def test_more_than_is_left(self) -> None:
        """Rows that the handler gives are refused where they cannot be paid."""
        guard = guarded(ROWS_ONLY)
        with handling(guard, "/predict", b"\xff") as exchange:
            with pytest.raises(Refused) as refused, inference(guard, "iris", [ROW] * 101):
                raise AssertionError("the model was asked")
            exchange.refuse(refused.value.deny)
            sent(exchange, refused.value.deny.status)

        assert left(guard) == 100

    def test_refunded_as_a_whole(self) -> None:
        """Where the model fails, what the handler added is given back too."""
        guard = guarded(ROWS_ONLY)
        with handling(guard, "/predict", instances(10)) as exchange:
            with inference(guard, "iris", [ROW] * 60):
                pass
            answered(exchange, 500)

        assert left(guard) == 100

    def test_predictions_are_answers(self) -> None:
        """Predictions that the handler sets are counted where the answer is not read."""
        guard = guarded(ROWS_ONLY)
        with handling(guard, "/predict", instances(1)) as exchange:
            with inference(guard, "iris", [ROW]) as run:
                run.predictions = [0] * 60
            answered(exchange)

        assert left(guard) == 40

    def test_predictions_that_cannot_be_paid(self) -> None:
        """Where the answer is held, predictions that cannot be paid withhold it."""
        guard = guarded(ROWS_ONLY)
        with handling(guard, "/predict", instances(1)) as exchange:
            with inference(guard, "iris", [ROW]) as run:
                run.predictions = [0] * 101

            assert code(answered(exchange, 200, b"{}")) == "answer_withheld"

        assert left(guard) == 99


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.parquet"
    Reference.build({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}).save(path)
    return path


def flying(
    guard: Guard, subject: str = "alice", route: str = "/predict"
) -> tuple[Exchange, Deny | None]:
    """Send a request that is still under way."""
    exchange = guard.open(call(subject))
    return exchange, in_a_thread(exchange, route, instances(1))


class TestFlights:
    def test_of_a_caller(self) -> None:
        """A caller has so many requests in flight; others have their own."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 2, "requests": ["100/hour"]}})
        first, _ = flying(guard)
        flying(guard)

        _, deny = flying(guard)
        assert deny is not None
        assert (deny.status, deny.code) == (429, "too_many_in_flight")
        assert "Retry-After" in dict(deny.headers)
        assert flying(guard, "bob")[1] is None
        for _ in "12":
            first.closed()

        assert [flying(guard)[1] is None for _ in "12"] == [True, False]
        assert metric(guard, "mlguard_quota_refused_total", code="too_many_in_flight") == 2

    def test_of_a_tenant(self) -> None:
        """A tenant's callers share what they have in flight, in one process too."""
        auth = AUTH | {"tenant_claim": "tid"}
        quotas = {"requests": ["100/hour"], "tenant": {"concurrency": 2}}
        guard = guarded(SETTINGS | {"auth": auth, "quotas": quotas})

        def fly(subject: str, tenant: str) -> bool:
            header = (f"Bearer {token(subject, tid=tenant)}",)
            exchange = guard.open(call(authorization=header))
            return in_a_thread(exchange, "/predict", instances(1)) is None

        assert [fly("alice", "acme"), fly("bob", "acme"), fly("carol", "acme")] == [
            True,
            True,
            False,
        ]
        assert fly("dave", "other")

    def test_dispatched_twice(self) -> None:
        """A request that a middleware dispatches twice is one in flight."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1}})
        exchange, _ = flying(guard)

        exchange.dispatching()
        assert in_a_thread(exchange, "/predict", instances(1)) is None
        exchange.closed()

        assert flying(guard)[1] is None

    def test_when_the_body_is_whole(self) -> None:
        """A place is taken when the body is whole: slow ones hold none meanwhile."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1, "max_in_flight": 1}})
        slow = decide(guard.open(call()))
        next(slow)

        other, deny = flying(guard)
        assert deny is None
        with pytest.raises(StopIteration) as stop:
            slow.send(instances(1))
        assert stop.value.value.code == "overloaded"
        other.closed()

        again = decide(guard.open(call()))
        next(again)
        with pytest.raises(StopIteration) as stop:
            again.send(instances(1))
        assert stop.value.value is None

    def test_refused_ones_end_too(self) -> None:
        """What is refused is in flight until it is answered, and no longer."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1, "rows": ["10/hour"]}})

        answers = [served(guard, 11) for _ in "123"]

        assert {code(deny) for deny in answers} == {"batch_exceeds_quota"}
        assert served(guard, 10) is None

    def test_a_socket_stays(self) -> None:
        """A WebSocket is in flight until it ends, not until it has begun."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1}})
        socket, _ = flying(guard)
        socket.started(101)
        assert code(flying(guard)[1]) == "too_many_in_flight"

        socket.closed()

        assert flying(guard)[1] is None

    def test_of_the_service(self) -> None:
        """A service with too much in flight sheds what comes, whoever sends it, but its health."""
        guard = guarded(SETTINGS | {"quotas": {"max_in_flight": 2}})
        first, _ = flying(guard)
        flying(guard, "bob")

        exchange, deny = flying(guard, "carol")
        assert deny is not None
        assert (deny.status, deny.code) == (503, "overloaded")
        assert flying(guard, "carol", "/health")[1] is None
        assert exchange.principal is None  # not even asked
        exchange.closed()
        assert code(flying(guard, "carol")[1]) == "overloaded"
        first.closed()
        assert flying(guard, "carol")[1] is None

    def test_threads(self) -> None:
        """No flight is lost or counted twice, whatever threads do at once."""
        guard = guarded(
            SETTINGS | {"quotas": {"concurrency": 4, "max_in_flight": 1000}}, timer=time.monotonic
        )

        def fly(_: int) -> None:
            for _ in range(50):
                flying(guard)[0].closed()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fly, range(8)))

        assert [flying(guard)[1] is None for _ in "12345"] == [True] * 4 + [False]


class TestUnmatched:
    def test_guesses_are_counted(self) -> None:
        """Requests that match no route are counted by the client's address, before the token."""
        guard = guarded(
            SETTINGS | {"quotas": {"rows": ["5/hour"], "unmatched_per_client": "3/minute"}}
        )

        def guess(peer: str) -> str | None:
            return code(in_a_thread(guard.open(call(None, peer=peer)), None, b""))

        answers = [guess("10.0.0.1") for _ in range(5)]

        assert answers == ["token_missing"] * 3 + ["rate_exceeded"] * 2
        assert guess("10.0.0.2") == "token_missing"

    def test_off(self) -> None:
        """They need not be counted."""
        guard = guarded({"quotas": {"rows": ["5/hour"], "unmatched_per_client": "off"}})
        for _ in range(1000):
            assert in_a_thread(guard.open(call(None, peer="10.0.0.1")), None, b"") is None


class TestExempt:
    def test_routes(self) -> None:
        """An exempt route costs nothing, of a model neither."""
        quotas = {"requests": ["1/hour"], "rows": ["1/hour"], "exempt": {"routes": ["/predict"]}}
        guard = guarded(SETTINGS | {"quotas": quotas})

        assert [served(guard, 100) for _ in "123"] == [None] * 3
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 300

    def test_answers(self) -> None:
        """Nor does an answer there that holds more than was asked."""
        quotas = {"rows": ["1/hour"], "exempt": {"routes": ["/predict"]}}
        guard = guarded(SETTINGS | {"quotas": quotas})

        assert served(guard, 1, predicted=1000) is None


class TestUnits:
    TOKENS: ClassVar[Any] = SETTINGS | {"quotas": {"units": {"tokens": ["100/hour"]}}}

    def tokens(self, **parts: Any) -> Guard:
        """Count ten tokens a row that is asked, and one more for each that is answered."""
        guard = guarded(self.TOKENS, **parts)
        guard.counts("tokens", lambda run: 10 * run.rows + len(run.predictions or ()))
        return guard

    def test_reserved(self) -> None:
        """Units are reserved before the model runs."""
        guard = self.tokens()
        assert served(guard, 6) is None

        assert code(served(guard, 5)) == "quota_exceeded"
        assert served(guard, 4) is None

    def test_settled(self) -> None:
        """What the answer took beyond that is charged when it is known, and counted apart."""
        guard = self.tokens()
        assert served(guard, 5, predicted=5) is None

        assert code(served(guard, 5)) == "quota_exceeded"
        assert metric(guard, "mlguard_quota_debt_total", model="iris", unit="tokens") == 5
        assert served(guard, 4) is None

    def test_withheld(self) -> None:
        """An answer that takes more units than are left is withheld."""
        guard = self.tokens()
        assert served(guard, 4) is None

        deny = served(guard, 6, predicted=6)

        assert deny is not None
        assert (deny.code, "tokens" in deny.title) == ("answer_withheld", True)

    def test_refunded(self) -> None:
        """A model that failed costs no units."""
        guard = self.tokens()

        assert [served(guard, 10, status=500) for _ in "123"] == [None] * 3

    def test_seconds_are_known_when_it_has_ended(self) -> None:
        """A function may charge the time that the model took."""
        times = itertools.count(7200, 0.03125)
        guard = guarded(self.TOKENS, timer=lambda: next(times))
        guard.counts("tokens", lambda run: int(1000 * (run.seconds or 0.001)))

        with handling(guard), inference(guard, "own", 1) as run:
            pass

        assert run.seconds is not None
        assert run.seconds >= 0.03125
        assert metric(guard, "mlguard_quota_debt_total", model="own", unit="tokens") >= 30

    def test_seconds_of_an_answer_that_is_held(self) -> None:
        """So it may where the answer is read."""
        times = itertools.count(7200, 0.03125)
        guard = guarded(self.TOKENS, timer=lambda: next(times))
        guard.counts("tokens", lambda run: int(1000 * (run.seconds or 0.001)))

        assert served(guard, 1, predicted=1) is None
        assert metric(guard, "mlguard_quota_debt_total", model="iris", unit="tokens") >= 30

    def test_a_function_that_fails_after_the_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        """What a function raises when the model has answered does not fail the answer."""
        guard = guarded(self.TOKENS)
        guard.counts("tokens", lambda run: 10 if run.seconds is None else 1 // 0)

        assert served(guard, 1) is None
        assert "could not be counted, and counts as 1: ZeroDivisionError" in caplog.text

    def test_a_unit_of_no_quota(self) -> None:
        """A function for what no quota limits is a mistake."""
        with pytest.raises(InvalidSettings, match="did you mean 'tokens'"):
            guarded(self.TOKENS).counts("token", lambda _: 1)


class Unindexed:
    """One row, that nobody can take out."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise OSError(index)


class Unlisted:
    def tolist(self) -> list[Any]:
        raise OverflowError


class TestDrift:
    @pytest.fixture
    def source(self, reference: Path) -> dict[str, Any]:
        model = {k: v for k, v in MODEL.items() if k != "features"}
        return {"models": [model | {"reference": str(reference)}, {"name": "own"}], "drift": {}}

    def ask(self, guard: Guard, body: Any, status: int = 200) -> None:
        exchange = guard.open(call(None))
        in_a_thread(exchange, "/predict", json.dumps({"instances": body}).encode())
        answered(exchange, status)
        guard.parts.recorder.fold()

    def test_one_row_a_request(self, source: dict[str, Any]) -> None:
        """Of an answered request one row is offered, in the order of the reference's features."""
        offered: list[tuple[Any, ...]] = []
        guard = guarded(source, offer=lambda *row: not offered.append(row))

        self.ask(guard, [[1, 2], [1, 2], [1, 2]])
        self.ask(guard, [{"b": 8, "a": 7}])

        assert offered == [("iris", "3", [1, 2], None), ("iris", "3", [7, 8], None)]
        assert metric(guard, "mlguard_drift_rows_observed_total") == 4
        assert metric(guard, "mlguard_drift_rows_sampled_total") == 2

    @pytest.mark.parametrize(("chance", "sampled"), [(0.4999, 1), (0.5, 0)])
    def test_a_share_of_requests(self, source: dict[str, Any], chance: float, sampled: int) -> None:
        """A share of the requests gives a row; all rows are observed."""
        source["drift"] = {"sample": 0.5}
        guard = guarded(source, offer=lambda *_: True, rng=Fixed(chance))

        self.ask(guard, [ROW] * 3)

        assert metric(guard, "mlguard_drift_rows_sampled_total") == sampled
        assert metric(guard, "mlguard_drift_rows_observed_total") == 3

    @pytest.mark.parametrize(("rows", "sampled"), [(0, 0), (2, 2), (50, 5)])
    def test_several_rows_a_request(self, source: dict[str, Any], rows: int, sampled: int) -> None:
        """So many rows of a request are taken at most, and never more than there are."""
        source["drift"] = {"rows_per_request": 5}
        guard = guarded(source, offer=lambda *_: True)

        self.ask(guard, [ROW] * rows)

        assert metric(guard, "mlguard_drift_rows_sampled_total") == sampled

    def test_rows_of_one_request_are_different_rows(self, source: dict[str, Any]) -> None:
        """Taking as many rows as there are takes each of them once."""
        source["drift"] = {"rows_per_request": 3}
        offered: list[Any] = []
        guard = guarded(source, offer=lambda *row: not offered.append(row[2]))

        self.ask(guard, [[1, 1], [2, 2], [3, 3]])

        assert sorted(offered) == [[1, 1], [2, 2], [3, 3]]

    @pytest.mark.parametrize("row", [[1], [1, 2, 3], [[1], 2], "x", None], ids=repr)
    def test_wrong_shapes(self, source: dict[str, Any], row: Any) -> None:
        """A row that is not of the features is counted as dropped, and never offered."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        self.ask(guard, [row])

        assert metric(guard, "mlguard_drift_rows_dropped_total", reason="shape") == 1

    def test_no_room(self, source: dict[str, Any]) -> None:
        """A row that nobody takes is counted as dropped."""
        guard = guarded(source, offer=lambda *_: False)

        self.ask(guard, [ROW])

        assert metric(guard, "mlguard_drift_rows_dropped_total", reason="queue_full") == 1
        assert metric(guard, "mlguard_drift_rows_sampled_total") == 0

    @pytest.mark.parametrize("status", [400, 422, 500])
    def test_what_was_not_answered(self, source: dict[str, Any], status: int) -> None:
        """Rows that the model did not answer say nothing of drift."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        self.ask(guard, [ROW], status)

        assert metric(guard, "mlguard_drift_rows_observed_total") == 0

    def test_counted_rows(self, source: dict[str, Any]) -> None:
        """A handler that gives only how many rows there are offers none."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        with inference(guard, "iris", 5):
            pass

        assert metric(guard, "mlguard_drift_rows_observed_total") == 5
        assert metric(guard, "mlguard_drift_rows_dropped_total", reason="unseen") == 1

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(Unindexed(), id="what cannot be indexed"),
            pytest.param([Unlisted()], id="what cannot be listed"),
            pytest.param([{1.0, 2.0}], id="a set"),
        ],
    )
    def test_observing_never_fails_the_request(self, source: dict[str, Any], rows: Any) -> None:
        """Rows that cannot be read are dropped: the model has answered, and so does the app."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        with inference(guard, "iris", rows):
            pass

        assert metric(guard, "mlguard_inference_duration_seconds_count", model="iris") == 1
        assert metric(guard, "mlguard_drift_rows_dropped_total", reason="unreadable") == 1
        assert metric(guard, "mlguard_degraded", part="observers") == 0

    def test_an_analyst_that_fails(self, source: dict[str, Any]) -> None:
        """Observers fail open: what takes the rows may break without breaking the answer."""

        def broken(*_: object) -> bool:
            raise OSError("no analyst")

        guard = guarded(source, offer=broken)
        self.ask(guard, [ROW])

        assert metric(guard, "mlguard_degraded", part="observers") == 1

    def test_models_without_a_reference(self, source: dict[str, Any]) -> None:
        """A model without a reference has nothing to be compared with."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        with inference(guard, "own", [ROW]):
            pass

        assert metric(guard, "mlguard_drift_rows_observed_total") == 0


class TestSpans:
    TRACED: ClassVar[Any] = SETTINGS | {"tracing": {"endpoint": "http://127.0.0.1:1"}}

    @pytest.fixture
    def exporter(self) -> InMemorySpanExporter:
        return InMemorySpanExporter()

    @pytest.fixture
    def provider(self, exporter: InMemorySpanExporter) -> TracerProvider:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider

    @pytest.fixture
    def ours(self, exporter: InMemorySpanExporter) -> Guard:
        """A guard that makes the server spans itself."""
        guard = guarded(self.TRACED)
        guard.parts.tracing.replace_for_tests(SimpleSpanProcessor(exporter))
        return guard

    def test_the_story_of_a_request(
        self, provider: TracerProvider, exporter: InMemorySpanExporter
    ) -> None:
        """The server span says who and what was decided; the inference is its child."""
        tracer = provider.get_tracer("test")
        guard = guarded(self.TRACED, provider)
        with tracer.start_as_current_span("POST /predict", kind=SpanKind.SERVER):
            exchange = guard.open(call(query="api_key=hunter2"))
            assert exchange.open_span() is None
            in_a_thread(exchange, "/predict", instances(2))
            assert exchange.run is not None
            with tracer.start_as_current_span("of the handler", exchange.run.context):
                pass
            answered(exchange, 200, predictions(3))

        handler, inference, server = exporter.get_finished_spans()
        assert server.attributes == {
            "url.query": "api_key=REDACTED",
            "mlguard.decision": "allow",
            "enduser.pseudo.id": f"{ISSUER}::alice",
        }
        assert inference.name == "inference iris"
        assert inference.attributes == {
            "mlguard.model.name": "iris",
            "mlguard.model.version": "3",
            "mlguard.inference.rows": 3,
        }
        assert inference.parent == server.context
        assert handler.parent == inference.context

    def test_ours(self, ours: Guard, exporter: InMemorySpanExporter) -> None:
        """Where the spans are ours, the server span says all of that, and how it ended."""
        exchange = ours.open(call(query="api_key=hunter2", host="example.org"))
        context = exchange.open_span()
        assert context is not None
        assert exchange.open_span() is None
        in_a_thread(exchange, "/predict", instances(2))
        answered(exchange, 200, predictions(2))

        inference, server = exporter.get_finished_spans()
        assert server.name == "POST /predict"
        assert server.kind is SpanKind.SERVER
        assert server.attributes is not None
        told = dict(server.attributes)
        assert told["http.route"] == "/predict"
        assert told["http.response.status_code"] == 200
        assert told["url.query"] == "api_key=REDACTED"
        assert told["mlguard.decision"] == "allow"
        assert told["enduser.pseudo.id"] == f"{ISSUER}::alice"
        assert inference.context is not None
        assert server.context is not None

    def test_what_answers_outside(self, ours: Guard, exporter: InMemorySpanExporter) -> None:
        """What answers before anybody opened a span has one all the same."""
        exchange = ours.open(call(None))
        exchange.started(405)
        exchange.ended()

        (server,) = exporter.get_finished_spans()
        assert server.name == "POST"
        assert server.attributes is not None
        assert server.attributes["http.response.status_code"] == 405

    @pytest.mark.parametrize(
        ("error", "named"),
        [(ValueError("hunter2"), "ValueError"), (None, "500")],
        ids=["raised", "answered"],
    )
    def test_failures(
        self,
        ours: Guard,
        exporter: InMemorySpanExporter,
        error: Exception | None,
        named: str,
    ) -> None:
        """A failed request says by what, and nothing of the exception's words."""
        exchange = ours.open(call())
        exchange.open_span()
        in_a_thread(exchange, "/me", b"")
        if error:
            exchange.failed(error)
        exchange.closed()

        (server,) = exporter.get_finished_spans()
        assert server.status.status_code is StatusCode.ERROR
        assert server.attributes is not None
        assert server.attributes["error.type"] == named
        assert "hunter2" not in server.to_json()

    def test_refusals(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        """A refused request says so, with the trace's id in the answer."""
        guard = guarded(self.TRACED, provider)
        with provider.get_tracer("test").start_as_current_span("POST", kind=SpanKind.SERVER) as s:
            exchange = guard.open(call(None))
            exchange.open_span()
            in_a_thread(exchange, "/predict", b"")

        (server,) = exporter.get_finished_spans()
        assert server.attributes == {
            "mlguard.decision": "deny",
            "mlguard.deny.code": "token_missing",
        }
        assert json.loads(exchange.answer()[2])["trace_id"] == format(
            s.get_span_context().trace_id, "032x"
        )

    def test_refused_handlers(self, ours: Guard, exporter: InMemorySpanExporter) -> None:
        """A handler that is refused makes a refusal of the whole request."""
        with handling(ours) as exchange:
            exchange.open_span()
            with pytest.raises(Refused), inference(ours, "own", 101):
                pass
        exchange.started(500)
        exchange.ended()

        (server,) = exporter.get_finished_spans()
        assert server.attributes is not None
        assert server.attributes["mlguard.deny.code"] == "batch_exceeds_quota"
        assert server.attributes["http.response.status_code"] == 422

    def test_errors(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        """A failed inference says by what, and nothing of the exception's words."""
        guard = guarded(self.TRACED, provider)

        with pytest.raises(ValueError, match="hunter2"), inference(guard, "own", 1):
            raise ValueError("hunter2")

        (span,) = exporter.get_finished_spans()
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "ValueError"
        assert "hunter2" not in span.to_json()


class TestTwoGuards:
    def test_nothing_is_shared(self) -> None:
        """Two guards in one process have their own callers, quotas and metrics."""
        one, other = guarded(), guarded()
        with handling(one, "/predict", instances(100)) as exchange:
            assert one.caller() is not None
            assert other.caller() is None
            with inference(other, "iris", 100):
                pass
            answered(exchange)

        assert served(other, 100) is None
        assert metric(one, "mlguard_inference_rows_total", model="iris") == 100
        assert metric(other, "mlguard_inference_rows_total", model="iris") == 200

    def test_one_inside_the_other(self) -> None:
        """A guarded app that asks who calls in a guarded app that does is a request of its own."""
        outer, inner = guarded(), guarded()
        with handling(outer) as around:
            with handling(inner, "/predict", instances(3)) as within:
                assert outer.caller() == around.principal
                assert inner.caller() == within.principal
            assert inner.caller() is None
            assert outer.caller() is not None

    @pytest.mark.parametrize(
        ("around", "asks", "shares"),
        [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
    )
    def test_who_watches(self, *, around: bool, asks: bool, shares: bool) -> None:
        """What a guard around watches is watched, unless only the inner one asks who calls."""
        nobody = {k: v for k, v in SETTINGS.items() if k != "auth"}
        exchange = guarded(SETTINGS if around else nobody).open(call())

        assert guarded(SETTINGS if asks else nobody).shares(exchange) is shares
        assert not guarded().shares(None)

    def test_services(self) -> None:
        """Two services have two registries and two keys for pseudonyms."""
        alone = {"service": {"host_file": False}, "tracing": {}}
        one, other = Service(alone), Service(alone)

        assert one.metrics.registry is not other.metrics.registry
        assert one.tracer_provider is not other.tracer_provider
        key = ("", "", "alice")
        assert one.guard.parts.pseudonym(key) == one.guard.parts.pseudonym(key)
        assert one.guard.parts.pseudonym(key) != other.guard.parts.pseudonym(key)


def test_routes_are_bound_once() -> None:
    """What holds for a route is found once, not with each request."""
    guard = guarded()

    assert guard.parts.bind("", "/predict") is guard.parts.bind("", "/predict")
    assert guard.parts.bind("", "/predict") is guard.open(call()).bind("", "/predict", frozenset())
    assert guard.parts.bind("", "/predict") is not guard.parts.bind("other.example.org", "/predict")
    assert guard.parts.bind("", "/predict") is not guard.parts.bind(
        "", "/predict", frozenset(["admin"])
    )


class TestDrivers:
    ALL_ROWS: ClassVar[Any] = {
        "models": [MODEL],
        "service": {"max_body": "50 MB"},
    }

    def test_large_bodies_leave_the_loop_alone(self) -> None:
        """While a large body is read the event loop goes on turning."""
        raw = b'{"instances": [' + b"[1,2]," * (LARGE // 2) + b"[1,2]]}"
        exchange = guarded(self.ALL_ROWS).open(call(None))

        async def read(*_: float) -> bytes:
            return raw

        async def main() -> int:
            turns = 0
            deciding = asyncio.ensure_future(adrive(decide(exchange), read))
            while not deciding.done():
                await asyncio.sleep(0)
                turns += 1
            return turns

        assert asyncio.run(main()) > 5
        assert exchange.run is not None
        assert exchange.run.inference.rows == LARGE // 2 + 1

    @pytest.mark.parametrize(("size", "elsewhere"), [(LARGE, True), (LARGE - 1, False)])
    def test_which_bodies_are_large(self, size: int, *, elsewhere: bool) -> None:
        """A small body is read at once, a large one by whoever drives the decision."""
        steps = decide(guarded(self.ALL_ROWS).open(call(None)))
        next(steps)

        body = instances(10).ljust(size)
        try:
            asked = isinstance(steps.send(body), Compute)
        except StopIteration:
            asked = False

        assert asked is elsewhere

    def test_large_answers(self) -> None:
        """A large answer is read elsewhere too."""
        with handling(guarded(self.ALL_ROWS), "/predict", instances(1)) as exchange:
            held = exchange.held_answer("application/json", None)
            assert held is not None
            held.add(predictions(LARGE))

            step = next(held.settle(200))

        assert isinstance(step, Compute)
        assert step.function()[0] == LARGE

    def test_a_decision_is_quick(self) -> None:
        """A decision that reads a hundred rows takes less than a handful of milliseconds."""
        guard = guarded({k: v for k, v in SETTINGS.items() if k != "quotas"})
        body, request = instances(100), call()

        def once() -> float:
            began = time.process_time()
            exchange = guard.open(request)
            in_a_thread(exchange, "/predict", body)
            answered(exchange)
            return time.process_time() - began

        assert min(once() for _ in range(50)) < 0.005


def test_few_threads_wait_for_a_slow_key_server() -> None:
    """Of many threads that need keys, two wait for them, the others for a moment only."""
    never: Future[None] = Future()
    patient = Semaphore(2)

    def steps() -> Generator[FetchKeys, None, None]:
        yield FetchKeys(never, 60, patient)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(drive, steps()) for _ in range(6)]
        wait_until(lambda: sum(f.done() for f in asked) == 4, "four have given up")
        never.set_result(None)

    assert all(f.done() for f in asked)


def test_a_model_that_runs_for_nobody_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Outside of a request nobody is charged, and the log says so once."""
    guard = guarded()
    for _ in range(3):
        with inference(guard, "own", 5):
            pass

    assert [r.getMessage() for r in caplog.records].count(
        "own was run outside of a request, for nobody: "
        "a thread needs the request's context, as asyncio.to_thread gives it"
    ) == 1
