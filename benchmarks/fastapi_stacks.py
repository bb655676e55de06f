"""How is the same FastAPI route served, bare and with company?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from jose import JWTError, jwt
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIASGIMiddleware
from slowapi.util import get_remote_address

from benchmarks.measure import (
    AUDIENCE,
    ISSUER,
    SECRET,
    UNREACHED,
    Contestant,
    Spans,
    predict,
)


class Rows(BaseModel):
    instances: list[list[float]]


def service(dependencies: Sequence[Any] = ()) -> FastAPI:
    """Make the service that everybody starts from."""
    # No provider is global here, so FastAPI's own telemetry stays off but for whom it is given.
    app = FastAPI()

    @app.post("/predict", dependencies=list(dependencies))
    async def predictions(rows: Rows) -> dict[str, list[str]]:
        return {"predictions": predict(rows.instances)}

    return app


def bare() -> Contestant:
    """Nothing but the service."""
    return Contestant("bare", service())


def otel() -> Contestant:
    """OpenTelemetry's instrumentation as it comes."""
    app, spans = service(), Spans()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider())
    return Contestant("OpenTelemetry contrib", app, spans)


# Not a plain function: that would cost a hop to another thread for each request.
async def verified(
    credentials: HTTPAuthorizationCredentials = Depends(HTTPBearer()),  # noqa: B008
) -> dict[str, Any]:
    """Verify the token, as tutorials do."""
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


def assembled(limit: str = UNREACHED) -> Contestant:
    """The same packages, wired by hand; requests are limited, rows cannot be."""
    app, spans = service([Depends(verified)]), Spans()
    app.state.limiter = Limiter(
        key_func=get_remote_address, default_limits=[limit], key_style="endpoint"
    )
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    app.add_middleware(SlowAPIASGIMiddleware)
    Instrumentator(registry=CollectorRegistry()).instrument(app).expose(app)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider())
    return Contestant("assembled by hand", app, spans, guarded=True)


def guarded(
    settings: Callable[[str, str, bool], Mapping[str, Any]],
    limit: str = UNREACHED,
    *,
    companion: bool = True,
) -> Contestant:
    """The kit with all five parts on."""
    from mlguard_fastapi import MLGuard

    app, spans = service(), Spans()
    guard = MLGuard(app, settings("bench-fastapi", limit, companion))
    # In place of its OTLP exporter, as with the others.
    guard.service._spans = spans.processor
    return Contestant("mlguard", app, spans, guarded=True, close=guard.service.close)
