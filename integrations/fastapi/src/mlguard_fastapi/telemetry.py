"""Who opens the server span where it is not ours?"""

from __future__ import annotations

from itertools import count
from typing import Any

from fastapi import FastAPI
from opentelemetry.trace import TracerProvider

from mlguard.tracing import Tracing

_EACH = 256  # requests


def configured(app: FastAPI) -> TracerProvider | None:
    """Find the provider that the app was given for FastAPI's own telemetry."""
    config: Any = getattr(app, "_telemetry", None) or {}
    given: TracerProvider | None = config.get("tracer_provider")
    return given


def instrument(app: FastAPI, tracing: Tracing) -> None:
    """Have the package open the server spans, where the settings or a provider want it so.

    FastAPI's own telemetry where it has one, else opentelemetry-instrumentation-fastapi.
    """
    config: Any = getattr(app, "_telemetry", None)
    is_instrumented = getattr(app, "_is_instrumented_by_opentelemetry", False)
    is_theirs = is_instrumented or (config is not None and config["auto_configure"])
    if tracing.leaves_to_packages(is_instrumented=is_theirs):
        if config is None:
            _contrib(app, tracing)
        elif not tracing.joined:
            # Spans of FastAPI's inner operations double the cost of a request.
            config.update(tracer_provider=tracing.provider, operation_spans=False)
    elif config is not None:
        _ask_seldom(app._native_telemetry)


def _contrib(app: FastAPI, tracing: Tracing) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.metrics import NoOpMeterProvider

    from mlguard.app.service import stable_conventions

    stable_conventions()
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=tracing.provider,
        meter_provider=NoOpMeterProvider(),
        excluded_urls="",  # anything else is matched against what clients send
        exclude_spans=["receive", "send"],
    )


def _ask_seldom(native: Any) -> None:
    """Have FastAPI's own telemetry look for its three providers now and then, not each time."""
    enabled, asked, found = native.enabled, count(), False

    def known() -> bool:
        nonlocal found
        if next(asked) % _EACH == 0:
            found = bool(enabled())
        return found

    native.enabled = known
