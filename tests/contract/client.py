"""How do the contract's tests talk to a service, in process or over a socket?"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from jose import jwt
from prometheus_client.openmetrics.parser import text_string_to_metric_families

SECRET = "a secret of the tests that is long enough"
ISSUER = "https://login.example.com/"
AUDIENCE = "twin-api"

SETTINGS: dict[str, Any] = {
    "service": {"name": "twin", "max_body": "1 MiB"},
    "models": [
        {"name": "sum", "version": "3", "route": "/predict", "inputs": "instances",
         "outputs": "predictions", "features": ["a", "b"]},
        {"name": "twice", "route": "/twice", "inputs": "instances", "outputs": "predictions"},
        {"name": "broken", "route": "/broken", "inputs": "instances"},
        {"name": "echo", "route": "/echo", "protocol": "v1"},
        {"name": "own"},
    ],
    "auth": {
        "issuer": ISSUER, "audience": AUDIENCE, "secret_env": "TWIN_SECRET",
        "algorithms": ["HS256"], "scopes": ["predict"], "public": ["/health", "/me/public"],
    },
    "quotas": {"requests": ["30/hour"], "rows": ["100/hour"]},
    "tracing": {"endpoint": "http://127.0.0.1:9"},
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: In order, names in lower case.
        body: The bytes.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [v for n, v in self.headers if n == name]
        assert len(values) < 2, f"{name} stands twice: {values}"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The refusal's code, None where it is no refusal of the kit."""
        is_problem = self.header("content-type") == "application/problem+json"
        return self.json["code"] if is_problem else None


class Client(Protocol):
    """Anything that sends a request as it stands."""

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Sequence[bytes] = b"",
    ) -> Answer: ...


class OverSockets:
    """A client of a server that runs elsewhere; a body in parts is sent chunked."""

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc
        self.address = (urlsplit(url).hostname, urlsplit(url).port)

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Sequence[bytes] = b"",
    ) -> Answer:
        connection = http.client.HTTPConnection(self._netloc, timeout=30)
        try:
            connection.putrequest(method, path)
            for name, value in headers:
                connection.putheader(name, value.encode("latin-1"))
            chunked = not isinstance(body, bytes)
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif body or method in ("POST", "PUT"):
                connection.putheader("Content-Length", str(len(body)))
            # As urllib3 and httpcore do: a server may answer before it has it all, and close.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(iter(body) if chunked else body, encode_chunked=chunked)
            answer = connection.getresponse()
            found = [(n.lower(), v) for n, v in answer.getheaders()]
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()


def token(subject: str = "alice", *, secret: str = SECRET, **claims: Any) -> str:
    """Sign a good token; claims replace the good ones, None leaves one out."""
    now = int(time.time())
    good = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": "predict other",
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    wanted = {n: v for n, v in {**good, **claims}.items() if v is not None}
    return str(jwt.encode(wanted, secret, "HS256"))


@contextmanager
def alone() -> Iterator[None]:
    """Have services of this process share nothing with others of their name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWIN_SECRET", SECRET)
        patch.setenv("MLGUARD_SERVICE__HOST_FILE", "false")
        yield


def bearer(subject: str = "alice", **claims: Any) -> tuple[tuple[str, str], ...]:
    """The Authorization header of a caller."""
    return (("Authorization", f"Bearer {token(subject, **claims)}"),)


def post(
    client: Client, path: str, rows: Any, subject: str, *, more: Iterable[tuple[str, str]] = ()
) -> Answer:
    """Ask a model for rows."""
    headers = [*bearer(subject), ("Content-Type", "application/json"), *more]
    return client.ask("POST", path, headers=headers, body=json.dumps({"instances": rows}).encode())


def samples(client: Client) -> dict[tuple[str, frozenset[tuple[str, str]]], Any]:
    """Read all metrics: by full name and labels."""
    accept = [("Accept", "application/openmetrics-text; version=1.0.0")]
    text = client.ask("GET", "/metrics", headers=accept).body.decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s for f in families for s in f.samples}


def metric(client: Client, name: str, **labels: str) -> float:
    """Read one sample; 0 where it was never observed."""
    sample = samples(client).get((name, frozenset(labels.items())))
    return float(sample.value) if sample else 0.0
