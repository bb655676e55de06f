"""How is the same Flask route served, bare and with company?

What a contestant needs is imported by it alone: a bare worker has nothing of the others in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, request

from benchmarks.contestants import BARE, HAND, OTEL, OURS, Contestant, exporting, kit, traced
from benchmarks.service import AUDIENCE, ISSUER, SECRET, UNREACHED, predict

FRAMEWORK = "Flask"
PEERS = (
    "flask-jwt-extended's jwt_required around the view",
    "flask-limiter, in memory, one window of requests, by address",
    "prometheus-flask-exporter with /metrics exposed",
    "opentelemetry-instrumentation-flask, BatchSpanProcessor, OTLP/HTTP protobuf",
)
PACKAGES = (
    "flask",
    "flask-jwt-extended",
    "flask-limiter",
    "prometheus-flask-exporter",
    "opentelemetry-instrumentation-flask",
)


def service(
    decorate: Callable[[Any], Any] = lambda view: view, *, hold: Callable[[], None] | None = None
) -> Flask:
    """Make the service that everybody starts from.

    Args:
        decorate: Decorates its view.
        hold: What the view calls first.
    """
    app = Flask(__name__)

    @app.post("/predict")
    @decorate
    def predictions() -> dict[str, list[str]]:
        if hold is not None:
            hold()
        return {"predictions": predict(request.get_json()["instances"])}

    return app


def add_routes(app: Flask, count: int) -> None:
    """Add so many other routes."""
    for number in range(count):
        rule = f"/others/{number}/<name>"
        app.add_url_rule(rule, f"other{number}", lambda name: name)


def bare(app: Flask | None = None) -> Contestant:
    """Nothing but the service."""
    return Contestant(BARE, app or service())


def otel(endpoint: str) -> Contestant:
    """OpenTelemetry's instrumentation as it comes."""
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    app, provider = service(), exporting("flask-otel", endpoint)
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    return traced(OTEL, app, provider)


def assembled(endpoint: str, limit: str = UNREACHED) -> Contestant:
    """The same packages, wired by hand; requests are limited, rows cannot be."""
    from flask_jwt_extended import JWTManager, jwt_required
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from prometheus_client import CollectorRegistry
    from prometheus_flask_exporter import PrometheusMetrics

    app, provider = service(jwt_required()), exporting("flask-by-hand", endpoint)
    # First: it would miss what others answer before it.
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    app.config |= {
        "JWT_SECRET_KEY": SECRET,
        "JWT_DECODE_ISSUER": ISSUER,
        "JWT_DECODE_AUDIENCE": AUDIENCE,
    }
    JWTManager(app)
    Limiter(get_remote_address, app=app, default_limits=[limit], storage_uri="memory://")
    PrometheusMetrics(app, registry=CollectorRegistry())
    return traced(HAND, app, provider, guarded=True)


def guarded(tables: Mapping[str, Any], name: str = OURS, *, app: Flask | None = None) -> Contestant:
    """The kit, with what stands in its settings."""
    from mlguard_flask import MLGuard

    app = app or service()
    return kit(name, app, MLGuard(app, tables), tables)
