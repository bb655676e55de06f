"""How does a request pass a WSGI server? Its first and its last byte."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from contextvars import Context, copy_context
from functools import lru_cache, partial
from http import HTTPStatus
from io import BufferedReader, BytesIO, RawIOBase
from typing import Any, TypeAlias

from opentelemetry.context import Context as SpanContext

from mlguard.app.drivers import drive
from mlguard.app.service import Service
from mlguard.bodies import PassingBody
from mlguard.guard import Deadlines, Exchange, Guard, reset, watched
from mlguard.messages import Call, Cut
from mlguard.tracing import attach, attached, detach

Environ: TypeAlias = dict[str, Any]
WSGI: TypeAlias = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

EXCHANGE = "mlguard.exchange"
"""Where a request's exchange stands in its environ."""

ROOT = "mlguard.root"
"""Where the outermost guarded app is mounted, by the server."""

PREFIX = "mlguard.prefix"
"""Where the app is mounted in an app that is guarded around it; missing where there is none."""

STREAMED = "mlguard.streamed"
"""Whether the answer's bytes come while the server sends them."""

_KEPT_HEADERS = ("access-control-", "vary")  # of an answer that is replaced: browsers read it then


class WSGIMiddleware:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: What Flask serves.
        service: Whose guard watches.
        start: Starts what runs beside the requests.
        extensions: The Flask app's, by which a guard around finds this one.

    Attributes:
        defers_spans: Whether a package within opens the server spans.
    """

    def __init__(
        self,
        app: WSGI,
        service: Service,
        start: Callable[[], None],
        *,
        extensions: Mapping[str, Any],
    ) -> None:
        self.app = app
        self.extensions = extensions
        self._service = service
        self._guard = service.guard
        self._path = service.settings.metrics.path
        self._fields = tuple(service.tracing.fields)
        self._start = start
        self.defers_spans = False

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer the scrape; watch everything else."""
        if not self._service.started:
            self._start()
        if self._service.serves_once:
            return self._answer_once(environ, start_response)
        return self._answer(environ, start_response)

    def _answer_once(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer, and bring in what is known of it: the process ends without another word."""
        with closing(self._service):
            answer = self._answer(environ, start_response)
            try:
                yield from answer
            finally:
                if hasattr(answer, "close"):
                    answer.close()

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        guard = self._guard
        known: Exchange | None = environ.get(EXCHANGE)
        around = _take_watched() if known is None else None
        if around is not None and guard.shares(around):
            environ[PREFIX] = around.bound.template
            return _Answer(around, guard, environ, start_response, is_ours=False).run(self.app)
        if guard.shares(known):
            with guard.handling(environ[EXCHANGE]):
                return self.app(environ, start_response)
        if is_scrape(environ, self._path):
            return self._expose(environ, start_response)
        exchange = guard.open(to_call(environ, self._fields, guard.parts.key_header))
        answer = _Answer(exchange, guard, environ, start_response)
        if exchange.opened() is not None:
            exchange.open_span()
            return answer.run(partial(refusal, exchange))
        return answer.run(self.app, None if self.defers_spans else exchange.open_span())

    def _expose(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        page = self._service.scrape(environ.get("HTTP_ACCEPT", "")).result()
        start_response(status_line(page.status), list(page.headers))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [page.body]


class _Answer:
    """An answer on its way to the server: what passes becomes events.

    Args:
        exchange: The request.
        guard: Whose current request it is.
        environ: The request's.
        start_response: The server's.
        is_ours: Whether nobody around watches the request to its end.
    """

    def __init__(
        self,
        exchange: Exchange,
        guard: Guard,
        environ: Environ,
        start_response: Callable[..., Any],
        *,
        is_ours: bool = True,
    ) -> None:
        self._exchange = exchange
        self._guard = guard
        self._environ = environ
        self._start = start_response
        self._is_ours = is_ours
        self._head: tuple[str, list[tuple[str, str]], tuple[Any, ...]] | None = None
        self._written: Callable[[bytes], Any] = lambda _: None
        self._missing: int | None = None  # bytes of an answer whose length was announced
        self._chunks: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] = iter(())
        self._first: bytes | None = None
        self._context: Context | None = None
        self._is_closed = False

    def run(self, app: WSGI, context: SpanContext | None = None) -> Iterable[bytes]:
        """Let the app answer, up to its first byte; while it does, this is the current request.

        Until then it may be refused, or fail: some servers take the head from here.

        Args:
            app: The app.
            context: In which its server span is the current one, None where there is none of ours.
        """
        exchange, environ, current = self._exchange, self._environ, self._guard.parts.current
        environ[EXCHANGE] = exchange
        environ[ROOT] = environ.get("SCRIPT_NAME", "")
        attached = None if context is None else attach(context)
        token = current.set(exchange)
        try:
            self._chunks = app(environ, self.start)
            if self._head is None or environ.get(STREAMED):
                self._keep_context()
            self._iterator = iter(self._chunks)
            self._first = self._next()
            if refusal := self._begin():
                self._iterator, self._first = iter(()), refusal
        except BaseException as error:  # noqa: BLE001 - raised again, unless it is a refusal
            return self._stopped(error)
        finally:
            reset(current, token)
            if attached is not None:
                detach(attached)
        return self

    def _keep_context(self) -> None:
        """Have what is answered while the server sends run as the handler did."""
        self._context = copy_context()
        if self._exchange.run is not None:
            self._context.run(attach, self._exchange.run.context)

    def start(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        """Keep the head until a byte follows: until then the app may be refused."""
        exchange = self._exchange
        if not exchange.decided and drive(exchange.matched(exchange.unmatched)):
            # What answered around Flask's dispatch: a middleware, an app of its own.
            return lambda _: None
        self._head = (status, headers, rest)
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a part of the answer, as PEP 3333 has it for old apps."""
        self._begin()
        self._report(chunk)
        self._written(chunk)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk, self._first = self._first, None
        if chunk is None:
            try:
                chunk = self._next()
            except BaseException as error:
                self._stopped(error)
                raise
            if chunk is None:
                self._end()
                raise StopIteration
        self._report(chunk)
        return chunk

    def _next(self) -> bytes | None:
        """Wait for some bytes: what is empty would have the server send the head."""
        while True:
            if self._context is None:
                chunk = next(self._iterator, None)
            else:
                chunk = self._context.run(next, self._iterator, None)
            if chunk or chunk is None:
                return chunk

    def _stopped(self, error: BaseException) -> Iterable[bytes]:
        """Answer for what may not go on; what failed is the server's to answer."""
        exchange = self._exchange
        deny = exchange.refusal_in(error) if isinstance(error, Exception) else None
        if deny is not None and not exchange.has_begun and self._is_ours:
            exchange.refuse(deny)
            self._first = self._refuse([])
            return self
        if deny is not None:
            exchange.cut_off(deny)
        elif isinstance(error, self._guard.parts.departures):
            exchange.left()
        else:
            exchange.failed(error)
        self.close()
        raise error

    def _begin(self) -> bytes | None:
        """Send the head, or the refusal's in its place: then return its body."""
        exchange, head = self._exchange, self._head
        if head is None:
            late = exchange.deny is not None and not exchange.has_begun
            return self._refuse([]) if late else None
        self._head = None
        status, headers, rest = head
        if self._is_ours:
            if exchange.started(int(status[:3])) is not None:
                return self._refuse([h for h in headers if h[0].lower().startswith(_KEPT_HEADERS)])
            self._missing = self._announced(headers)
            headers = [*headers, *exchange.headers]
        self._send_head(status, headers, *rest)
        return None

    def _announced(self, headers: list[tuple[str, str]]) -> int | None:
        if self._environ["REQUEST_METHOD"] == "HEAD":
            return 0
        for name, value in headers:
            if name.lower() == "content-length" and value.isdigit():
                return int(value)
        return None

    def _refuse(self, kept: list[tuple[str, str]]) -> bytes:
        """Send the refusal's head in place of what the app answered; return its body."""
        status, headers, body = self._exchange.answer()
        if self._is_ours and not self._exchange.has_begun:
            self._exchange.started(status)
        self._iterator = iter(())
        self._send_head(status_line(status), [*headers, *kept])
        return b"" if self._environ["REQUEST_METHOD"] == "HEAD" else body

    def _send_head(self, *head: Any) -> None:
        try:
            self._written = self._start(*head)
        except BaseException:
            if self._is_ours:
                self._exchange.unsent()
            raise

    def _report(self, chunk: bytes) -> None:
        if self._is_ours:
            self._exchange.chunk()
            if self._missing is not None:
                self._missing -= len(chunk)
                if self._missing <= 0:
                    self._end()  # before the client can have it all, and ask again

    def _end(self) -> None:
        if self._is_ours:
            exchange = self._exchange
            if not exchange.has_ended:
                if exchange.seconds > HASTE and has_left(self._environ):
                    exchange.left()
                exchange.ended()

    def close(self) -> None:
        """End what the server did not read to its end: the client left."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close = getattr(self._chunks, "close", None)
            if close is not None:
                close() if self._context is None else self._context.run(close)
        finally:
            exchange = self._exchange
            if self._is_ours and not exchange.has_ended:
                if not exchange.has_failed and self._missing != 0:
                    exchange.left()  # a server that stopped
                exchange.closed()

    def __del__(self) -> None:
        """End what no server closed: some stop at the announced length, and never say so."""
        if not self._is_closed:
            self.close()


class MountGate:
    """Decides before an app that is mounted beside another, by the prefix that it is mounted at."""

    def __init__(self, app: WSGI, guard: Guard) -> None:
        self.app = app
        self._guard = guard

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Let the mounted app answer, or answer in its place."""
        exchange: Exchange | None = environ.get(EXCHANGE)
        if exchange is None or exchange.depth:
            return self.app(environ, start_response)
        bound = exchange.bind("", below(environ), frozenset())
        if drive(exchange.matched(bound), partial(read_body, environ, self._guard.parts.deadlines)):
            return refusal(exchange, environ, start_response)
        if exchange.passing is not None:
            pass_body(environ, exchange.passing)
        with attached(exchange.open_span(is_last=True)), exchange.handing_over():
            return self.app(environ, start_response)


def below(environ: Environ) -> str:
    """Tell where an app is mounted within the outermost guarded one."""
    below = str(environ.get("SCRIPT_NAME", "")).removeprefix(environ.get(ROOT, ""))
    return str(environ.get(PREFIX, "")) + below


def refusal(
    exchange: Exchange, environ: Environ, start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer with the refusal."""
    status, headers, body = exchange.answer()
    start_response(status_line(status), list(headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _take_watched() -> Exchange | None:
    """Take over what a guard watches around this app, once: nothing it does itself is that."""
    exchange = watched.get()
    if exchange is not None:
        watched.set(None)
    return exchange


_BODILESS = ("GET", "HEAD", "OPTIONS")
HASTE = 0.005  # seconds in which no client is expected to leave
LONGEST_QUERY = 1024 * 1024  # characters of one that are kept; longer ones are refused
_CHUNK = 16 * 1024 * 1024  # bytes: small pieces are memory that is asked for again each time
_LONGEST_NUMBER = 20  # digits


def to_call(environ: Environ, fields: Iterable[str], key_header: str = "") -> Call:
    """Read a request; WSGI has joined doubled headers with commas.

    Args:
        environ: The request's.
        fields: The names of the headers that continue a trace.
        key_header: The name of the header that carries API keys, "" for none of its own.
    """
    get = environ.get
    method = environ["REQUEST_METHOD"]
    announced = _announced(environ)
    authorization, forwarded = get("HTTP_AUTHORIZATION"), get("HTTP_X_FORWARDED_FOR")
    api_key = get(_key(key_header)) if key_header else None
    host, agent = get("HTTP_HOST", ""), get("HTTP_USER_AGENT", "")
    carrier = {f: environ[k] for f in fields if (k := _key(f)) in environ}
    port = get("REMOTE_PORT")
    path, query = get("SCRIPT_NAME", "") + get("PATH_INFO", ""), get("QUERY_STRING", "")
    return Call(
        method,
        path,
        query[:LONGEST_QUERY],
        get("wsgi.url_scheme", "http"),
        host,
        (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        get("SERVER_PROTOCOL", "").removeprefix("HTTP/"),
        get("REMOTE_ADDR") or "",
        int(port) if port and str(port).isdigit() else None,
        (forwarded,) if forwarded else (),
        (authorization,) if authorization is not None else (),
        agent,
        announced,
        method not in _BODILESS or bool(announced) or "HTTP_TRANSFER_ENCODING" in environ,
        len(path) + len(query),
        max(
            map(
                len,
                (
                    host,
                    agent,
                    authorization or "",
                    forwarded or "",
                    api_key or "",
                    *carrier.values(),
                ),
            )
        ),
        carrier or None,
        api_key=() if api_key is None else (api_key,),
        content_type=get("CONTENT_TYPE") or "",
    )


@lru_cache(64)
def _key(field: str) -> str:
    return "HTTP_" + field.upper().replace("-", "_")


def status_line(status: int) -> str:
    """Write a status with its reason; some have none."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Refused"


def read_body(environ: Environ, deadlines: Deadlines, limit: int, seconds: float) -> bytes | Cut:
    """Read the whole body and leave it to the handler."""
    connection = _connection(environ)
    if connection is None:
        return _read(environ, limit)
    with deadlines.within(seconds, lambda: connection.shutdown(socket.SHUT_RD)) as deadline:
        body = _read(environ, limit)
    return Cut.TOO_SLOW if deadline.has_passed else body


def _read(environ: Environ, limit: int) -> bytes | Cut:
    """Read as far as the server says that the body goes."""
    stream = environ["wsgi.input"]
    length = _announced(environ)
    if length is None and not environ.get("wsgi.input_terminated"):
        return b""
    missing = limit + 1 if length is None else length
    chunks: list[bytes] = []
    try:
        while missing and (chunk := stream.read(min(missing, _CHUNK))):
            chunks.append(chunk)
            missing -= len(chunk)
    except OSError:
        return Cut.LEFT
    if length is None and not missing:
        # For a handler that runs all the same.
        environ["wsgi.input"] = BufferedReader(_Rejoined(b"".join(chunks), stream))
        return Cut.TOO_LARGE
    if length is not None and missing:
        return Cut.LEFT
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    environ["wsgi.input"] = BytesIO(body)
    environ["wsgi.input_terminated"] = True
    return body


class _Rejoined(RawIOBase):
    """A stream, after what was read of it.

    Args:
        head: What was read.
        stream: The rest.
    """

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head = BytesIO(head)
        self._stream = stream

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        found = self._head.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class _Counted(RawIOBase):
    """A request's body that is counted as it is read."""

    def __init__(self, stream: Any, passing: PassingBody) -> None:
        self._stream = stream
        self._passing = passing

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(self._stream.read(-1 if size is None else size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._counted(self._stream.readline(-1 if size is None else size))

    def readinto(self, buffer: Any) -> int:
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def readall(self) -> bytes:
        return self.read()

    def _counted(self, chunk: bytes) -> bytes:
        self._passing.feed(chunk)
        return chunk


def pass_body(environ: Environ, passing: PassingBody) -> None:
    """Have a body counted while the app reads it."""
    environ["wsgi.input"] = _Counted(environ["wsgi.input"], passing)


def _announced(environ: Environ) -> int | None:
    """Read the length of the body; None without one, or with a nonsensical one."""
    length = environ.get("CONTENT_LENGTH") or ""
    is_number = length.isascii() and length.isdigit() and len(length) < _LONGEST_NUMBER
    return int(length) if is_number else None


def has_left(environ: Environ) -> bool:
    """Tell whether the client is gone, where the server lets us know."""
    if (gone := environ.get("waitress.client_disconnected")) is not None:
        return bool(gone())
    connection = _connection(environ)
    if connection is None:
        return False
    try:
        # A gevent socket would wait: the one below it does not.
        below = getattr(connection, "_sock", connection)
        return bool(below.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except (OSError, ValueError):  # reset; TLS, which cannot peek
        return False


def _connection(environ: Environ) -> Any:
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")


def is_scrape(environ: Environ, path: str) -> bool:
    """Tell Prometheus's request, below whatever the app is mounted at."""
    return environ["PATH_INFO"] == path and environ["REQUEST_METHOD"] in ("GET", "HEAD")
