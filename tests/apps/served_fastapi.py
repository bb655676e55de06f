"""The FastAPI twin as uvicorn names it: `tests.apps.served_fastapi:app`."""

import json
import os

from tests.apps import fastapi_twin

app = getattr(fastapi_twin, os.environ.get("TWIN", "guarded"))(
    json.loads(os.environ["TWIN_SETTINGS"])
)
