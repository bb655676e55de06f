"""How does a user's own test suite run guarded? Tokens on demand, no servers, no waiting."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mlguard.analyst import AnalystConfig
from mlguard.app.front import GuardedApp
from mlguard.auth import KeySet
from mlguard.auth.api_keys import ApiKey, KeyBook, id_of, new_key
from mlguard.auth.minting import mint, secret_signer, usual, usual_type
from mlguard.errors import InvalidSettings
from mlguard.metrics import merge
from mlguard.performance import KeptCall
from mlguard.performance.labels import Found, Labelled


class GuardTester:
    """Cut a guard off from everything outside, before its app's first request.

    Real decisions, real metrics, real spans; but no file, no exporter, and tokens signed here.

    Args:
        guard: The MLGuard of the app under test.

    Example:
        guard = MLGuard(app, "mlguard.toml")
        tester = GuardTester(guard)
        client.post("/predict", json=..., headers=tester.headers(subject="alice"))
    """

    def __init__(self, guard: GuardedApp[Any]) -> None:
        self._service = guard.service
        self._secret = secrets.token_bytes(32)
        self._exporter = InMemorySpanExporter()
        self._rows: list[tuple[str, str, list[Any]]] = []
        self._service.replace_for_tests(
            keys=KeySet.from_secrets([self._secret]),
            spans=SimpleSpanProcessor(self._exporter),
            offer=self._offer,
            calls=_Calls(),
        )

    def token(
        self,
        subject: str = "tester",
        *,
        scopes: Sequence[str] | None = None,
        seconds: float = 300,
        issuer: str | None = None,
        **claims: Any,
    ) -> str:
        """Sign a token that the guard accepts.

        Args:
            subject: Who calls.
            scopes: What the token grants; default: all that the settings demand, of models too.
            seconds: How long it is valid; negative for an expired one.
            issuer: Who vouches; default: the first in the settings.
            **claims: Further claims, or others in place of the usual; None leaves one out.

        Raises:
            InvalidSettings: Authentication is off.
        """
        settings = self._service.settings
        auth = settings.auth
        known = {i.issuer: i for i in (auth.issuers if auth else ())}
        who = known.get(issuer) if issuer else next(iter(known.values()), None)
        if who is None:
            raise InvalidSettings("a token needs an issuer of [auth]", source=settings.source)
        scope = " ".join(settings.all_scopes if scopes is None else scopes)
        now = int(time.time())
        good = usual(who, subject, scope=scope, tenant="tenant", now=now, seconds=seconds)
        wanted = {name: value for name, value in (good | claims).items() if value is not None}
        sign = secret_signer(self._secret, "HS256")
        return mint(wanted, "HS256", sign, typ=usual_type(who))

    def api_key(
        self,
        subject: str = "tester",
        *,
        tenant: str | None = None,
        scopes: Sequence[str] | None = None,
        plan: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """Make an API key that the guard accepts.

        Args:
            subject: Who calls.
            tenant: Whom the caller belongs to.
            scopes: What the key grants; default: all that the settings demand, of models too.
            plan: Which of the plans holds.
            seconds: How long it holds; negative for an expired one; None for ever.

        Raises:
            InvalidSettings: Nobody may call by one.
        """
        settings, authenticator = self._service.settings, self._service.guard.parts.authenticator
        if authenticator is None or authenticator.keys is None:
            raise InvalidSettings("a key needs [auth.api_keys]", source=settings.source)
        keys, text, now = authenticator.keys, new_key(), time.time()
        book = keys.book or KeyBook.new()
        granted = tuple(settings.all_scopes if scopes is None else scopes)
        expires = None if seconds is None else now + seconds
        name, hashed = id_of(text) or "", book.hash(text)
        keys.put(book.adding(ApiKey(name, hashed, subject, tenant, granted, plan, now, expires)))
        return text

    def headers(self, subject: str = "tester", **options: Any) -> dict[str, str]:
        """Write the Authorization header; takes what `token` takes.

        Where no issuer's tokens are accepted, it is the header of an API key; takes what
        `api_key` takes.
        """
        auth = self._service.settings.auth
        if auth and auth.api_keys and not auth.issuers:
            key, header = self.api_key(subject, **options), auth.api_keys.header
            return {header: f"Bearer {key}" if header.lower() == "authorization" else key}
        return {"Authorization": f"Bearer {self.token(subject, **options)}"}

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, oldest first."""
        self._service.flush()
        return list(self._exporter.get_finished_spans())

    @property
    def sampled(self) -> list[tuple[str, str, list[Any]]]:
        """The rows sampled for the drift check: model, version, values."""
        self._service.flush()
        return list(self._rows)

    def rows_wanted(self, model: str) -> int:
        """Tell how many sampled rows a drift verdict on a model takes; 0 where there are none."""
        settings = self._service.settings
        config = AnalystConfig.of(settings)
        found = next((m for m in config.models if m.name == model), None)
        return config.rows_wanted(found) if found and settings.drift else 0

    def metric(self, name: str, **labels: str) -> float:
        """Read a sample by its full name; 0 where it was never observed."""
        families = self._service.metrics.snapshot()
        if self._service.feedback:
            self._service.feedback.flush()
            families = merge([self._service.metrics.snapshot(), self._service.feedback.families()])
        samples = [s for f in families for s in f["samples"]]
        found = [s["value"] for s in samples if s["name"] == name and s["labels"] == labels]
        return float(found[0]) if found else 0.0

    def _offer(self, model: str, version: str, row: list[Any], _: object) -> bool:
        self._rows.append((model, version, row))
        return True


class _Calls:
    """The calls of one process, until they are labelled and after."""

    def __init__(self) -> None:
        self._calls: dict[str, KeptCall] = {}
        self._truths: dict[str, list[Any]] = {}

    def keep(self, calls: Sequence[KeptCall]) -> None:
        self._calls |= {call.id: call for call in calls}

    def find(self, ids: Sequence[str]) -> dict[str, Found]:
        known = [self._calls[i] for i in ids if i in self._calls]
        return {call.id: Found(call, call.id in self._truths) for call in known}

    def label(self, call: KeptCall, truths: Sequence[object], _: float) -> bool:
        is_new = call.id not in self._truths
        self._truths.setdefault(call.id, list(truths))
        return is_new

    def recent(self, model: str, most: int) -> list[Labelled]:
        labelled = [(self._calls[i], t) for i, t in reversed(self._truths.items())]
        found = [Labelled(c.version, c.said, t) for c, t in labelled if c.model == model]
        return found[:most]

    def forget(self, _: float) -> bool:
        """Keep all: a test is short."""
        return True

    def close(self) -> None:
        """Hold nothing."""
