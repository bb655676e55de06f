"""Do right tokens pass and wrong ones not, whatever the issuer's key server does meanwhile?"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import keyserver, servers
from tests.keyserver import Exchange, KeyPair, KeyServer, key_pair, key_set

RATE = 200  # requests a second
THREADS = 8
PHASE = 0.4  # seconds
MAX_AGE = 1
MARGIN = 3.0  # seconds that a fetch may take beyond MAX_AGE on a busy machine
AUDIENCE = "twin-api"


@dataclass(frozen=True)
class Asked:
    """One request and its answer.

    Attributes:
        at: When it was sent, of the monotonic clock.
        kind: What its token was.
        kid: Whose key signed it.
        status: The answer.
        served: Whether the key was in the last key set that the server had sent by then.
        done: When its answer was there.
    """

    at: float
    kind: str
    kid: str
    status: int
    served: bool
    done: float


class Issuer:
    """Signs tokens, and knows which keys were served when.

    A key is retired once a set without it was sent: before, nobody could know.
    """

    def __init__(self, server: KeyServer) -> None:
        self.server = server
        self.served: frozenset[str] = frozenset()
        self.retired: dict[str, float] = {}
        self._shown: set[str] = set()
        self.active: list[KeyPair] = []
        self._evil = KeyPair("evil")
        self._numbers = itertools.count()

    def rotate(self, *keys: KeyPair) -> None:
        """Sign with these keys and show them from now on."""
        answer, kids = key_set(*keys), frozenset(k.kid for k in keys)
        before, self._shown = self._shown - kids, self._shown | kids
        self.active = list(keys)

        def show(exchange: Exchange) -> None:
            answer(exchange)
            self.served, now = kids, time.monotonic()
            for kid in before:
                self.retired.setdefault(kid, now)

        self.server.answer(show)

    def token(self) -> tuple[str, str, str]:
        """Draw a token: its kind, the key that it names, and itself."""
        kind = random.choices(["good", "forged", "unknown", "old"], [6, 1, 1, 2])[0]
        retired = list(self.retired)
        if kind == "old" and not retired:
            kind = "good"
        if kind == "unknown":
            return kind, "", self._evil.sign(self._claims(), kid=f"unknown {next(self._numbers)}")
        if kind == "old":
            kid = random.choice(retired)
            return kind, kid, key_pair(kid).sign(self._claims())
        key = random.choice(self.active)
        signer = key if kind == "good" else self._evil
        return kind, key.kid, signer.sign(self._claims(), kid=key.kid)

    def _claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.server.url, "aud": AUDIENCE, "sub": "alice", "scope": "predict",
            "iat": now, "exp": now + 600, "jti": str(next(self._numbers)),
        }  # fmt: skip


class Load:
    """Asks a service at a steady rate until it is left."""

    def __init__(self, url: str, issuer: Issuer) -> None:
        self.asked: list[Asked] = []
        self._netloc = urlsplit(url).netloc
        self._issuer = issuer
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        self._running = [self._pool.submit(self._run) for _ in range(THREADS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            due = self._began + number / RATE
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._ask(number)

    def _ask(self, number: int) -> None:
        kind, kid, text = self._issuer.token()
        at, served = time.monotonic(), kid in self._issuer.served
        # Each from an address of its own: bad tokens must not make good ones wait.
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        connection = http.client.HTTPConnection(self._netloc, timeout=servers.LONG)
        try:
            headers = {"Authorization": f"Bearer {text}", "X-Forwarded-For": address}
            connection.request("GET", "/me", headers=headers)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        self.asked.append(Asked(at, kind, kid, answer.status, served, time.monotonic()))


def phases(issuer: Issuer) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List what happens at the key server, one after another."""
    a, b, c, d, e = (key_pair(kid) for kid in "abcde")
    server = issuer.server
    lies = {name: lie for name, lie, _ in keyserver.lies()}
    yield "shows a and b", lambda: issuer.rotate(a, b)
    yield "retires a", lambda: issuer.rotate(b)
    yield "goes on", lambda: None
    yield "goes on", lambda: None
    yield "stalls", lambda: server.answer(keyserver.stall)
    yield "comes back with c", lambda: issuer.rotate(b, c)
    yield "dies", server.die
    yield "lives", server.live
    yield "redirects", lambda: server.answer(lies["redirect to another host"])
    yield "retires b", lambda: issuer.rotate(c)
    yield "grows", lambda: server.answer(lies["endless"])
    yield "shows garbage", lambda: server.answer(lies["truncated"])
    yield "shows a private key", lambda: server.answer(lies["private key"])
    yield "drips", lambda: server.answer(keyserver.drip)
    yield "goes over to d at once", lambda: issuer.rotate(d)
    yield "and to e", lambda: issuer.rotate(e)
    yield "goes on", lambda: None
    yield "goes on", lambda: None


def settings(server: KeyServer) -> dict[str, Any]:
    return {
        "service": {"name": "torture", "trusted_proxies": ["127.0.0.0/8"]},
        "auth": {
            "issuer": server.url, "audience": AUDIENCE, "jwks_url": server.jwks_url,
            "algorithms": ["ES256"], "scopes": ["predict"], "public": ["/health", "/me/public"],
            "jwks_max_age": MAX_AGE, "jwks_max_stale": 30, "jwks_timeout": 1, "jwks_cooldown": 1,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("serve", "app"),
    [
        (servers.uvicorn, "tests.apps.served_fastapi:app"),
        (servers.gunicorn, "tests.apps.served_flask:app"),
    ],
    ids=["FastAPI", "Flask"],
)
def test_no_wrong_token_passes_and_no_right_one_is_lost(
    serve: Callable[..., servers.Server], app: str, tmp_path: Path
) -> None:
    """A key server rotates, stalls, dies, redirects, grows and lies under 200 requests a second."""
    with KeyServer() as server:
        issuer = Issuer(server)
        issuer.rotate(key_pair("a"))
        env = {"TWIN_SETTINGS": json.dumps({**settings(server), "models": MODELS})}
        with serve(app, cwd=tmp_path, env=env) as service:
            servers.wait_until(lambda: issuer.served, "the keys were fetched")
            with Load(service.url, issuer) as load:
                for name, happens in phases(issuer):
                    happened, before = time.monotonic(), server.count()
                    happens()
                    time.sleep(PHASE if name != "dies" else 2 * MAX_AGE)
                    if name not in ("dies", "goes on"):  # whoever has what he wants asks no more
                        _wait_for_more(server, before, name)
                    print(f"{name}: {_outcomes(a for a in load.asked if a.at >= happened)}")
            metrics = service.ask("/metrics").text

    assert set(issuer.retired) == set("abcd")
    right = (a for a in load.asked if a.kind == "good" and a.served)
    # One whose key was retired while it was asked may come too late.
    right = (a for a in right if a.done < issuer.retired.get(a.kid, math.inf))
    lost = [a for a in right if a.status != 200]
    wrong = [a for a in load.asked if a.status == 200 and _is_wrong(a, issuer.retired)]
    assert (len(wrong), len(lost)) == (0, 0), (wrong[:5], lost[:5])
    assert {a.status for a in load.asked} <= {200, 401, 503}
    assert len(load.asked) > RATE, "the load was not what it should be"
    for result in ("ok", "timeout", "unreachable", "redirect", "too_large", "invalid"):
        assert f'mlguard_keys_fetches_total{{result="{result}"}}' in metrics, result
    assert "mlguard_keys_age_seconds{" in metrics


MODELS = [{"name": "own"}, {"name": "sum"}]


def _wait_for_more(server: KeyServer, before: int, what: str) -> None:
    servers.wait_until(lambda: server.count() > before, f"{what}, seen")


def _is_wrong(asked: Asked, retired: dict[str, float]) -> bool:
    """Tell a token that no settings let pass: a retired key holds for jwks_max_age at most."""
    if asked.kind in ("forged", "unknown"):
        return True
    return asked.kind == "old" and asked.at > retired[asked.kid] + MAX_AGE + MARGIN


def _outcomes(asked: Any) -> dict[str, int]:
    return dict(sorted(Counter(f"{a.kind} {a.status}" for a in asked).items()))
