"""The guarded FastAPI app, for a server to import."""

import os

from tests.endings import fastapi_app, foreign

if os.environ.get("ENDINGS_CONTEXT") == "foreign":
    foreign.install()

app = fastapi_app.Deaf(fastapi_app.build())
