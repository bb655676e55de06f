"""The FastAPI twins as uvicorn names them: `tests.apps.served_fastapi:app`."""

import json
import os

from tests.apps import fastapi_twin, manners_fastapi, shared_fastapi

MAKERS = {
    "manners": lambda settings: manners_fastapi.guarded(settings)[0],
    "shared": shared_fastapi.guarded,
}

_name = os.environ.get("TWIN", "guarded")
_make = MAKERS.get(_name) or getattr(fastapi_twin, _name)
app = _make(json.loads(os.environ["TWIN_SETTINGS"]))
