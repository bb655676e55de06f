"""Which parts does a request meet?"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from typing import Any

from mlguard.auth import Authenticator
from mlguard.bodies import There
from mlguard.chance import CHANCE
from mlguard.clients import Proxies
from mlguard.guard.bound import BoundRoute
from mlguard.guard.choice import choice_of
from mlguard.guard.deadlines import Deadlines
from mlguard.guard.in_flight import InFlight
from mlguard.guard.models import Keep, Offer, ServedModel
from mlguard.guard.record import Recorder
from mlguard.guard.refusal_body import RefusalBody
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.messages import Deny, Inference, ReadBody
from mlguard.metrics import Metrics
from mlguard.quotas import Quota, Throttle
from mlguard.routes.placement import Places
from mlguard.settings import REST, Settings, alike
from mlguard.tracing import Tracing

_DAY = 86_400  # seconds


class Parts:
    """Hold what deciders and observers of all requests share.

    Args:
        settings: What the operator decided.
        authenticator: Who is calling; None where authentication is off.
        quota: How much they may ask.
        metrics: Observes.
        tracing: Observes.
        offer: Takes sampled rows; None where drift checks are off.
        keep: Takes what is kept of calls; None where labels are not expected.
        pseudonym: Makes the keyed hash of a principal's key.
        wake: Has ended requests observed soon, as many wait.
        clock: Seconds since 1970.
        timer: A monotonic clock in seconds.
        rng: Chooses the rows that the drift check gets.
        departures: What a framework raises in a handler whose client has left.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: Authenticator | None,
        quota: Quota,
        metrics: Metrics,
        tracing: Tracing,
        offer: Offer | None,
        pseudonym: Callable[[tuple[str, str, str]], str],
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
        rng: Random = CHANCE,
        departures: tuple[type[BaseException], ...] = (),
        keep: Keep | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.proxies = Proxies(settings.service.trusted_proxies)
        self.authenticator = authenticator
        auth = settings.auth
        self.key_header = auth.key_header if auth else ""
        quotas = settings.quotas
        self.failures = Throttle(auth.failures_per_client if auth else None, timer)
        self.guesses = Throttle(quotas.unmatched_per_client if quotas else None, timer)
        self.in_flight = InFlight(quotas.max_in_flight if quotas else None)
        self.quota = quota
        self.login: Callable[[], Any] | None = None
        self.refusal_body: RefusalBody | None = None
        self.counting: dict[str, Callable[[Inference], int]] = {}
        # Who leaves while the model runs has had it run.
        left: tuple[type[BaseException], ...] = (asyncio.CancelledError, GeneratorExit)
        self.departures = (*left, *departures)
        self.tracing = tracing
        self.pseudonym = pseudonym
        self._log = RateLimitedLog()
        self._told: set[tuple[str, str, str]] = set()
        self.observes = settings.service.mode == "observe"
        patience = _DAY if self.observes else settings.service.body_timeout
        self.body_wanted = ReadBody(settings.service.max_body, patience)
        self.clock = clock
        self.timer = timer
        self.models = {
            m.name: ServedModel(m, settings.drift, offer, rng, keep) for m in settings.models
        }
        self._called: dict[str, str] = {}
        for model in self.models.values():
            if model.told_by:
                self._called |= {alike(name): model.name for name in model.names}
            if model.told_by and REST not in metrics.models:
                metrics.add_model(REST, REST)
        self.deadlines = Deadlines()
        self.recorder = Recorder(metrics, tracing, self.models, wake=wake)
        self._needed = frozenset(auth.scopes if auth else ())
        self._places = Places(settings)
        below = (name.removesuffix("/*") for name in (auth.public if auth else ()) if "*" in name)
        self.public_paths = frozenset(path for path in below if path.startswith("/"))
        self._bound: dict[tuple[str, str, frozenset[str]], BoundRoute] = {}
        self.unmatched = BoundRoute("", "", scopes=self._needed, observes=self.observes)
        routes = (
            settings.feedback and settings.feedback.route,
            settings.drift and settings.drift.route,
        )
        self._own_routes = frozenset(filter(None, routes))
        self.current: ContextVar[Any] = ContextVar("mlguard_exchange", default=None)

    def bind(self, host: str, template: str, scopes: frozenset[str] = frozenset()) -> BoundRoute:
        """Say what holds for a route; the same for each of its requests.

        Args:
            host: As the framework spells it, "" for any.
            template: As the framework spells it.
            scopes: What its handler demands beyond the settings.
        """
        key = (host, template, scopes)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(host, template, scopes)
        return bound

    def _bind(self, host: str, template: str, scopes: frozenset[str]) -> BoundRoute:
        place = self._places.of(host, template)
        models = [self.models[name] for name in place.models]
        choice = choice_of(models, self.models.get(REST))
        model = choice.rest if choice else models[0] if models else None
        demanded = scopes.union(*(each.scopes for each in models))
        is_public = not demanded and place.is_public
        if choice is None:
            scopes = demanded
        return BoundRoute(
            host,
            template,
            model=model,
            choice=choice,
            scopes=scopes if is_public else scopes | self._needed,
            is_public=is_public,
            is_counted=not place.is_exempt,
            # The kit's own routes are new to everybody: nobody is shut out of what worked before.
            observes=self.observes and template not in self._own_routes,
        )

    def asked_as(self, name: str) -> str:
        """Tell the model that requests call so, where they name their model; else the name."""
        return name if name in self.models else self._called.get(alike(name), name)

    def would_refuse(self, model: str, deny: Deny) -> None:
        """Count and, seldom, log what would be refused if it were not only observed."""
        self.metrics.would_refuse(model, deny.code)
        text = "observing only: a request would have been refused with %s %s: %s"
        self._log.warning(f"would {deny.code}", text, deny.status, deny.code, deny.title)

    def throttled(self, client: str) -> None:
        """Say that a client's tokens are not looked at; a proxy would make that everybody's."""
        text = "too many tokens of %s were refused; is it a proxy, name it in trusted_proxies"
        self._log.warning("throttled", text, client)

    def lost(self, client: str) -> None:
        """Say that a client's guesses are refused; a proxy would make that everybody's."""
        text = "too many requests of %s match no route; is it a proxy, name it in trusted_proxies"
        self._log.warning("lost", text, client)

    def unidentified(self, error: Exception) -> None:
        """Say that the app could not tell who is logged in: nobody is let in."""
        self._log.warning("login", "the function of guard.identify failed: %r", error)

    def unattributed(self, model: str) -> None:
        """Say that a model was run for no request: nobody was asked for scopes, nor charged."""
        if self.authenticator is not None or self.settings.quotas is not None:
            text = "%s was run outside of a request, for nobody: %s"
            hint = "a thread needs the request's context, as asyncio.to_thread gives it"
            self._log.warning(f"{model} nobody", text, model, hint)

    def amounts(self, inference: Inference) -> dict[str, int]:
        """Count what an inference asks, or took once it has ended: rows and other units."""
        amounts = {"rows": inference.rows}
        for unit, count in self.counting.items():
            amounts[unit] = self._amount(inference, count)
        return amounts

    def _amount(self, inference: Inference, count: Callable[[Inference], int]) -> int:
        """Ask a function of the app, which must fail neither what is asked nor what is answered."""
        try:
            return max(0, operator.index(count(inference)))
        except Exception as error:  # noqa: BLE001 - whatever it raises is not the caller's doing
            text = "what a call of %s takes could not be counted, and counts as 1: %r"
            self._log.warning(f"{inference.model} units", text, inference.model, error)
            return 1

    def unread(
        self, model: ServedModel, side: str, there: There, route: str, *, is_counted: bool
    ) -> None:
        """Say that an answered call showed no rows: a typo there would switch the quota off.

        Args:
            model: Which.
            side: "inputs" or "outputs".
            there: What is there instead.
            route: The method and the route.
            is_counted: Whether the rows were counted all the same.
        """
        self.metrics.rows_unread(model.name, side)
        if (told := (model.name, side, there.kind)) in self._told:
            return
        self._told.add(told)
        whole = "the body" if side == "inputs" else "the answer"
        where = f"`{there.path}` in {whole}" if there.path else whole
        hint = "" if there.hint is None else f': set {side} = "{there.hint}"'
        if not is_counted:
            hint += "; its rows were not counted"
        said, name = model.layout.said(side), model.name
        text = "%s of model %s found nothing in %s: %s is %s%s"
        LOGGER.warning(text, said, name, route, where, there.text, hint)
