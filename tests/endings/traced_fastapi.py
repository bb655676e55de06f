"""A guarded FastAPI app that something else instruments too; ENDINGS_TRACED says what."""

import os

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from tests.endings.providers import set_provider

TRACED = os.environ.get("ENDINGS_TRACED", "")

if TRACED == "class-wide-without-provider":
    FastAPIInstrumentor().instrument()  # before anybody imports the class
if TRACED == "before-with-provider":
    set_provider()

from tests.endings import fastapi_app  # noqa: E402

app = fastapi_app.build(FastAPIInstrumentor.instrument_app if TRACED.startswith("before") else None)
