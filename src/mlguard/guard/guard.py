"""Which parts does a request meet?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Any

from opentelemetry import trace

from mlguard.auth import Authenticator, KeySet
from mlguard.clients import Proxies
from mlguard.errors import InvalidSettings, UnknownModel
from mlguard.guard.exchange import Exchange
from mlguard.guard.plan import Offer, Plan
from mlguard.guard.run import Joined, Run
from mlguard.logs import Seldom
from mlguard.messages import Call, Principal
from mlguard.metrics import Metrics
from mlguard.quotas import Quota
from mlguard.settings import Settings, nearest
from mlguard.tracing import reset


class Guard:
    """Order the parts around each request.

    Args:
        settings: What the operator decided.
        authenticator: Who is calling; None where authentication is off.
        quota: How much they may ask; None where quotas are off.
        metrics: Observes.
        tracer: Observes; None where tracing is off.
        offer: Takes sampled rows; None where drift checks are off.
        pseudonym: Makes the keyed hash of a principal's key.
        clock: Seconds since 1970.
        timer: A monotonic clock in seconds.
        rng: Chooses the rows that the drift check gets.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: Authenticator | None,
        quota: Quota | None,
        metrics: Metrics,
        tracer: trace.Tracer | None,
        offer: Offer | None,
        pseudonym: Callable[[tuple[str, str, str]], str],
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
        rng: Random | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.proxies = Proxies(settings.service.trusted_proxies)
        self.authenticator = authenticator
        self.quota = quota
        self.tracer = tracer or trace.NoOpTracer()
        self.pseudonym = pseudonym
        self._log = Seldom()
        self._observing = True
        self.clock = clock
        self.timer = timer
        rng = rng or Random()  # noqa: S311 - it picks samples, no secrets
        self.models = {
            m.name: Plan(m, settings.drift, metrics, offer, rng) for m in settings.models
        }
        self.by_route = {m.route: self.models[m.name] for m in settings.models if m.route}
        self.public = frozenset(settings.auth.public if settings.auth else ())
        self.current: ContextVar[Exchange | None] = ContextVar("mlguard_exchange", default=None)

    def open(self, call: Call) -> Exchange:
        """Begin to watch a request, at its first byte."""
        return Exchange(self, call)

    @contextmanager
    def handling(self, exchange: Exchange) -> Iterator[None]:
        """Make a request that another guard watches the current one of this guard too."""
        token = self.current.set(exchange)
        try:
            yield
        finally:
            reset(token)

    def caller(self) -> Principal | None:
        """Say who sent the request that is being handled; None on a public route."""
        exchange = self.current.get()
        return exchange.principal if exchange else None

    def inference(self, model: str, rows: Any) -> Run:
        """Spend the quota, open the span and start the clock around one run of a model.

        Args:
            model: A model of the settings.
            rows: The rows, or how many they are.

        Raises:
            UnknownModel: The settings have no such model.
            Refused: On entering, where the quota does not admit it.
            BlockingCall: On entering with `with` where an event loop runs.
        """
        if model not in self.models:
            raise UnknownModel(f"no model is named {model!r}; {nearest(model, self.models)}")
        exchange = self.current.get()
        if exchange and exchange.run and exchange.run.inference.model == model:
            return Joined(exchange.run, rows)
        return Run(self, self.models[model], exchange, rows)

    def unread(self, model: str, side: str) -> None:
        """Say that an answered call showed no rows: a typo there would switch the quota off."""
        self.metrics.rows_unread(model, side)
        text = "an answered call of %s has nothing where `%s` points: its rows were not counted"
        self._log.warning(f"{model} {side}", text, model, side)

    def observer_failed(self, error: Exception) -> None:
        """Say in a metric and, seldom, in the log that something was not observed."""
        self._observing = False
        self.metrics.set_degraded("observers", True)
        self._log.warning("observers", "an inference was not observed: %r", error)

    def observer_succeeded(self) -> None:
        """Take back what `observer_failed` said."""
        if not self._observing:
            self._observing = True
            self.metrics.set_degraded("observers", False)

    def rehearse(self, keys: KeySet, offer: Offer) -> None:
        """Verify with other keys and offer rows elsewhere, for tests."""
        if self.authenticator is not None:
            self.authenticator.trust(keys)
        for plan in self.models.values():
            plan.offer = offer if plan.checks_drift else None

    def check_routes(self, templates: Iterable[str]) -> None:
        """Hold the settings against the routes that the app has.

        Raises:
            InvalidSettings: A model's or a public route is not there, or the metrics' path is
                taken.
        """
        known = set(templates)
        problems = [
            f"models[{m.name}].route = {m.route!r}: "
            f"the app has no such route; {nearest(m.route, known)}"
            for m in self.settings.models
            if m.route and m.route not in known
        ]
        auth = self.settings.auth
        problems += [
            f"auth.public = {route!r}: the app has no such route; {nearest(route, known)}"
            for route in (auth.public if auth else ())
            if route not in known
        ]
        if self.settings.metrics.path in known:
            path = self.settings.metrics.path
            problems.append(
                f"metrics.path = {path!r}: is already a route of the app; choose another"
            )
        if problems:
            raise InvalidSettings(*problems, source=self.settings.source)
