"""May this request go on? Asked in order, what is cheap before what is dear."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mlguard import refusals
from mlguard.auth.bearer import Credential
from mlguard.guard.authentication import ask_app, identify, is_missing, lacking, recall
from mlguard.guard.bound import BoundRoute
from mlguard.guard.choice import Choice, Together
from mlguard.guard.inference import InferenceContext
from mlguard.guard.several import SeveralInferences
from mlguard.messages import AskApp, Call, Compute, Cut, Debit, Deny, FetchKeys, Principal, ReadBody
from mlguard.quotas import Cost, RouteLimit

if TYPE_CHECKING:
    from mlguard.guard.exchange import Exchange
    from mlguard.guard.models import ServedModel

T = TypeVar("T")

LARGE = 256 * 1024
"""Bytes from which parsing would hold up an event loop noticeably."""

Steps = Generator[ReadBody | FetchKeys | AskApp | Debit | Compute, Any, Deny | None]
"""A decision in the making: yields what it needs of the outside, returns the refusal, if any."""

_BODILESS = ("GET", "HEAD", "OPTIONS")
_UNCOUNTED = ("rate_exceeded", "too_many_in_flight", "store_unavailable")
"""Refusals of what would be counted: one request more than there may be, or nobody knows."""


def decide(exchange: Exchange, bound: BoundRoute, limits: Sequence[RouteLimit]) -> Steps:
    """Decide about a request whose route has matched, before its handler runs.

    Args:
        exchange: The request.
        bound: The route; `parts.unmatched` where nothing matched.
        limits: What its handler declares beyond the settings.
    """
    parts, call, charges, model = exchange.parts, exchange.call, exchange.charges, bound.model
    choice, scopes = bound.choice, bound.scopes
    unclear: Deny | None = None
    early = _early(choice)
    if early is not None:
        chosen = early.early(call, exchange.parameters)
        if isinstance(chosen, Deny):
            unclear = chosen
        else:
            model, scopes = chosen, scopes | chosen.scopes
    if model is not None and not _asks(call, model):
        if choice is not early and choice is not None:
            scopes |= choice.scopes  # of all, as no body says which
        model = choice = early = None
    exchange.model = model
    charges.is_counted = bound.is_counted
    if refusal := _shed(exchange, bound):
        return refusal
    if not bound.is_public:
        who = recall(parts, call, exchange)
        if isinstance(who, Credential):
            who = yield from identify(parts, who, exchange.client)
        elif parts.login is not None and isinstance(who, Deny) and is_missing(who):
            who = yield from ask_app(parts, parts.login, who)
        if refusal := _welcome(exchange, who, scopes):
            return refusal
    elif model is None and not limits:
        return None
    payer = exchange.payer
    name = model.name if model else None
    is_late = choice is not early
    known = None if is_late else name
    if bound.is_counted and (
        refusal := parts.quota.spent(payer, known, reads_body=model is not None)
    ):
        return charges.refused(name or "", refusal)
    if unclear:
        return charges.refused(name or "", unclear)
    if model is None:
        return (yield from _decide_plain(exchange, bound, limits))
    layout = model.layout_of(call)
    body = b""
    if call.has_body and layout.reads_body:
        if (call.content_length or 0) > parts.body_wanted.limit:
            return refusals.body_too_large(parts.body_wanted.limit)
        found = yield parts.body_wanted
        if isinstance(found, Cut):
            return _cut(exchange, model.name, found)
        body = found
    if is_late:
        return (yield from _decide_late(exchange, bound, limits, body))
    if refusal := charges.acquire(payer, name, is_public=bound.is_public):
        return refusal
    seconds = 0.0
    read = layout.read if early is None else partial(early.rows, call, model)
    if len(body) < LARGE:
        reading = read(body)
    else:
        reading, seconds = yield Compute(partial(_timed, read, body))
    run = InferenceContext(parts, model, exchange, reading=reading, passing=layout.passing)
    if model.version_from is not None:
        _tell_version(exchange, run, body)
    flies = not charges.has_paid
    demand = Cost(model.name, parts.amounts(run.inference), flies=flies, limits=limits)
    charged = charges.charge_here(payer, demand) or (yield from charges.charge(payer, demand))
    if isinstance(charged, Deny):
        if charged.code == "batch_exceeds_quota" and not reading.readable:
            charged = refusals.rows_unreadable(charged.more["largest_batch"], charged.headers)
        return _unpaid(exchange, model.name, charged, seconds)
    charges.has_paid = True
    exchange.run = run
    run.pay(charged)
    run.open()
    return None


def _early(choice: Choice | Together | None) -> Choice | None:
    """Return what tells the model before the body is read, if it does."""
    return choice if isinstance(choice, Choice) and choice.is_early else None


def _asks(call: Call, model: ServedModel) -> bool:
    """Say whether a request can hold rows of a model."""
    if call.has_body or call.method not in _BODILESS:
        return True
    return model.layout.source == "query" and call.method != "OPTIONS"


def _decide_late(
    exchange: Exchange, bound: BoundRoute, limits: Sequence[RouteLimit], body: bytes
) -> Steps:
    """Decide about a request whose body tells which models it asks: all of them, or none."""
    parts, charges, payer, choice = exchange.parts, exchange.charges, exchange.payer, bound.choice
    if choice is None:
        raise AssertionError("one model is known before its body is")
    read = partial(choice.read, exchange.call, exchange.parameters)
    if len(body) < LARGE:
        asked, seconds = read(body), 0.0
    else:
        asked, seconds = yield Compute(partial(_timed, read, body))
    if isinstance(asked, Deny):
        return _unpaid(exchange, choice.rest.name, asked, seconds)
    exchange.model = first = asked[0].model
    needed = frozenset[str]().union(*(each.model.scopes for each in asked))
    if refusal := lacking(exchange.principal, needed):
        if charges.is_counted:
            parts.quota.count_request(payer, first.name)
        return refusal
    for each in asked:
        if refusal := charges.acquire(payer, each.model.name, is_public=bound.is_public):
            return refusal
    runs = [InferenceContext(parts, a.model, exchange, reading=a.reading) for a in asked]
    flies = not charges.has_paid
    demands = [Cost(r.model.name, parts.amounts(r.inference), flies=flies) for r in runs]
    demands[-1] = demands[-1]._replace(limits=limits)
    charged = yield from charges.charge_all(payer, demands)
    if isinstance(charged, Deny):
        if charged.code == "batch_exceeds_quota" and not asked[0].reading.readable:
            charged = refusals.rows_unreadable(charged.more["largest_batch"], charged.headers)
        return _unpaid(exchange, first.name, charged, seconds)
    charges.has_paid = True
    for run, paid in zip(runs, charged, strict=True):
        run.pay(paid)
    _open(exchange, runs, body)
    return None


def go_on(exchange: Exchange, bound: BoundRoute, deny: Deny) -> Steps:
    """Watch what would be refused, and runs all the same: its rows are seen, nobody pays them."""
    parts, model, choice = exchange.parts, exchange.model, bound.choice
    if model is None or exchange.run is not None:
        return None
    call, layout = exchange.call, model.layout_of(exchange.call)
    found = (
        (yield parts.body_wanted) if layout.reads_body and deny.code != "body_too_large" else b""
    )
    body = found if isinstance(found, bytes) else b""
    seen = partial(choice.rows, call, model) if isinstance(choice, Choice) else layout.read
    asked = [(model, seen, layout.passing)]
    if choice is not None and _early(choice) is None:
        late = yield Compute(partial(choice.read, exchange.call, exchange.parameters, body))
        if not isinstance(late, Deny):
            asked = [(each.model, each.model.layout_of(call).read, None) for each in late]
    runs = []
    for each, read, passing in asked:
        reading = read(body) if len(body) < LARGE else (yield Compute(partial(read, body)))
        runs.append(InferenceContext(parts, each, exchange, reading=reading, passing=passing))
    _open(exchange, runs, body)
    return None


def _open(exchange: Exchange, runs: Sequence[InferenceContext], body: bytes) -> None:
    """Begin what the body asks."""
    for run in runs:
        _tell_version(exchange, run, body)
        run.open()
    exchange.run = runs[0] if len(runs) == 1 else SeveralInferences(runs)


def _tell_version(exchange: Exchange, run: InferenceContext, body: bytes) -> None:
    """Note the version that a request names, where the settings say that it does."""
    said = run.model.version_from
    if said is not None:
        told = said.by(exchange.call, exchange.parameters, body)
        run.inference.version = run.model.version_of(told)


def _decide_plain(exchange: Exchange, bound: BoundRoute, limits: Sequence[RouteLimit]) -> Steps:
    """Decide about a request that asks no model: it counts, and so does what its route declares."""
    charges, payer = exchange.charges, exchange.payer
    if refusal := charges.acquire(payer, None, is_public=bound.is_public):
        return refusal
    flies = not charges.has_paid
    demand = Cost(is_request=not bound.is_public, flies=flies, limits=limits)
    charged = charges.charge_here(payer, demand) or (yield from charges.charge(payer, demand))
    if isinstance(charged, Deny):
        return charges.refused("", charged)
    charges.has_paid = True
    return None


def _shed(exchange: Exchange, bound: BoundRoute) -> Deny | None:
    """Refuse what is not even looked at: too much at once, too many guesses at routes."""
    parts = exchange.parts
    if bound is parts.unmatched and (wait := parts.guesses.count(exchange.client)):
        parts.lost(exchange.client)
        return exchange.charges.refused("", refusals.rate_exceeded(math.ceil(wait)))
    if parts.in_flight.are_too_many and not bound.is_public and bound.is_counted:
        return exchange.charges.refused("", refusals.overloaded())
    return None


def _welcome(exchange: Exchange, who: Principal | Deny, needed: frozenset[str]) -> Deny | None:
    """Take note of who calls, and say whether that is not enough."""
    if isinstance(who, Deny):
        refusal: Deny | None = who
    else:
        exchange.principal = who
        refusal = None if needed <= who.scopes else lacking(who, needed)
    is_told = refusal is None or not exchange.charges.observes
    if exchange.parts.authenticator is not None and is_told:
        exchange.parts.metrics.authenticated(refusal.code if refusal else "ok")
    return refusal


def _cut(exchange: Exchange, model: str, cut: Cut) -> Deny:
    """Refuse a body that was not read to its end; unless its client left, it was a request."""
    if cut is Cut.LEFT:
        exchange.left()
        return refusals.client_left()
    wanted = exchange.parts.body_wanted
    if exchange.charges.is_counted:
        exchange.parts.quota.count_request(exchange.payer, model)
    if cut is Cut.TOO_LARGE:
        return refusals.body_too_large(wanted.limit)
    return refusals.body_timeout(wanted.seconds)


def _unpaid(exchange: Exchange, model: str, deny: Deny, seconds: float) -> Deny:
    """Refuse a body that was read: a request all the same, and no cheaper than one."""
    quota = exchange.parts.quota
    if exchange.charges.is_counted:
        if deny.code not in _UNCOUNTED:
            quota.count_request(exchange.payer, model)
        quota.refused_after(exchange.payer, model, deny, seconds)
    return exchange.charges.refused(model, deny)


def _timed(read: Callable[[bytes], T], body: bytes) -> tuple[T, float]:
    """Read a large body, and tell how much of a core that took, in seconds."""
    began = time.thread_time()
    return read(body), time.thread_time() - began
