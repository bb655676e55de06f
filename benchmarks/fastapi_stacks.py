"""How is the same FastAPI route served, bare and with company?

What a contestant needs is imported by it alone: a bare worker has nothing of the others in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from benchmarks.contestants import BARE, HAND, OTEL, OURS, Contestant, exporting, kit, traced
from benchmarks.service import AUDIENCE, ISSUER, SECRET, UNREACHED, predict

FRAMEWORK = "FastAPI"
PEERS = (
    "python-jose behind HTTPBearer in a dependency",
    "slowapi's ASGI middleware, in memory, one window of requests, by address",
    "prometheus-fastapi-instrumentator with /metrics exposed",
    "opentelemetry-instrumentation-fastapi, BatchSpanProcessor, OTLP/HTTP protobuf",
)
PACKAGES = (
    "fastapi",
    "python-jose",
    "slowapi",
    "prometheus-fastapi-instrumentator",
    "opentelemetry-instrumentation-fastapi",
)


class Rows(BaseModel):
    instances: list[list[float]]


def service(
    dependencies: Sequence[Any] = (), *, hold: Callable[[], Awaitable[None]] | None = None
) -> FastAPI:
    """Make the service that everybody starts from.

    Args:
        dependencies: Of its route.
        hold: What the handler awaits first.
    """
    # No provider is global here, so FastAPI's own telemetry stays off but for whom it is given.
    app = FastAPI()

    @app.post("/predict", dependencies=list(dependencies))
    async def predictions(rows: Rows) -> dict[str, list[str]]:
        if hold is not None:
            await hold()
        return {"predictions": predict(rows.instances)}

    return app


def add_routes(app: FastAPI, count: int) -> None:
    """Add so many other routes."""
    for number in range(count):
        app.add_api_route(f"/others/{number}/{{name}}", lambda name: name, name=f"other{number}")


def bare(app: FastAPI | None = None) -> Contestant:
    """Nothing but the service."""
    return Contestant(BARE, app or service())


def otel(endpoint: str) -> Contestant:
    """OpenTelemetry's instrumentation as it comes."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app, provider = service(), exporting("fastapi-otel", endpoint)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return traced(OTEL, app, provider)


# Not a plain function: that would cost a hop to another thread for each request.
async def verified(
    credentials: HTTPAuthorizationCredentials = Depends(HTTPBearer()),  # noqa: B008
) -> dict[str, Any]:
    """Verify the token, as tutorials do."""
    from jose import JWTError, jwt

    try:
        return jwt.decode(
            credentials.credentials,
            SECRET,
            algorithms=["HS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
        )
    except JWTError as error:
        raise HTTPException(401) from error


def assembled(endpoint: str, limit: str = UNREACHED) -> Contestant:
    """The same packages, wired by hand; requests are limited, rows cannot be."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from prometheus_client import CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.middleware import SlowAPIASGIMiddleware
    from slowapi.util import get_remote_address

    app, provider = service([Depends(verified)]), exporting("fastapi-by-hand", endpoint)
    app.state.limiter = Limiter(
        key_func=get_remote_address, default_limits=[limit], key_style="endpoint"
    )
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    app.add_middleware(SlowAPIASGIMiddleware)
    Instrumentator(registry=CollectorRegistry()).instrument(app).expose(app)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return traced(HAND, app, provider, guarded=True)


def guarded(
    tables: Mapping[str, Any], name: str = OURS, *, app: FastAPI | None = None
) -> Contestant:
    """The kit, with what stands in its settings."""
    from mlguard_fastapi import MLGuard

    app = app or service()
    return kit(name, app, MLGuard(app, tables), tables)
