"""In which order? The guard without a framework: calls in, verdicts out."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Semaphore
from typing import Any, ClassVar

import numpy as np
import pytest
from jose import jwt
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from mlguard.auth import Authenticator, Keyring, KeySet
from mlguard.errors import BlockingCall, InvalidSettings, Refused, UnknownModel
from mlguard.guard import Exchange, Guard
from mlguard.ledger import MemoryLedger
from mlguard.messages import Call, Deny, FetchKeys, ReadBody
from mlguard.metrics import Metrics
from mlguard.quotas import Quota
from mlguard.reference import Reference
from mlguard.runtime.drivers import LARGE, adrive, aparse, drive
from mlguard.runtime.running import Running
from mlguard.runtime.service import Service
from mlguard.settings import Quotas, load

NOW = 1_800_000_000.0
SECRET = "a secret of the tests that is long enough"
ISSUER = "https://login.example.com/"
ROW = [1.0, 2.0]

MODEL: dict[str, Any] = {
    "name": "iris",
    "version": "3",
    "route": "/predict",
    "inputs": "instances",
    "outputs": "predictions",
    "features": ["a", "b"],
}
AUTH: dict[str, Any] = {
    "issuer": ISSUER,
    "audience": "iris-api",
    "secret_env": "SECRET",
    "algorithms": ["HS256"],
    "scopes": ["predict"],
    "public": ["/health"],
}
SETTINGS: dict[str, Any] = {
    "service": {"max_body": 10_000},
    "models": [MODEL, {"name": "own"}],
    "auth": AUTH,
    "quotas": {"requests": ["5/hour"], "rows": ["100/hour"]},
}


class Fixed(Random):
    """Chance that always falls alike."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


def guarded(source: dict[str, Any] = SETTINGS, **parts: Any) -> Guard:
    """Make a guard whose clock stands still."""
    settings = load(source, environ={"SECRET": SECRET})
    authenticator = None
    if settings.auth:
        keys = KeySet.from_secrets([SECRET.encode()])
        rings = {issuer.issuer: Keyring(keys) for issuer in settings.auth.issuers}
        authenticator = Authenticator(settings.auth, rings, ":".join)
    usual: dict[str, Any] = {
        "authenticator": authenticator,
        "quota": Quota(
            settings.quotas or Quotas.model_construct(),
            MemoryLedger(parts.get("timer", lambda: 7200.0)),
        ),
        "metrics": Metrics((m.name, m.version) for m in settings.models),
        "tracer": None,
        "offer": None,
        "pseudonym": ":".join,
        "clock": lambda: NOW,
        "timer": lambda: 7200.0,
        "rng": Random(0),
    }
    return Guard(settings, **(usual | parts))


def inference(guard: Guard, model: str, rows: Any) -> Running:
    return Running(guard.inference(model, rows))


def token(subject: str = "alice", **claims: Any) -> str:
    usual = {"iss": ISSUER, "aud": "iris-api", "sub": subject, "exp": NOW + 60, "scope": "predict"}
    return str(jwt.encode(usual | claims, SECRET, "HS256"))


def call(subject: str | None = "alice", **others: Any) -> Call:
    header = () if subject is None else (f"Bearer {token(subject)}",)
    return Call("POST", **({"authorization": header} | others))


def instances(rows: int) -> bytes:
    return json.dumps({"instances": [ROW] * rows}).encode()


def metric(guard: Guard, name: str, **labels: str) -> float:
    return sum(
        float(sample["value"])
        for family in guard.metrics.snapshot()
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    )


Drive = Callable[[Exchange, str | None, bytes], Deny | None]


def in_a_thread(exchange: Exchange, route: str | None, body: bytes) -> Deny | None:
    return drive(exchange.decide(route), lambda limit: body if len(body) <= limit else None)


def on_a_loop(exchange: Exchange, route: str | None, body: bytes) -> Deny | None:
    async def read(limit: int) -> bytes | None:
        return body if len(body) <= limit else None

    return asyncio.run(adrive(exchange.decide(route), read))


@pytest.fixture(params=[in_a_thread, on_a_loop])
def driven(request: pytest.FixtureRequest) -> Drive:
    """Either driver: what a thread decides and what an event loop decides is the same."""
    drive: Drive = request.param
    return drive


def served(
    guard: Guard,
    rows: int,
    *,
    subject: str = "alice",
    status: int = 200,
    answered: int | None = None,
) -> Deny | None:
    """Send a request to the model's route, to its end."""
    exchange = guard.open(call(subject))
    deny = in_a_thread(exchange, "/predict", instances(rows))
    if deny is None:
        answer = None if answered is None else {"predictions": [0] * answered}
        exchange.answered(status, answer)
    exchange.close(deny.status if deny else status)
    return deny


class TestOrder:
    def test_who_before_what(self) -> None:
        """Without a token no byte of the body is asked for."""
        steps = guarded().open(call(None)).decide("/predict")

        with pytest.raises(StopIteration) as stop:
            next(steps)

        assert stop.value.value.code == "token_missing"

    def test_may_before_what(self) -> None:
        """Without the scope no byte of the body is asked for."""
        header = (f"Bearer {token(scope='other')}",)
        steps = guarded().open(Call("POST", authorization=header)).decide("/predict")

        with pytest.raises(StopIteration) as stop:
            next(steps)

        assert (stop.value.value.status, stop.value.value.code) == (403, "scope_missing")

    def test_announced_size_before_the_body(self) -> None:
        """A body that says it is too large is refused unread."""
        steps = guarded().open(call(content_length=10_001)).decide("/predict")

        with pytest.raises(StopIteration) as stop:
            next(steps)

        assert (stop.value.value.status, stop.value.value.code) == (413, "body_too_large")

    def test_the_body_before_the_debit(self) -> None:
        """The body is asked for with its limit; until it is there, nothing is charged."""
        guard = guarded()
        steps = guard.open(call()).decide("/predict")

        assert next(steps) == ReadBody(10_000)
        assert served(guard, 100) is None

    def test_refused_requests_cost_nothing(self, driven: Drive) -> None:
        """Whatever refuses a request, it spent nothing."""
        guard = guarded()
        refusals = [
            driven(guard.open(call(None)), "/predict", instances(1)),
            driven(guard.open(call()), "/predict", instances(2000)),
            driven(guard.open(call(content_length=10**9)), "/predict", b""),
            driven(guard.open(call()), "/predict", instances(101)),
        ]

        assert [deny.code for deny in refusals if deny] == [
            *("token_missing", "body_too_large", "body_too_large"),
            "batch_exceeds_quota",
        ]
        assert served(guard, 100) is None
        assert [served(guard, 0) for _ in range(4)] == [None] * 4
        assert getattr(served(guard, 0), "code", None) == "rate_exceeded"

    def test_public_routes(self, driven: Drive) -> None:
        """A public route asks for nothing, charges nothing and knows nobody."""
        guard = guarded()
        for _ in range(10):
            exchange = guard.open(call(None))
            assert driven(exchange, "/health", b"") is None
            assert exchange.principal is None
            assert exchange.headers == ()

    @pytest.mark.parametrize("route", [None, "", "/health/", "/HEALTH", "/health/x", "/nowhere"])
    def test_what_is_not_public(self, driven: Drive, route: str | None) -> None:
        """Only exactly the public templates are public; what matched nothing is not."""
        deny = driven(guarded().open(call(None)), route, b"")

        assert deny is not None
        assert deny.code == "token_missing"

    def test_routes_without_a_model(self, driven: Drive) -> None:
        """Any other route costs a request and reads no body."""
        guard = guarded()
        exchange = guard.open(call())

        assert driven(exchange, "/me", b"x" * 100_000) is None
        assert exchange.run is None
        assert dict(exchange.headers)["RateLimit"] == '"requests-3600";r=4;t=3600'

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"null", b"[]", b'{"instances": 7}', b"\xff", b"[" * 9000, b"\x1f\x8b"],
        ids=lambda body: repr(body[:8]),
    )
    def test_bodies_without_rows(self, driven: Drive, body: bytes) -> None:
        """What holds no rows is the handler's business, and costs one."""
        exchange = guarded().open(call())

        assert driven(exchange, "/predict", body) is None
        assert exchange.run is not None
        assert exchange.run.inference.rows == 1
        assert '"rows-3600";r=99' in dict(exchange.headers)["RateLimit"]

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
        exchange.close(401)
        exchange.close(401)

        count = "http_server_request_duration_seconds_count"
        assert metric(guard, count, http_route="/predict", http_response_status_code="200") == 1
        assert metric(guard, count, http_route="/predict", http_response_status_code="429") == 1
        assert metric(guard, count, http_route="", http_response_status_code="401") == 1
        assert metric(guard, "http_server_active_requests") == 0
        assert metric(guard, "mlguard_auth_total", outcome="ok") == 2
        assert metric(guard, "mlguard_auth_total", outcome="token_missing") == 1
        assert metric(guard, "mlguard_quota_refused_total", model="iris") == 1
        assert metric(guard, "mlguard_inference_rows_total", model="iris", version="3") == 60


class TestSettling:
    @pytest.mark.parametrize(
        ("status", "answered", "left"),
        [
            pytest.param(200, 40, 60, id="as asked"),
            pytest.param(200, None, 60, id="not readable"),
            pytest.param(200, 10, 60, id="fewer answered"),
            pytest.param(200, 70, 30, id="more answered"),
            pytest.param(400, None, 100, id="not asked"),
            pytest.param(422, 40, 100, id="invalid"),
            pytest.param(500, None, 100, id="failed"),
        ],
    )
    def test_the_larger_of_asked_and_answered(
        self, status: int, answered: int | None, left: int
    ) -> None:
        """A request costs the larger of the rows asked and answered; a failed one costs none."""
        guard = guarded()
        served(guard, 40, status=status, answered=answered)

        assert getattr(served(guard, left + 1), "status", None) in (422, 429)
        assert served(guard, left) is None

    def test_the_handlers_exception(self) -> None:
        """An exception is counted by its class, refunded, and no row is sampled."""
        guard = guarded()
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(100))

        exchange.answered(500, error=ZeroDivisionError())
        exchange.close(500)

        errors = "mlguard_inference_errors_total"
        assert metric(guard, errors, model="iris", error_type="ZeroDivisionError") == 1
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 0
        assert served(guard, 100) is None

    def test_once(self) -> None:
        """An inference ends once, however often an adapter says so."""
        guard = guarded()
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(2))

        for _ in range(3):
            exchange.answered(200)

        assert metric(guard, "mlguard_inference_duration_seconds_count", model="iris") == 1


class TestInHandlers:
    @staticmethod
    def handling(guard: Guard, route: str = "/me", rows: int = 1) -> Exchange:
        exchange = guard.open(call())
        assert in_a_thread(exchange, route, instances(rows)) is None
        exchange.enter()
        return exchange

    def test_spends(self) -> None:
        """A handler's inference is charged to its caller, and refused where it does not fit."""
        guard = guarded()
        exchange = self.handling(guard)

        with inference(guard, "own", [ROW] * 60) as run:
            run.predictions = [0] * 60
        with pytest.raises(Refused) as refused, inference(guard, "own", 60):
            raise AssertionError("the model was asked")
        exchange.leave()

        assert refused.value.deny.code == "quota_exceeded"
        exchange.refuse(refused.value.deny)
        assert exchange.answer()[0] == 429
        assert metric(guard, "mlguard_inference_rows_total", model="own") == 60

    def test_no_second_request(self) -> None:
        """Inferences of one request are one request; the answer says what is left of both."""
        guard = guarded()
        exchange = self.handling(guard)
        for _ in range(20):
            with inference(guard, "own", 1):
                pass
        exchange.leave()

        assert '"requests-3600";r=4;t=3600' in dict(exchange.headers)["RateLimit"]
        assert '"rows-3600";r=80;t=3600' in dict(exchange.headers)["RateLimit"]

    def test_on_a_loop(self) -> None:
        """Async code says `async with`, and gets the same."""
        guard = guarded()
        exchange = self.handling(guard)

        async def handler() -> None:
            async with inference(guard, "own", 60) as run:
                assert run.rows == 60
            async with inference(guard, "own", 60):
                raise AssertionError("the model was asked")

        with pytest.raises(Refused):
            asyncio.run(handler())
        exchange.leave()

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
        """The caller is known from `enter` to `leave`."""
        guard = guarded()
        exchange = self.handling(guard)
        caller = guard.caller()
        exchange.leave()

        assert caller is not None
        assert caller.subject == "alice"
        assert guard.caller() is None

    def test_what_a_handler_raises(self) -> None:
        """An exception passes through, is counted and refunded."""
        guard = guarded()
        exchange = self.handling(guard)

        with pytest.raises(KeyError), inference(guard, "own", 100):
            raise KeyError("x")
        with inference(guard, "own", 100):
            pass
        exchange.leave()

        assert metric(guard, "mlguard_inference_errors_total", error_type="KeyError") == 1

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
        exchange = self.handling(guard)

        def handler() -> None:
            with inference(guard, "own", -1000), inference(guard, "own", 100):
                inference(guard, "own", 100).__enter__()

        with pytest.raises((ValueError, Refused)):
            handler()
        exchange.leave()
        assert exchange.deny is None


class TestJoined:
    """A handler that names the model whose inference the settings have opened already."""

    def test_charged_once(self) -> None:
        """It is one inference: charged, measured and counted once."""
        guard = guarded()
        exchange = TestInHandlers.handling(guard, "/predict", 60)

        with inference(guard, "iris", [ROW] * 60) as run:
            run.version = "4"
        exchange.leave()
        exchange.answered(200, {"predictions": [0] * 60})
        exchange.close(200)

        assert metric(guard, "mlguard_inference_duration_seconds_count") == 1
        assert metric(guard, "mlguard_inference_rows_total", version="4") == 60
        assert served(guard, 40) is None
        assert getattr(served(guard, 1), "code", None) == "quota_exceeded"

    def test_on_a_loop(self) -> None:
        """It is joined by `async with` too, and the blocking form is an error there too."""
        guard = guarded()
        exchange = TestInHandlers.handling(guard, "/predict", 2)

        async def handler() -> int:
            async with inference(guard, "iris", [ROW] * 2) as run:
                return run.rows

        async def blocking() -> None:
            with inference(guard, "iris", [ROW] * 2):
                pass

        assert asyncio.run(handler()) == 2
        with pytest.raises(BlockingCall):
            asyncio.run(blocking())
        exchange.leave()

    def test_another_model_is_another_inference(self) -> None:
        """Another model in the same handler is charged for itself."""
        guard = guarded()
        exchange = TestInHandlers.handling(guard, "/predict", 2)
        with inference(guard, "own", 5):
            pass
        exchange.leave()
        exchange.answered(200)

        assert metric(guard, "mlguard_inference_rows_total", model="own") == 5
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 2

    def test_the_handler_knows_better(self) -> None:
        """Where the body could not be read, the rows that the handler gives are charged."""
        guard = guarded()
        exchange = guard.open(call())
        assert in_a_thread(exchange, "/predict", b"\x1f\x8b packed") is None
        exchange.enter()
        with inference(guard, "iris", [ROW] * 60):
            pass
        exchange.leave()
        exchange.answered(200)

        assert getattr(served(guard, 60), "code", None) == "quota_exceeded"

    def test_predictions_are_answers(self) -> None:
        """Predictions that the handler sets are counted where the answer is not read."""
        guard = guarded()
        exchange = TestInHandlers.handling(guard, "/predict", 1)
        with inference(guard, "iris", [ROW]) as run:
            run.predictions = [0] * 60
        exchange.leave()
        exchange.answered(200)

        assert getattr(served(guard, 60), "code", None) == "quota_exceeded"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.parquet"
    Reference.build({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}).save(path)
    return path


def flying(
    guard: Guard, subject: str = "alice", route: str = "/predict"
) -> tuple[Any, Deny | None]:
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
        first.close(200)
        first.close(200)

        assert [flying(guard)[1] is None for _ in "12"] == [True, False]
        assert metric(guard, "mlguard_quota_refused_total", code="too_many_in_flight") == 2

    def test_of_a_tenant(self) -> None:
        """A tenant's callers share what they have in flight, in one process too."""
        auth = AUTH | {"tenant_claim": "tid"}
        quotas = {"requests": ["100/hour"], "tenant": {"concurrency": 2}}
        guard = guarded(SETTINGS | {"auth": auth, "quotas": quotas})

        def fly(subject: str, tenant: str) -> bool:
            header = (f"Bearer {token(subject, tid=tenant)}",)
            exchange = guard.open(Call("POST", authorization=header))
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

        exchange.reopen()
        assert in_a_thread(exchange, "/predict", instances(1)) is None
        exchange.close(200)

        assert flying(guard)[1] is None

    def test_before_any_work(self) -> None:
        """Who has too many in flight is refused before the body is read."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1}})
        flying(guard)

        with pytest.raises(StopIteration) as stop:
            next(guard.open(call()).decide("/predict"))

        assert stop.value.value.code == "too_many_in_flight"

    def test_refused_ones_end_too(self) -> None:
        """What is refused is in flight until it is answered, and no longer."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1, "rows": ["10/hour"]}})

        answers = [served(guard, 11) for _ in "123"]

        assert {deny.code for deny in answers if deny} == {"batch_exceeds_quota"}
        assert served(guard, 10) is None

    def test_a_socket_stays(self) -> None:
        """A WebSocket is in flight until it ends, not until it has begun."""
        guard = guarded(SETTINGS | {"quotas": {"concurrency": 1}})
        socket, _ = flying(guard)
        socket.close(101)
        assert flying(guard)[1] is not None

        socket.close(1000)

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
        exchange.close(503)
        first.close(200)

    def test_threads(self) -> None:
        """No flight is lost or counted twice, whatever threads do at once."""
        guard = guarded(
            SETTINGS | {"quotas": {"concurrency": 4, "max_in_flight": 1000}}, timer=time.monotonic
        )

        def fly(number: int) -> None:
            for _ in range(50):
                exchange, deny = flying(guard)
                exchange.close(deny.status if deny else 200)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fly, range(8)))

        assert [flying(guard)[1] is None for _ in "12345"] == [True] * 4 + [False]


class TestUnmatched:
    def test_guesses_are_counted(self) -> None:
        """Requests that match no route are counted by the client's address, before the token."""
        guard = guarded(
            SETTINGS | {"quotas": {"rows": ["5/hour"], "unmatched_per_client": "3/minute"}}
        )
        answers = []
        for _ in range(5):
            exchange = guard.open(call(None, peer="10.0.0.1"))
            deny = in_a_thread(exchange, None, b"")  # type: ignore[arg-type]
            answers.append(deny and deny.code)

        assert answers == ["token_missing"] * 3 + ["rate_exceeded"] * 2
        other = guard.open(call(None, peer="10.0.0.2"))
        deny = in_a_thread(other, None, b"")  # type: ignore[arg-type]
        assert deny is not None
        assert deny.code == "token_missing"

    def test_off(self) -> None:
        """They need not be counted."""
        guard = guarded({"quotas": {"rows": ["5/hour"], "unmatched_per_client": "off"}})
        for _ in range(1000):
            assert in_a_thread(guard.open(call(None, peer="10.0.0.1")), None, b"") is None  # type: ignore[arg-type]


class TestExempt:
    def test_routes(self) -> None:
        """An exempt route costs nothing, of a model neither."""
        quotas = {"requests": ["1/hour"], "rows": ["1/hour"], "exempt": {"routes": ["/predict"]}}
        guard = guarded(SETTINGS | {"quotas": quotas})

        assert [served(guard, 100) for _ in "123"] == [None] * 3
        assert metric(guard, "mlguard_inference_rows_total", model="iris") == 300


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

        deny = served(guard, 5)

        assert deny is not None
        assert (deny.code, served(guard, 4)) == ("quota_exceeded", None)

    def test_settled(self) -> None:
        """What the answer took beyond that is charged when it is known, and counted apart."""
        guard = self.tokens()
        assert served(guard, 5, answered=5) is None

        assert served(guard, 5) is not None
        assert metric(guard, "mlguard_quota_debt_total", model="iris", unit="tokens") == 5
        assert served(guard, 4) is None

    def test_refunded(self) -> None:
        """A model that failed costs no units."""
        guard = self.tokens()

        assert [served(guard, 10, status=500) for _ in "123"] == [None] * 3

    def test_seconds_are_known_when_it_has_ended(self) -> None:
        """A function may charge the time that the model took."""
        times = itertools.count(7200, 0.03125)
        guard = guarded(self.TOKENS, timer=lambda: next(times))
        guard.counts("tokens", lambda run: int(1000 * (run.seconds or 0.001)))

        with inference(guard, "own", 1) as run:
            pass

        assert run.seconds is not None
        assert run.seconds >= 0.03125

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

    def test_a_unit_without_a_function(self) -> None:
        """A quota that nobody counts for is a mistake."""
        with pytest.raises(InvalidSettings, match="no function counts it"):
            guarded(self.TOKENS).check_routes(["/predict", "/health"])


class TestDrift:
    @pytest.fixture
    def source(self, reference: Path) -> dict[str, Any]:
        model = {k: v for k, v in MODEL.items() if k != "features"}
        return {"models": [model | {"reference": str(reference)}, {"name": "own"}], "drift": {}}

    def ask(self, guard: Guard, body: Any, status: int = 200) -> None:
        exchange = guard.open(Call("POST"))
        in_a_thread(exchange, "/predict", json.dumps({"instances": body}).encode())
        exchange.answered(status)
        exchange.close(status)

    def test_one_row_a_request(self, source: dict[str, Any]) -> None:
        """Of an answered request one row is offered, in the order of the reference's features."""
        offered: list[tuple[str, str, list[Any]]] = []
        guard = guarded(source, offer=lambda *row: not offered.append(row))

        self.ask(guard, [[1, 2], [1, 2], [1, 2]])
        self.ask(guard, {"b": [8], "a": [7]})

        assert offered == [("iris", "3", [1, 2]), ("iris", "3", [7, 8])]
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

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param({"a": [1.0], "b": [2.0]}, id="columns"),
            pytest.param({1.0, 2.0}, id="a set"),
        ],
    )
    def test_observing_never_fails_the_request(self, source: dict[str, Any], rows: Any) -> None:
        """Rows that cannot be indexed are dropped: the model has answered, and so does the app."""
        guard = guarded(source, offer=lambda *_: True)

        with inference(guard, "iris", rows):
            pass

    def test_a_companion_that_fails(self, source: dict[str, Any]) -> None:
        """Observers fail open: what takes the rows may break without breaking the answer."""

        def broken(*_: object) -> bool:
            raise OSError("no companion")

        guard = guarded(source, offer=broken)
        self.ask(guard, [ROW])

        assert metric(guard, "mlguard_degraded", part="observers") == 1

    def test_models_without_a_reference(self, source: dict[str, Any]) -> None:
        """A model without a reference has nothing to be compared with."""
        guard = guarded(source, offer=lambda *_: pytest.fail("it was offered"))

        with inference(guard, "own", [ROW]):
            pass


class TestSpans:
    @pytest.fixture
    def exporter(self) -> InMemorySpanExporter:
        return InMemorySpanExporter()

    @pytest.fixture
    def provider(self, exporter: InMemorySpanExporter) -> TracerProvider:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider

    def test_the_story_of_a_request(
        self, provider: TracerProvider, exporter: InMemorySpanExporter
    ) -> None:
        """The server span says who and what was decided; the inference is its child."""
        tracer = provider.get_tracer("test")
        guard = guarded(tracer=tracer)
        with tracer.start_as_current_span("POST /predict") as span:
            exchange = guard.open(call(query="api_key=hunter2"))
            exchange.adopt(span)
            in_a_thread(exchange, "/predict", instances(2))
            exchange.enter()
            with tracer.start_as_current_span("of the handler"):
                pass
            exchange.leave()
            exchange.answered(200, {"predictions": [0] * 3})
            exchange.close(200)

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

    def test_refusals(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        """A refused request says so, with the trace's id in the answer."""
        guard = guarded()
        with provider.get_tracer("test").start_as_current_span("POST") as span:
            exchange = guard.open(call(None))
            exchange.adopt(span)
            in_a_thread(exchange, "/predict", b"")

        (server,) = exporter.get_finished_spans()
        assert server.attributes == {
            "mlguard.decision": "deny",
            "mlguard.deny.code": "token_missing",
        }
        assert json.loads(exchange.answer()[2])["trace_id"] == format(
            span.get_span_context().trace_id, "032x"
        )

    def test_errors(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        """A failed inference says by what, and nothing of the exception's words."""
        guard = guarded(tracer=provider.get_tracer("test"))

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
        exchange = TestInHandlers.handling(one, "/predict", 100)

        assert one.caller() is not None
        assert other.caller() is None
        with inference(other, "iris", 100):
            pass
        exchange.leave()
        exchange.answered(200)
        exchange.close(200)

        assert served(other, 100) is None
        assert metric(one, "mlguard_inference_rows_total", model="iris") == 100
        assert metric(other, "mlguard_inference_rows_total", model="iris") == 200

    def test_one_inside_the_other(self) -> None:
        """A guarded app mounted in a guarded app is a second request of its own."""
        outer, inner = guarded(), guarded()
        around = TestInHandlers.handling(outer)
        within = TestInHandlers.handling(inner, "/predict", 3)
        assert outer.caller() == around.principal
        assert inner.caller() == within.principal
        within.leave()

        assert inner.caller() is None
        assert outer.caller() is not None
        around.leave()

    def test_services(self) -> None:
        """Two services have two registries and two keys for pseudonyms."""
        alone = {"service": {"companion": False}, "tracing": {}}
        one, other = Service(alone), Service(alone)

        assert one.metrics.registry is not other.metrics.registry
        assert one.tracer_provider is not other.tracer_provider
        key = ("", "", "alice")
        assert one.guard.pseudonym(key) == one.guard.pseudonym(key)
        assert one.guard.pseudonym(key) != other.guard.pseudonym(key)


class TestRoutes:
    def test_held_against_the_app(self) -> None:
        """A model's route that the app lacks, and a taken metrics path, are told together."""
        with pytest.raises(InvalidSettings) as caught:
            guarded().check_routes(["/predictions", "/metrics", "/health"])

        model, metrics = caught.value.problems
        said = "the app has no such route; did you mean '/predictions'?"
        assert model == f"models[iris].route = '/predict': {said}"
        assert metrics == "metrics.path = '/metrics': is already a route of the app; choose another"

    def test_all_there(self) -> None:
        """Routes that are there are well."""
        guarded().check_routes(["/predict", "/health", "/other"])

    def test_public_routes_too(self) -> None:
        """A public route that the app lacks is a mistake that nobody would see otherwise."""
        with pytest.raises(InvalidSettings, match="/health"):
            guarded().check_routes(["/predict", "/healthz"])


class TestDrivers:
    def test_large_bodies_leave_the_loop_alone(self) -> None:
        """While a large body is parsed the event loop goes on turning."""
        raw = b'{"instances": [' + b"[1,2]," * (LARGE // 2) + b"[1,2]]}"

        async def main() -> int:
            turns = 0
            parsing = asyncio.ensure_future(aparse(raw))
            while not parsing.done():
                await asyncio.sleep(0)
                turns += 1
            assert len(parsing.result()["instances"]) == LARGE // 2 + 1
            return turns

        assert asyncio.run(main()) > 5

    def test_small_bodies_need_no_thread(self) -> None:
        """A small body is parsed at once."""

        async def main() -> Any:
            parsing = asyncio.ensure_future(aparse(b'{"a":1}'))
            await asyncio.sleep(0)
            return parsing.done()

        assert asyncio.run(main())

    def test_a_decision_is_quick(self) -> None:
        """A decision that reads a hundred rows takes less than a handful of milliseconds."""
        guard = guarded({k: v for k, v in SETTINGS.items() if k != "quotas"})
        body, request = instances(100), call()

        def once() -> float:
            began = time.perf_counter()
            exchange = guard.open(request)
            in_a_thread(exchange, "/predict", body)
            exchange.answered(200)
            exchange.close(200)
            return time.perf_counter() - began

        assert min(once() for _ in range(50)) < 0.005


def test_few_threads_wait_for_a_slow_key_server() -> None:
    """Of many threads that need keys, two wait for them, the others for a moment only."""
    never: Future[None] = Future()
    patient = Semaphore(2)

    def steps() -> Generator[FetchKeys, None, None]:
        yield FetchKeys(never, 1.5, patient)

    def waited() -> float:
        began = time.monotonic()
        drive(steps(), lambda _: b"")
        return time.monotonic() - began

    with ThreadPoolExecutor(6) as pool:
        seconds = sorted(f.result() for f in [pool.submit(waited) for _ in range(6)])

    assert seconds[3] < 1.0
    assert seconds[4] > 1.0


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
