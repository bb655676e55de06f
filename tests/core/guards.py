"""A guard without a framework: calls and bodies in, verdicts and numbers out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from jose import jwt
from opentelemetry.trace import TracerProvider

from mlguard.app.drivers import adrive, drive
from mlguard.auth import Authenticator, Keyring, KeySet
from mlguard.guard import BoundRoute, Exchange, Guard, Parts
from mlguard.ledger import MemoryLedger
from mlguard.messages import Call, Cut, Deny
from mlguard.metrics import Metrics
from mlguard.quotas import Quota
from mlguard.settings import Quotas, load
from mlguard.tracing import Tracing, attach, detach

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


def guarded(
    source: dict[str, Any] = SETTINGS, provider: TracerProvider | None = None, **parts: Any
) -> Guard:
    """Make a guard whose clock stands still, and which folds before its metrics are read."""
    settings = load(source, environ={"SECRET": SECRET})
    authenticator = None
    if settings.auth:
        keys = KeySet.from_secrets([SECRET.encode()])
        rings = {issuer.issuer: Keyring(keys) for issuer in settings.auth.issuers}
        authenticator = Authenticator(settings.auth, rings, ":".join)
    timer = parts.get("timer", lambda: 7200.0)
    usual: dict[str, Any] = {
        "authenticator": authenticator,
        "quota": Quota(
            settings.quotas or Quotas.model_construct(), MemoryLedger(timer), timer=timer
        ),
        "metrics": Metrics((m.name, m.version) for m in settings.models),
        "tracing": Tracing(settings, provider, environ={}),
        "offer": None,
        "pseudonym": ":".join,
        "clock": lambda: NOW,
        "timer": timer,
        "rng": Random(0),
    }
    guard = Guard(Parts(settings, **(usual | parts)))
    guard.parts.metrics.before_snapshot = guard.parts.recorder.fold
    return guard


def token(subject: str = "alice", **claims: Any) -> str:
    """Sign a token that such a guard accepts."""
    usual = {"iss": ISSUER, "aud": "iris-api", "sub": subject, "exp": NOW + 60, "scope": "predict"}
    return str(jwt.encode(usual | claims, SECRET, "HS256"))


def call(subject: str | None = "alice", **others: Any) -> Call:
    """Make a request with a body, of somebody or of nobody."""
    header = () if subject is None else (f"Bearer {token(subject)}",)
    return Call(**({"method": "POST", "authorization": header, "has_body": True} | others))


def instances(rows: int) -> bytes:
    """Write a body of so many rows."""
    return json.dumps({"instances": [ROW] * rows}).encode()


def predictions(rows: int) -> bytes:
    """Write an answer of so many rows."""
    return json.dumps({"predictions": [0] * rows}).encode()


def metric(guard: Guard, name: str, **labels: str) -> float:
    """Sum up the samples of this name that have these labels."""
    return sum(
        float(sample["value"])
        for family in guard.parts.metrics.snapshot()
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    )


def at(exchange: Exchange, template: str | None) -> BoundRoute:
    """Find what holds for a route, or where none matched."""
    return exchange.bind("", template, frozenset()) if template else exchange.unmatched


Drive = Callable[[Exchange, str | None, bytes | Cut], Deny | None]


def in_a_thread(exchange: Exchange, route: str | None, body: bytes | Cut) -> Deny | None:
    """Decide, blocking."""
    return drive(exchange.matched(at(exchange, route)), lambda limit, _: _cut(body, limit))


def on_a_loop(exchange: Exchange, route: str | None, body: bytes | Cut) -> Deny | None:
    """Decide on an event loop."""

    async def read(limit: int, _: float) -> bytes | Cut:
        return _cut(body, limit)

    return asyncio.run(adrive(exchange.matched(at(exchange, route)), read))


def _cut(body: bytes | Cut, limit: int) -> bytes | Cut:
    return Cut.TOO_LARGE if isinstance(body, bytes) and len(body) > limit else body


def answered(exchange: Exchange, status: int = 200, raw: bytes | None = None) -> Deny | None:
    """Answer as an adapter does, to the last byte; return the refusal that withholds it.

    Args:
        exchange: An admitted request.
        status: The handler's.
        raw: The answer's JSON; None for an answer that is not read.
    """
    withheld = None
    held = None if raw is None else exchange.held_answer("application/json", len(raw))
    if held is not None and held.add(raw or b""):
        withheld = drive(held.settle(status))
    else:
        exchange.end_run(status)
    if withheld is not None:
        exchange.refuse(withheld)
    sent(exchange, withheld.status if withheld else status)
    return withheld


def sent(exchange: Exchange, status: int) -> None:
    """Send an answer that ended nothing before."""
    exchange.started(status)
    exchange.chunk()
    exchange.ended()


def served(
    guard: Guard,
    rows: int,
    *,
    subject: str = "alice",
    status: int = 200,
    predicted: int | None = None,
) -> Deny | None:
    """Send a request to the model's route, to its end."""
    exchange = guard.open(call(subject))
    deny = in_a_thread(exchange, "/predict", instances(rows))
    if deny is not None:
        sent(exchange, deny.status)
        return deny
    return answered(exchange, status, None if predicted is None else predictions(predicted))


@contextmanager
def handling(
    guard: Guard, route: str = "/me", body: bytes = b"", subject: str = "alice"
) -> Iterator[Exchange]:
    """Surround a handler as an adapter does."""
    exchange = guard.open(call(subject))
    assert in_a_thread(exchange, route, body) is None
    with guard.handling(exchange), exchange.handing_over():
        token = None if exchange.run is None else attach(exchange.run.context)
        exchange.handler_started()
        try:
            yield exchange
        finally:
            if token is not None:
                detach(token)
