"""What is asked of the guard?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from mlguard import refusals
from mlguard.auth import KeySet
from mlguard.errors import InvalidSettings, Refused, UnknownModel
from mlguard.guard.exchange import Exchange
from mlguard.guard.inference import InferenceContext, JoinedInference
from mlguard.guard.models import Offer
from mlguard.guard.parts import Parts
from mlguard.messages import Call, Inference, Principal
from mlguard.settings import REST, nearest


class Guard:
    """Order the parts around each request.

    Attributes:
        parts: What deciders and observers of all requests share.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def open(self, call: Call) -> Exchange:
        """Begin to watch a request, at its first byte."""
        return Exchange(self.parts, call)

    def shares(self, exchange: Exchange | None) -> bool:
        """Say whether another guard watches a request so that this one need not.

        A guarded app that is mounted in a guarded app is watched, charged and counted once; but
        where only this guard asks who calls, it asks.
        """
        return exchange is not None and (
            exchange.is_authenticated or self.parts.authenticator is None
        )

    @contextmanager
    def handling(self, exchange: Exchange) -> Iterator[None]:
        """Make a request that another guard watches the current one of this guard too."""
        token = self.parts.current.set(exchange)
        try:
            yield
        finally:
            reset(self.parts.current, token)

    def caller(self) -> Principal | None:
        """Say who sent the request that is being handled; None on a public route."""
        exchange: Exchange | None = self.parts.current.get()
        return exchange.principal if exchange else None

    def demand(self, scopes: frozenset[str]) -> None:
        """Stop a handler whose caller was not granted all of these scopes.

        Raises:
            Refused: The caller was not, or there is no request.
        """
        exchange: Exchange | None = self.parts.current.get()
        deny = exchange.demand(scopes) if exchange else refusals.token_missing()
        if deny and (exchange or not self.parts.observes):
            raise Refused(deny)

    def inference(self, model: str, rows: Any, number: int | None = None) -> InferenceContext:
        """Spend the quota, open the span and start the clock around one run of a model.

        Args:
            model: A model of the settings, or what a request calls it; where one of them takes the
                rest, any other is that.
            rows: The rows, or how many they are.
            number: How many rows they are, where the handler says it.

        Raises:
            UnknownModel: The settings have no such model.
            TypeError: Nothing that rows are seen in.
            ValueError: A number below zero.
            Refused: On entering, where the quota does not admit it.
        """
        model = self.parts.asked_as(model)
        if model not in self.parts.models:
            if REST not in self.parts.models:
                known = nearest(model, self.parts.models)
                raise UnknownModel(f"no model is named {model!r}; {known}")
            model = REST
        exchange: Exchange | None = self.parts.current.get()
        if exchange is None:
            self.parts.unattributed(model)
        if exchange and exchange.run and (run := exchange.run.of(model)):
            return JoinedInference(run, rows, number)
        return InferenceContext(self.parts, self.parts.models[model], exchange, rows, number=number)

    def identify(self, login: Callable[[], Any]) -> None:
        """Have a function tell who is logged in to the app.

        Raises:
            InvalidSettings: The settings do not say that the app has a login of its own.
        """
        settings = self.parts.settings
        if settings.auth is None or not settings.auth.own_login:
            raise InvalidSettings(
                "guard.identify needs `auth.own_login = true`", source=settings.source
            )
        self.parts.login = login

    @property
    def is_from_trusted_proxy(self) -> bool:
        """Whether the request that is being handled comes straight from a trusted proxy."""
        exchange: Exchange | None = self.parts.current.get()
        return exchange is not None and self.parts.proxies.trusts(exchange.call.peer)

    def counts(self, unit: str, count: Callable[[Inference], int]) -> None:
        """Have a unit of the quotas counted by a function.

        Raises:
            InvalidSettings: No quota has that unit.
        """
        quotas = self.parts.settings.quotas
        units = quotas.all_units if quotas else frozenset()
        if unit not in units:
            raise InvalidSettings(
                f"quotas.units has no {unit!r}, which would count for nothing; "
                f"{nearest(unit, units)}",
                source=self.parts.settings.source,
            )
        self.parts.counting[unit] = count

    def replace_for_tests(self, keys: KeySet, offer: Offer) -> None:
        """Verify with other keys and offer rows elsewhere, for tests."""
        if self.parts.authenticator is not None:
            for ring in self.parts.authenticator.rings.values():
                ring.put(keys, math.inf)
        for model in self.parts.models.values():
            model.offer = offer if model.checks_drift else None


def reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Undo the setting of a context variable, unless another context did it.

    A streamed answer may be closed in another context than it was begun in.
    """
    try:  # noqa: SIM105 - each request comes here, and `suppress` is three calls more
        variable.reset(token)
    except ValueError:
        pass
