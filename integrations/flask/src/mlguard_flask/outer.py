"""What happens at the first and at the last byte?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from mlguard.guard import Exchange, watched
from mlguard.messages import Headers
from mlguard.runtime.drivers import drive
from mlguard.runtime.service import Service
from mlguard.tracing import peer
from mlguard_flask import telemetry
from mlguard_flask.translate import (
    EXCHANGE,
    FAILED,
    PREFIX,
    ROOT,
    STREAMED,
    WSGI,
    Environ,
    is_scrape,
    to_call,
)


class Outer:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: What Flask serves.
        service: Whose guard watches.
        start: Starts what runs beside the requests.
        extensions: The Flask app's, by which a guard around finds this one.
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
        self._start = start

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer the scrape; watch everything else."""
        if not self._service.started:
            self._start()
        around = _take_watched() if EXCHANGE not in environ else None
        if around is not None and self._service.guard.shares(around):
            return self._join(around, environ, start_response)
        if self._service.guard.shares(environ.get(EXCHANGE)):
            with self._service.guard.handling(environ[EXCHANGE]):
                return self.app(environ, start_response)
        if is_scrape(environ, self._service.settings.metrics.path):
            return self._expose(environ, start_response)
        return self._watch(environ, start_response)

    def _watch(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        guard = self._service.guard
        exchange = guard.open(to_call(environ))
        answer = _Watched(exchange, environ, start_response)
        with peer(trusted=guard.proxies.trusts(environ.get("REMOTE_ADDR") or "")):
            return self._answer(answer, exchange, environ)

    def _join(
        self, exchange: Exchange, environ: Environ, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve a request that a guard watches around this app, below where it is mounted."""
        environ[PREFIX] = exchange.route
        answer = _Joined(exchange, environ, start_response)
        answer.handling.enter_context(self._service.guard.handling(exchange))
        return self._answer(answer, exchange, environ)

    def _answer(self, answer: _Watched, exchange: Exchange, environ: Environ) -> Iterable[bytes]:
        environ[EXCHANGE] = exchange
        environ[ROOT] = environ.get("SCRIPT_NAME", "")
        telemetry.watch(environ)
        try:
            answer.chunks = self.app(environ, answer.start)
        except BaseException as error:
            answer.end(error)
            raise
        if answer.refused:
            return answer.refuse()
        if environ.get(STREAMED) or not exchange.decided:
            return answer  # a stream, or an app that answers when it is read
        answer.end(None)
        return answer.chunks

    def _expose(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, text = self._service.expose(environ.get("HTTP_ACCEPT", ""))
        line = f"{status} {HTTPStatus(status).phrase}"
        start_response(line, [("Content-Type", kind), ("Content-Length", str(len(text)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]


class _Watched:
    """A streamed answer on its way to the server, which closes it after the last byte."""

    def __init__(
        self, exchange: Exchange, environ: Environ, start_response: Callable[..., Any]
    ) -> None:
        self._exchange = exchange
        self._environ = environ
        self._start = start_response
        self._status = 500
        self.refused = False
        self.chunks: Iterable[bytes] = ()

    def start(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        """Begin the answer; what answered around Flask's dispatch is decided here."""
        if not self._exchange.decided and drive(self._exchange.decide(None), lambda _: b""):
            self.refused = True
            return lambda _: None
        self._status = int(status[:3])
        return self._start(status, [*headers, *self.headers], *rest)

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota."""
        return self._exchange.headers if self._exchange.deny is None else ()

    def refuse(self) -> Iterable[bytes]:
        """Send the refusal in place of what the app answered."""
        getattr(self.chunks, "close", lambda: None)()
        self._status, headers, body = self._exchange.answer()
        self._start(f"{self._status} {HTTPStatus(self._status).phrase}", list(headers))
        self.end(None)
        return [body]

    def __iter__(self) -> Iterator[bytes]:
        sent = False
        try:
            for chunk in self.chunks:
                if self.refused:
                    yield from self.refuse()
                    return
                yield chunk
                sent = True
        except Exception as error:
            self.end(error, sent=sent)
            raise
        self.end(None)

    def close(self) -> None:
        """End what the server did not read to its end: the client left."""
        try:
            getattr(self.chunks, "close", lambda: None)()
        finally:
            self._exchange.answered(self._status)  # the model has run
            self._status = 499
            self.end(None)

    def end(self, error: BaseException | None, *, sent: bool = False) -> None:
        """End the exchange, once."""
        self._exchange.answered(self._status, error=error, sent=sent)
        self.close_exchange()
        self._exchange.leave()
        telemetry.end(self._environ, self._exchange.span, error or self._environ.get(FAILED))

    def close_exchange(self) -> None:
        """End the request."""
        self._exchange.close(self._status)


class _Joined(_Watched):
    """The same where the guard around adds the headers, and ends the request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.handling = ExitStack()

    @property
    def headers(self) -> Headers:
        """Nothing: they are added around."""
        return ()

    def close_exchange(self) -> None:
        """Leave that to whoever opened it, and let go of it."""
        self.handling.close()


def _take_watched() -> Exchange | None:
    """Take over what a guard watches around this app, once: nothing it does itself is that."""
    exchange = watched.get()
    if exchange is not None:
        watched.set(None)
    return exchange
