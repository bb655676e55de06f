"""What travels between the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Semaphore
from typing import Any

from mlguard.ledger.orders import Ledger, Order

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the core sees it, whichever framework received it.

    Attributes:
        method: The method as sent.
        peer: The address that opened the connection, "" where the server does not say.
        forwarded: Each X-Forwarded-For header, in order.
        authorization: Each Authorization header, in order.
        user_agent: The User-Agent header, "" without one.
        content_length: The announced bytes of the body, None without or with a nonsensical one.
        query: The raw query string.
    """

    method: str
    peer: str = ""
    forwarded: tuple[str, ...] = ()
    authorization: tuple[str, ...] = field(default=(), repr=False)
    user_agent: str = ""
    content_length: int | None = None
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    Attributes:
        issuer: Who vouches for the subject; "" where there is no authentication.
        subject: The caller's name with that issuer; without authentication, the client's network.
        tenant: Whom the caller belongs to, where the settings name a claim.
        scopes: What the caller may do.
        claims: The verified token's claims.
        pseudonym: The keyed hash under which the caller appears in spans and logs.
    """

    issuer: str
    subject: str
    tenant: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pseudonym: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells principals apart: two issuers' same subject are two."""
        return (self.issuer, self.tenant or "", self.subject)


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Read a claim: the member of this name, else members within members, joined by dots."""
    if name in claims or "." not in name:
        return claims.get(name)
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


@dataclass(frozen=True, slots=True)
class Deny:
    """The request ends here; both frameworks send exactly this.

    Attributes:
        status: The HTTP status.
        code: The stable code that a program distinguishes.
        title: One sentence for a person; never why a signature failed.
        headers: The answer's headers beyond Content-Type and Content-Length.
        more: Further members of the problem document.
    """

    status: int
    code: str
    title: str
    headers: Headers = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Inference:
    """One run of a model: what a handler is given and what the observers are told.

    Attributes:
        model: The model's name in the settings.
        version: The version that answered; a handler may set another.
        rows: How many rows were asked.
        inputs: The rows, where they could be read: lists in the order of the features.
        predictions: What the model answered, one entry a row; a handler sets it.
        seconds: How long it ran, None until it ended.
    """

    model: str
    version: str
    rows: int
    inputs: Sequence[Any] = ()
    predictions: Any = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an inference ended, for the observers.

    Attributes:
        inference: What ran.
        seconds: How long it ran.
        error_type: The class of the exception or the 5xx status, None where it answered.
        trace_id: The sampled trace, 32 hex digits, None where there is none.
    """

    inference: Inference
    seconds: float
    error_type: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class FetchKeys:
    """Asks a driver to wait for an issuer's keys, which are being fetched.

    The driver sends back nothing, in time or not: the keyring tells what holds then.

    Attributes:
        ready: Done when the fetch has ended; others wait for it too.
        seconds: How long to wait at most.
        patient: Who blocks a thread holds one of these, after a moment; others wait no longer.
    """

    ready: Future[None]
    seconds: float
    patient: Semaphore


@dataclass(frozen=True, slots=True)
class Debit:
    """Asks a driver to have a ledger charge an order.

    The driver sends back a `Receipt`, or None where nobody can tell.

    Attributes:
        ledger: Which.
        order: What is charged.
    """

    ledger: Ledger
    order: Order


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Asks a driver for the request's body, parsed as JSON.

    The driver sends back a `Body`. The handler still gets every byte.

    Attributes:
        limit: Bytes read at most.
    """

    limit: int


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as far as it could be read.

    Attributes:
        too_large: Whether it is larger than the limit.
        value: The parsed JSON, None where it is none.
    """

    too_large: bool = False
    value: Any = None
