"""A guarded Flask app that something else instruments too; ENDINGS_TRACED says what."""

import os

from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.endings.providers import set_provider

TRACED = os.environ.get("ENDINGS_TRACED", "")

if TRACED == "class-wide-without-provider":
    FlaskInstrumentor().instrument()  # before anybody imports the class
if TRACED == "before-with-provider":
    set_provider()

from tests.endings import flask_app  # noqa: E402

app = flask_app.build(
    prepare=FlaskInstrumentor().instrument_app if TRACED.startswith("before") else None
)
