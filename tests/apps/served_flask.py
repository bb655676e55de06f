"""The Flask twins as gunicorn names them: `tests.apps.served_flask:app`."""

import json
import os

from tests.apps import flask_twin, manners_flask, shared_flask

MAKERS = {
    "manners": lambda settings: manners_flask.guarded(settings)[0],
    "shared": shared_flask.guarded,
}

_name = os.environ.get("TWIN", "guarded")
_make = MAKERS.get(_name) or getattr(flask_twin, _name)
app = _make(json.loads(os.environ["TWIN_SETTINGS"]))
