"""Who competes?

A bare worker imports this: nothing here loads what only the others need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BARE, OTEL, HAND, OURS = "bare", "OpenTelemetry contrib", "assembled by hand", "mlguard"


def nothing() -> None:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to serve the same route.

    Attributes:
        name: In the table.
        app: The ASGI or WSGI app.
        service: Its spans' `service.name`; empty where it is not traced.
        guarded: Whether it refuses requests without a token, and has metrics.
        flush: Finishes what it does beside the requests: everything is exported then.
        close: Ends what it started.
    """

    name: str
    app: Any
    service: str = ""
    guarded: bool = False
    flush: Callable[[], Any] = nothing
    close: Callable[[], Any] = nothing


def flush(guard: Any) -> None:
    """Have a guard finish what it does beside the requests. The one hook into the kit."""
    guard.service.flush()


def kit(name: str, app: Any, guard: Any, tables: Mapping[str, Any]) -> Contestant:
    """Make a contestant of a guarded app."""
    return Contestant(
        name,
        app,
        tables["service"]["name"] if "tracing" in tables else "",
        guarded="auth" in tables,
        flush=lambda: flush(guard),
        close=guard.service.close,
    )


def traced(name: str, app: Any, provider: Any, *, guarded: bool = False) -> Contestant:
    """Make a contestant of an app whose spans a provider of its own exports."""
    service = provider.resource.attributes["service.name"]
    close = provider.shutdown
    return Contestant(name, app, service, guarded, flush=provider.force_flush, close=close)


def exporting(service: str, endpoint: str) -> Any:
    """Make a provider as OpenTelemetry's documentation does: batches over OTLP/HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
