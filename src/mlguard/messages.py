"""What travels between the parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from threading import Semaphore
from typing import Any

from mlguard.ledger.orders import Ledger, Order

Headers = tuple[tuple[str, str], ...]

MAX_CATEGORY_LENGTH = 256
"""Characters by which a category is told from others."""


@dataclass(slots=True)
class Call:
    """A request as the core sees it, whichever framework received it.

    `Exchange.opened` refuses what is too long, before anybody else looks at it.

    Attributes:
        method: The method as sent.
        path: The decoded path, that of mounts included.
        query: The raw query string.
        scheme: As the server says: "http", "https", "ws" or "wss".
        host: The Host header, "" without one.
        server: The address and port where the server says it listens.
        protocol: The version of HTTP, as "1.1".
        peer: The address that opened the connection, "" where the server does not say.
        peer_port: Its port.
        forwarded: Each X-Forwarded-For header, in order.
        authorization: Each Authorization header, in order.
        user_agent: The User-Agent header, "" without one.
        content_length: The announced bytes of the body, None without or with a nonsensical one.
        has_body: Whether a body is announced, of whatever length.
        uri: Characters of path and query; of the query itself, only the beginning is kept.
        longest: Bytes of the longest header among those that are read.
        carrier: The headers that continue a trace, by their names in lower case; None without any.
        is_websocket: Whether it is a handshake.
        api_key: Each header that carries API keys, in order, where the settings name one.
        content_type: The body's type, as the framework takes it; "" without one.
    """

    method: str
    path: str = "/"
    query: str = field(default="", repr=False)
    scheme: str = "http"
    host: str = ""
    server: tuple[str, int | None] | None = None
    protocol: str = ""
    peer: str = ""
    peer_port: int | None = None
    forwarded: tuple[str, ...] = ()
    authorization: tuple[str, ...] = field(default=(), repr=False)
    user_agent: str = ""
    content_length: int | None = None
    has_body: bool = False
    uri: int = 0
    longest: int = 0
    carrier: Mapping[str, str] | None = None
    is_websocket: bool = False
    api_key: tuple[str, ...] = field(default=(), repr=False)
    content_type: str = ""


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


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling by the app's own login, as a function of `guard.identify` tells it.

    Attributes:
        subject: The caller's name in the app.
        tenant: Whom the caller belongs to, None where nobody asks.
        scopes: What the caller may do.
        plan: Which of `quotas.plans` holds, None for none.
    """

    subject: str
    tenant: str | None = None
    scopes: Collection[str] = ()
    plan: str | None = None


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
        inputs: The rows one by one, as they came, where they could be read.
        predictions: What the model answered, one entry a row, or of one row the prediction itself;
            a handler sets it.
        seconds: How long it ran, None until it ended.
        scores: The classes' probabilities, one entry a row; a handler sets it where the model has
            a `task`.
        id: What later names the call to `guard.feedback`; "" where its predictions are not kept.
    """

    model: str
    version: str
    rows: int
    inputs: Sequence[Any] = ()
    predictions: Any = None
    seconds: float | None = None
    scores: Any = None
    id: str = ""


@dataclass(slots=True)
class Outcome:
    """How an inference ended, for the observers.

    Attributes:
        model: The model's name.
        version: The version that answered.
        seconds: How long it ran.
        rows: How many rows it answered, 0 where it failed.
        error_type: The class of the exception or the 5xx status, None where it answered.
        waited: Seconds between the decision and the handler, None where nothing was between.
        sampled: The rows that the drift check gets, as they came.
        is_observed: Whether its rows are among those that the drift check samples from.
        answers: What the model said of the sampled rows, as it came: predictions and scores.
        call_id: Names the call, where its predictions are kept; else "".
        predictions: What is kept of it, as it came: None where there is nothing, or too much.
        scores: The same, of the classes' probabilities.
        missing: Why no row was sampled although one should be; "" where there is no reason.
    """

    model: str
    version: str
    seconds: float
    rows: int = 0
    error_type: str | None = None
    waited: float | None = None
    sampled: tuple[Any, ...] = ()
    is_observed: bool = False
    answers: tuple[tuple[Any, Any], ...] = ()
    call_id: str = ""
    predictions: Any = None
    scores: Any = None
    missing: str = ""


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
    """Asks a driver for the bytes of the request's body; the handler still gets every one.

    The driver sends back the bytes, or a `Cut`.

    Attributes:
        limit: Bytes read at most.
        seconds: How long that may take.
    """

    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AskApp:
    """Asks a driver to call a function of the app, which may be one of async code.

    The driver sends back what it returns, or the exception that it raises.

    Attributes:
        function: Takes nothing.
    """

    function: Callable[[], Any]


class Cut(Enum):
    """Why a body was not read to its end."""

    TOO_LARGE = "larger than the limit"
    TOO_SLOW = "not there in time"
    LEFT = "its client left"


@dataclass(frozen=True, slots=True)
class Compute:
    """Asks a driver to run what would hold up an event loop.

    The driver sends back what the function returns.

    Attributes:
        function: Takes nothing.
    """

    function: Callable[[], Any]
