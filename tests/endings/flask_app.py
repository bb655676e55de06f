"""A guarded Flask app with every way to end; `fastapi_app` is its twin."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mlguard_flask import MLGuard
from tests.endings import gates


class Deaf:
    """A server that cannot write: the answer's beginning, or its first bytes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/deaf/start":
            return self._app(environ, _failing)
        chunks = self._app(environ, start_response)
        return _unwritten(chunks) if path == "/deaf/body" else chunks


def _failing(*_: Any) -> Any:
    raise OSError("the transport is closed")


def _unwritten(chunks: Any) -> Iterator[bytes]:
    try:
        for _ in chunks:
            raise OSError("the transport is closed")
    finally:
        # PEP 3333: whether the request was completed or ended early.
        getattr(chunks, "close", lambda: None)()
    yield b""


def settings() -> Any:
    return json.loads(Path(os.environ["ENDINGS_SETTINGS"]).read_text())


def build(said: Any = None, prepare: Callable[[Flask], object] | None = None) -> Flask:
    """Build the app, prepared by something before the guard comes."""
    app = Flask(__name__)
    if prepare is not None:
        prepare(app)
    app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, {"/mounted": mounted()}
    )
    MLGuard(app, said or settings())
    answers(app)
    streams(app)
    return app


def answers(app: Flask) -> None:
    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/again")
    @app.get("/ok")
    def ok() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/aborted")
    def aborted() -> None:
        abort(409)

    @app.get("/broken")
    def broken() -> None:
        raise LookupError("secret-42")

    @app.get("/slow")
    @app.get("/slow/thread")
    def slow() -> dict[str, bool]:
        gates.wait(request.args["gate"])
        return {"ok": True}

    @app.post("/predict")
    def predict() -> dict[str, list[float]]:
        rows = request.get_json()["instances"]
        if not rows[0]:
            raise LookupError("secret-42")
        return {"predictions": [sum(row) for row in rows]}

    @app.get("/deaf/start")
    @app.get("/deaf/body")
    def deaf() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/teardown")
    def torn() -> dict[str, bool]:
        return {"ok": True}

    @app.teardown_request
    def tear(error: BaseException | None) -> None:
        if request.path.endswith("/teardown"):
            raise LookupError("secret-42")


def streams(app: Flask) -> None:
    def held(gate: str) -> Iterator[bytes]:
        yield b"one"
        gates.wait(gate)
        yield b"two"

    def endless(gate: str) -> Iterator[bytes]:
        yield b"one"
        gates.wait(gate)
        yield from gates.flood()

    def failing(before: tuple[bytes, ...]) -> Iterator[bytes]:
        yield from before
        raise LookupError("secret-42")

    def closing(gate: str) -> Iterator[bytes]:
        try:
            yield b"one"
            gates.wait(gate)
            yield from gates.flood() if "-left-" in gate else ()
        finally:
            yield b"two"

    @app.get("/stream")
    def stream() -> Response:
        return Response(held(request.args["gate"]), mimetype="text/plain")

    @app.get("/endless")
    def endlessly() -> Response:
        return Response(endless(request.args["gate"]), mimetype="text/plain")

    @app.get("/closing")
    def closes() -> Response:
        return Response(closing(request.args["gate"]), mimetype="text/plain")

    @app.get("/fails/late")
    def late() -> Response:
        return Response(failing((b"one",)), mimetype="text/plain")

    @app.get("/fails/first")
    def first() -> Response:
        return Response(failing(()), mimetype="text/plain")

    @app.get("/fails/empty")
    def empty() -> Response:
        return Response(failing((b"",)), mimetype="text/plain")


def mounted() -> Flask:
    app = Flask("mounted")

    @app.get("/items/<item>")
    def item(item: str) -> dict[str, str]:
        return {"item": item}

    return app
