"""A Flask service whose answers are counted; the FastAPI twin is `tests.apps.counted_fastapi`."""

import json
import os
import threading
from typing import Any

from flask import Flask, request

from mlguard_flask import MLGuard

app = Flask(__name__)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/threads")
def running_threads() -> dict[str, Any]:
    """Name the threads of the worker that answers."""
    return {"worker": os.getpid(), "threads": [t.name for t in threading.enumerate()]}


@app.post("/predict")
@app.post("/loose")
@app.post("/strict")
def predict() -> dict[str, Any]:
    """Answer with `more` predictions than there are rows, and say which worker did."""
    asked = request.get_json()
    found = [sum(row) for row in asked["instances"]] + [0.0] * asked.get("more", 0)
    return {"predictions": found, "worker": os.getpid()}


guard = MLGuard(app, json.loads(os.environ["COUNTED"]))
for unit in guard.service.settings.quotas.all_units if guard.service.settings.quotas else ():
    guard.counts(unit)(lambda call: call.rows)
