"""The guarded Flask app, for a server to import."""

import os

from tests.endings import flask_app, foreign

if os.environ.get("ENDINGS_CONTEXT") == "foreign":
    foreign.install()

app = flask_app.Deaf(flask_app.build())
