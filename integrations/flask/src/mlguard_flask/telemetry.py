"""Who opens the server span, and when does it end?

opentelemetry-instrumentation-flask opens it in `before_request` and would end it before a streamed
answer's first byte; the kit takes the end over.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation import flask as contrib
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Span, Status, StatusCode

from mlguard.metrics import METHODS
from mlguard.runtime.service import Service, stable_conventions
from mlguard.tracing import reset
from mlguard_flask.translate import Environ

_ACTIVATION = getattr(contrib, "_ENVIRON_ACTIVATION_KEY", "opentelemetry-flask.activation_key")
_TOKEN = getattr(contrib, "_ENVIRON_TOKEN", "opentelemetry-flask.token")
_OURS = "mlguard.activation"


def instrument(app: Flask, service: Service) -> None:
    """Have one server span a request; an app that is instrumented already is left as it is."""
    if service.tracer_provider is None or getattr(app, "_is_instrumented_by_opentelemetry", False):
        return
    stable_conventions()
    contrib.FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app,
        tracer_provider=service.tracer_provider,
        meter_provider=NoOpMeterProvider(),
        excluded_urls="",  # anything else is matched against what clients send
        enable_commenter=False,
    )


def opens_span(function: Any) -> bool:
    """Tell the function that opens the server span from others."""
    return getattr(function, "__module__", None) == contrib.__name__


def watch(environ: Environ) -> None:
    """Keep what is taken over where each dispatch finds it, of a copied environ too."""
    environ[_OURS] = []


def take_over(environ: Environ, *, matched: bool) -> None:
    """Keep the span open beyond the view, and its name free of what clients send.

    Args:
        environ: The request's.
        matched: Whether a route matched.
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes(_server(environ))
        if not matched:
            method = environ["REQUEST_METHOD"]
            span.update_name(method if method in METHODS else "HTTP")
    activation = environ.pop(_ACTIVATION, None)
    if activation is not None:
        environ.setdefault(_OURS, []).append((activation, environ.pop(_TOKEN, None)))


def _server(environ: Environ) -> dict[str, str | int]:
    """Split host and port, which the instrumentation leaves in one attribute."""
    try:
        host = urlsplit(f"//{environ.get('HTTP_HOST') or environ['SERVER_NAME']}")
        port = host.port or int(environ["SERVER_PORT"])
    except ValueError:
        return {}
    return {"server.address": host.hostname or "", "server.port": port}


def end(environ: Environ, span: Span, error: BaseException | None) -> None:
    """End the server span at the last byte, and those of earlier dispatches of the request."""
    activations = environ.get(_OURS, [])
    if activations and error is not None:
        # The exception's message may quote the input: only its type is told.
        span.set_attribute("error.type", _name(type(error)))
        span.set_status(Status(StatusCode.ERROR))
    while activations:
        activation, token = activations.pop()
        activation.__exit__(None, None, None)
        if token is not None:
            reset(token)


def _name(kind: type[BaseException]) -> str:
    """Name a class as OpenTelemetry does: builtins without their module."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
