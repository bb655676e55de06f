"""What happens at the first and at the last byte?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from mlguard.guard import Exchange
from mlguard.tracing import PEER_TRUSTED
from mlguard_flask import telemetry
from mlguard_flask.translate import EXCHANGE, FAILED, STREAMED, Environ, to_call

if TYPE_CHECKING:
    from mlguard_flask.guard import MLGuard

WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Outer:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: What Flask serves.
        guard: Whose service watches.
    """

    def __init__(self, app: WSGI, guard: MLGuard) -> None:
        self._app = app
        self._guard = guard

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer the scrape; watch everything else."""
        if EXCHANGE in environ:  # a guarded app mounted in a guarded app is watched once
            return self._app(environ, start_response)
        if not self._guard.started:
            self._guard.start()
        if self._is_scrape(environ):
            return self._expose(environ, start_response)
        return self._watch(environ, start_response)

    def _watch(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        service = self._guard.service
        exchange = environ[EXCHANGE] = service.guard.open(to_call(environ))
        if service.settings.service.trusted_proxies:
            PEER_TRUSTED.set(service.guard.proxies.trusts(environ.get("REMOTE_ADDR") or ""))
        watched = _Watched(exchange, environ, start_response)
        try:
            watched.chunks = self._app(environ, watched.start)
        except BaseException as error:
            watched.end(error)
            raise
        if environ.get(STREAMED):
            return watched
        watched.end(None)
        return watched.chunks

    def _is_scrape(self, environ: Environ) -> bool:
        path = self._guard.service.settings.metrics.path
        return environ["PATH_INFO"] == path and environ["REQUEST_METHOD"] in ("GET", "HEAD")

    def _expose(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, text = self._guard.service.expose(environ.get("HTTP_ACCEPT", ""))
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
        self.chunks: Iterable[bytes] = ()

    def start(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        self._status = int(status[:3])
        if self._exchange.deny is None:
            headers = [*headers, *self._exchange.headers]
        return self._start(status, headers, *rest)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.chunks
        except Exception as error:
            self.end(error)
            raise
        self.end(None)

    def close(self) -> None:
        """End what the server did not read to its end: the client left."""
        try:
            getattr(self.chunks, "close", lambda: None)()
        finally:
            self._status = 499
            self.end(None)

    def end(self, error: BaseException | None) -> None:
        """End the exchange, once."""
        self._exchange.answered(self._status, error=error)
        self._exchange.close(self._status)
        telemetry.end(self._environ, error or self._environ.get(FAILED))
