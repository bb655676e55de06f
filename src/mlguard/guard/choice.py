"""Which of the models that share a route does a request ask?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlguard import refusals
from mlguard.bodies import BodyReading
from mlguard.guard.models import ServedModel
from mlguard.guard.selector import LONGEST, Selector
from mlguard.messages import Call, Deny
from mlguard.settings import REST, Model, alike


class Asked(NamedTuple):
    """One model that a body asks.

    Attributes:
        model: Which.
        reading: What the body showed of it.
    """

    model: ServedModel
    reading: BodyReading


class Choice:
    """Models of which each request names one.

    A name that is nearly a model's counts as that model's: the handler may not look as closely.

    Attributes:
        rest: What is asked by any other name.
        said: Where a request says it.
        scopes: What a token must grant to ask any of them.
    """

    def __init__(self, models: Sequence[ServedModel], rest: ServedModel, said: Selector) -> None:
        self.rest = rest
        self.said = said
        self.scopes = _scopes(models)
        self._models = models
        self._names = {alike(name): model for model in models for name in model.names}

    @property
    def is_early(self) -> bool:
        """Whether the model is known before the body is read."""
        return self.said.is_early

    def early(self, call: Call, parameters: Mapping[str, Any]) -> ServedModel | Deny:
        """Tell the model by the path or the query; a query too long to be looked at is refused."""
        said = self.said.by(call, parameters)
        return refusals.uri_too_long(len(call.query)) if said is None else self._asked(said)

    def read(
        self, call: Call, parameters: Mapping[str, Any], body: bytes
    ) -> Sequence[Asked] | Deny:
        """Tell the model by the body, and read its rows."""
        said = self.said.by(call, parameters, body)
        if said is None:
            return refusals.model_unreadable()
        model = self._asked(said)
        return model if isinstance(model, Deny) else [Asked(model, self.rows(call, model, body))]

    def rows(self, call: Call, model: ServedModel, body: bytes) -> BodyReading:
        """Read a body's rows; of a model that nobody knows, as whichever sees most of them."""
        if model is not self.rest or model in self._models:
            return model.layout_of(call).read(body)
        read = [m.layout_of(call).read(body) for m in self._models]
        return max(read, key=lambda found: found.rows)

    def _asked(self, said: Sequence[str]) -> ServedModel | Deny:
        """Tell which model these names are: who names two would be charged for the cheaper one."""
        first = self._named(said[0] if said else "")
        if any(self._named(name) is not first for name in said[1:]):
            return refusals.model_ambiguous()
        return first

    def _named(self, name: str) -> ServedModel:
        return self._names.get(alike(name), self.rest) if len(name) <= LONGEST else self.rest


class Together:
    """Models whose rows stand each in another place of one body.

    Attributes:
        rest: The first of them.
        scopes: What a token must grant to ask all of them.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.rest = models[0]
        self.scopes = _scopes(models)
        self._models = models

    def read(self, _: Call, __: Mapping[str, Any], body: bytes) -> Sequence[Asked] | Deny:
        """Tell each model whose rows are there; where that cannot be told, all of them are."""
        asked = [Asked(model, model.layout.read(body)) for model in self._models]
        there = [each for each in asked if each.reading.found]
        is_told = there and all(each.reading.readable for each in asked)
        return there if is_told else asked


def choice_of(
    models: Sequence[ServedModel], wildcard: ServedModel | None
) -> Choice | Together | None:
    """Tell what a request to a route with these models has to say; None where it need not.

    Args:
        models: Those that the settings place there.
        wildcard: The model that takes the rest, where the settings have one.
    """
    said = models[0].told_by if models else None
    if said is not None:
        rest = wildcard if wildcard in models else None
        return Choice(models, rest or _unknown(models), said)
    return Together(models) if len(models) > 1 else None


def _unknown(models: Sequence[ServedModel]) -> ServedModel:
    """Make what is asked by a name that no setting knows: all that any of the others demands.

    Else a handler that spells names in another way would answer for less.
    """
    first = models[0]
    unknown = ServedModel(Model(name=REST, version=REST), None, None, first.rng)
    unknown.layout = first.layout
    unknown.scopes = _scopes(models)
    return unknown


def _scopes(models: Sequence[ServedModel]) -> frozenset[str]:
    return frozenset[str]().union(*(model.scopes for model in models))
