"""What is asked of the guard?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mlguard import refusals
from mlguard.auth import KeySet
from mlguard.errors import InvalidSettings, Refused, UnknownModel
from mlguard.guard.exchange import Exchange
from mlguard.guard.parts import Parts
from mlguard.guard.plan import Offer
from mlguard.guard.run import Joined, Run
from mlguard.messages import Call, Inference, Principal
from mlguard.settings import nearest
from mlguard.tracing import reset


class Guard(Parts):
    """Order the parts around each request; takes what `Parts` takes."""

    def open(self, call: Call) -> Exchange:
        """Begin to watch a request, at its first byte."""
        return Exchange(self, call)

    def shares(self, exchange: Exchange | None) -> bool:
        """Say whether another guard watches a request so that this one need not.

        A guarded app that is mounted in a guarded app is watched, charged and counted once; but
        where only this guard asks who calls, it asks.
        """
        return exchange is not None and (exchange.is_authenticated or self.authenticator is None)

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
        exchange: Exchange | None = self.current.get()
        return exchange.principal if exchange else None

    def demand(self, scopes: frozenset[str]) -> None:
        """Stop a handler whose caller was not granted all of these scopes.

        Raises:
            Refused: The caller was not, or there is no request.
        """
        exchange: Exchange | None = self.current.get()
        deny = exchange.demand(scopes) if exchange else refusals.token_missing()
        if deny:
            raise Refused(deny)

    def inference(self, model: str, rows: Any) -> Run:
        """Spend the quota, open the span and start the clock around one run of a model.

        Args:
            model: A model of the settings.
            rows: The rows, or how many they are.

        Raises:
            UnknownModel: The settings have no such model.
            Refused: On entering, where the quota does not admit it.
        """
        if model not in self.models:
            raise UnknownModel(f"no model is named {model!r}; {nearest(model, self.models)}")
        exchange: Exchange | None = self.current.get()
        if exchange is None:
            self.unattributed(model)
        if exchange and exchange.run and exchange.run.inference.model == model:
            return Joined(exchange.run, rows)
        return Run(self, self.models[model], exchange.admit if exchange else None, rows)

    def counts(self, unit: str, count: Callable[[Inference], int]) -> None:
        """Have a unit of the quotas counted by a function.

        Raises:
            InvalidSettings: No quota has that unit.
        """
        quotas = self.settings.quotas
        units = quotas.all_units if quotas else frozenset()
        if unit not in units:
            raise InvalidSettings(
                f"quotas.units has no {unit!r}, which would count for nothing; "
                f"{nearest(unit, units)}",
                source=self.settings.source,
            )
        self.counting[unit] = count

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
        quotas = self.settings.quotas
        problems += [
            f"quotas.exempt.routes = {route!r}: the app has no such route; {nearest(route, known)}"
            for route in (quotas.exempt.routes if quotas else ())
            if route not in known
        ]
        problems += [
            f"quotas.units.{unit}: no function counts it; name one with `@guard.counts({unit!r})`"
            for unit in sorted(quotas.all_units if quotas else ())
            if unit not in self.counting
        ]
        if problems:
            raise InvalidSettings(*problems, source=self.settings.source)
