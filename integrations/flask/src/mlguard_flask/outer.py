"""What happens at the first and at the last byte?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from mlguard.guard import Exchange
from mlguard.runtime.drivers import drive
from mlguard.runtime.service import Service
from mlguard.tracing import peer
from mlguard_flask import telemetry
from mlguard_flask.translate import (
    EXCHANGE,
    FAILED,
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
    """

    def __init__(self, app: WSGI, service: Service, start: Callable[[], None]) -> None:
        self.app = app
        self._service = service
        self._start = start

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer the scrape; watch everything else."""
        if not self._service.started:
            self._start()
        if self._service.guard.shares(environ.get(EXCHANGE)):
            with self._service.guard.handling(environ[EXCHANGE]):
                return self.app(environ, start_response)
        if is_scrape(environ, self._service.settings.metrics.path):
            return self._expose(environ, start_response)
        return self._watch(environ, start_response)

    def _watch(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        guard = self._service.guard
        exchange = environ[EXCHANGE] = guard.open(to_call(environ))
        environ[ROOT] = environ.get("SCRIPT_NAME", "")
        telemetry.watch(environ)
        watched = _Watched(exchange, environ, start_response)
        try:
            with peer(trusted=guard.proxies.trusts(environ.get("REMOTE_ADDR") or "")):
                watched.chunks = self.app(environ, watched.start)
        except BaseException as error:
            watched.end(error)
            raise
        if watched.refused:
            return watched.refuse()
        if environ.get(STREAMED) or not exchange.decided:
            return watched  # a stream, or an app that answers when it is read
        watched.end(None)
        return watched.chunks

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
        if self._exchange.deny is None:
            headers = [*headers, *self._exchange.headers]
        return self._start(status, headers, *rest)

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
        self._exchange.close(self._status)
        self._exchange.leave()
        telemetry.end(self._environ, self._exchange.span, error or self._environ.get(FAILED))
