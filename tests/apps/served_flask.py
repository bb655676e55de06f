"""The Flask twin as gunicorn names it: `tests.apps.served_flask:app`."""

import json
import os

from tests.apps import flask_twin

app = getattr(flask_twin, os.environ.get("TWIN", "guarded"))(
    json.loads(os.environ["TWIN_SETTINGS"])
)
