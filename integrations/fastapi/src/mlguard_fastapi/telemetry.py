"""Who opens the server span, and how is it joined?"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Span, TracerProvider
from starlette.types import Scope

from mlguard.clients import Proxies
from mlguard.runtime.service import Service, stable_conventions
from mlguard.tracing import peer
from mlguard_fastapi.translate import is_scrape, peer_of


def configured(app: FastAPI) -> TracerProvider | None:
    """Find the provider that the app was given for FastAPI's own telemetry."""
    config: Any = getattr(app, "_telemetry", None) or {}
    given: TracerProvider | None = config.get("tracer_provider")
    return given


def instrument(app: FastAPI, service: Service) -> None:
    """Have one server span a request: FastAPI's own where it has telemetry, else the contrib's.

    An app that is instrumented already is left as it is.
    """
    if service.tracer_provider is None or getattr(app, "_is_instrumented_by_opentelemetry", False):
        return
    config: Any = getattr(app, "_telemetry", None)
    native = getattr(app, "_native_telemetry", None)
    if config is None or native is None:
        _contrib(app, service)
        return
    if not service.joined:
        # Spans of FastAPI's inner operations double the cost of a request.
        config.update(tracer_provider=service.tracer_provider, operation_spans=False)
    if config["exclude"] is None:
        config["exclude"] = partial(is_scrape, path=service.settings.metrics.path)
    if service.settings.service.trusted_proxies:
        app._native_telemetry = _Trusting(native, service.guard.proxies)  # type: ignore[assignment]


def name_span(span: Span, scope: Scope, route: str) -> None:
    """Name the contrib's span by the whole template, which only the router knows."""
    if span.is_recording():
        span.update_name(f"{scope.get('method', 'WS')} {route}")
        span.set_attribute("http.route", route)


def _contrib(app: FastAPI, service: Service) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    stable_conventions()
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=service.tracer_provider,
        meter_provider=NoOpMeterProvider(),
        excluded_urls="",  # anything else is matched against what clients send
        exclude_spans=["receive", "send"],
    )


class _Trusting:
    """FastAPI's telemetry, told first whether the peer's sampled flag counts."""

    def __init__(self, native: Any, proxies: Proxies) -> None:
        self._native = native
        self._proxies = proxies

    def enabled(self) -> bool:
        return bool(self._native.enabled())

    async def __call__(self, *, scope: Scope, **rest: Any) -> None:
        with peer(trusted=self._proxies.trusts(peer_of(scope))):
            await self._native(scope=scope, **rest)
