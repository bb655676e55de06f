"""Who opens the server span where it is not ours?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from mlguard.tracing import Tracing, detach

_PACKAGE = "opentelemetry.instrumentation.flask"
_ACTIVATION = "opentelemetry-flask.activation_key"
_ATTACHED = "opentelemetry-flask.token"


def instrument(app: Flask, tracing: Tracing) -> None:
    """Have the package open the server spans, where the settings or a provider want it so."""
    is_theirs = any(opens_span(f) for f in app.before_request_funcs.get(None, []))
    if not tracing.leaves_to_packages(is_instrumented=is_theirs):
        return
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.metrics import NoOpMeterProvider

    from mlguard.app.service import stable_conventions

    stable_conventions()
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app,
        tracer_provider=tracing.provider,
        meter_provider=NoOpMeterProvider(),
        excluded_urls="",  # anything else is matched against what clients send
        enable_commenter=False,
    )


def opens_span(function: Any) -> bool:
    """Tell the function that opens the server span from others."""
    return getattr(function, "__module__", None) == _PACKAGE


def take_over(environ: dict[str, Any]) -> Callable[[], None] | None:
    """Keep the package from ending its span before a streamed answer; return what ends it."""
    activation, token = environ.pop(_ACTIVATION, None), environ.pop(_ATTACHED, None)
    if activation is None:
        return None

    def finish() -> None:
        activation.__exit__(None, None, None)
        if token is not None:
            detach(token)

    return finish
