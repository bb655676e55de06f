"""How is the same Flask route served, bare and with company?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, request
from flask_jwt_extended import JWTManager, jwt_required
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics

from benchmarks.measure import (
    AUDIENCE,
    ISSUER,
    SECRET,
    UNREACHED,
    Contestant,
    Spans,
    predict,
)


def service(decorate: Callable[[Any], Any] = lambda view: view) -> Flask:
    """Make the service that everybody starts from."""
    app = Flask(__name__)

    @app.post("/predict")
    @decorate
    def predictions() -> dict[str, list[str]]:
        return {"predictions": predict(request.get_json()["instances"])}

    return app


def bare() -> Contestant:
    """Nothing but the service."""
    return Contestant("bare", service())


def otel() -> Contestant:
    """OpenTelemetry's instrumentation as it comes."""
    app, spans = service(), Spans()
    FlaskInstrumentor().instrument_app(app, tracer_provider=spans.provider())
    return Contestant("OpenTelemetry contrib", app, spans)


def assembled(limit: str = UNREACHED) -> Contestant:
    """The same packages, wired by hand; requests are limited, rows cannot be."""
    app, spans = service(jwt_required()), Spans()
    # First: it would miss what others answer before it.
    FlaskInstrumentor().instrument_app(app, tracer_provider=spans.provider())
    app.config |= {
        "JWT_SECRET_KEY": SECRET,
        "JWT_DECODE_ISSUER": ISSUER,
        "JWT_DECODE_AUDIENCE": AUDIENCE,
    }
    JWTManager(app)
    Limiter(get_remote_address, app=app, default_limits=[limit], storage_uri="memory://")
    PrometheusMetrics(app, registry=CollectorRegistry())
    return Contestant("assembled by hand", app, spans, guarded=True)


def guarded(
    settings: Callable[[str, str, bool], Mapping[str, Any]],
    limit: str = UNREACHED,
    *,
    companion: bool = True,
) -> Contestant:
    """The kit with all five parts on."""
    from mlguard_flask import MLGuard

    app, spans = service(), Spans()
    guard = MLGuard(app, settings("bench-flask", limit, companion))
    # In place of its OTLP exporter, as with the others.
    guard.service._spans = spans.processor
    return Contestant("mlguard", app, spans, guarded=True, close=guard.service.close)
