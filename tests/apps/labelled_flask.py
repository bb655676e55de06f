"""A Flask service whose calls are labelled later; the FastAPI twin answers the same."""

import json
import os
from typing import Any

from flask import Flask, request

from mlguard_flask import MLGuard

app = Flask(__name__)
guard = MLGuard(app, json.loads(os.environ["LABELLED_SETTINGS"]))


@app.get("/health")
def health() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.post("/predict")
def predict() -> dict[str, Any]:
    scores = [row[0] for row in request.get_json()["instances"]]
    return {"predictions": [int(score >= 0.5) for score in scores], "scores": scores}


@app.post("/own")
def own() -> dict[str, str]:
    rows = request.get_json()["instances"]
    with guard.inference("own", rows) as call:
        call.version = "4-canary"
        call.predictions = [row[0] for row in rows]
    return {"call_id": call.id}


@app.post("/truth")
def truth() -> dict[str, bool]:
    told = request.get_json()
    return {"taken": guard.feedback(told["call_id"], told["truths"])}
