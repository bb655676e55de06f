"""The guarded Flask app, served by ASGI servers through each bridge."""

from __future__ import annotations

import warnings
from typing import Any

from fastapi import FastAPI

from mlguard_fastapi import MLGuard
from tests.endings import fastapi_app, flask_app


def inner() -> Any:
    return flask_app.Deaf(flask_app.build())


def asgiref() -> Any:
    from asgiref.wsgi import WsgiToAsgi

    return WsgiToAsgi(inner())


def a2wsgi() -> Any:
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(inner())


def starlette() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from starlette.middleware.wsgi import WSGIMiddleware

        return WSGIMiddleware(inner())


def mounted() -> Any:
    """A guarded Flask app in a guarded FastAPI app, which watches, charges and counts for both."""
    from a2wsgi import WSGIMiddleware

    app, said = FastAPI(), fastapi_app.settings()
    models = [{**m, "route": "/flask/predict"} if "route" in m else m for m in said["models"]]
    MLGuard(app, {**said, "models": models})
    fastapi_app.answers(app)
    untraced = {name: table for name, table in said.items() if name != "tracing"}
    app.mount("/flask", WSGIMiddleware(flask_app.build(untraced)))
    return app


def __getattr__(name: str) -> Any:
    """Build the app named `{bridge}_app` when a server asks for it."""
    made = {f"{make.__name__}_app": make for make in (asgiref, a2wsgi, starlette, mounted)}
    if name not in made:
        raise AttributeError(name)
    return globals().setdefault(name, made[name]())
