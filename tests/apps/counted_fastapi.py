"""A FastAPI service whose answers are counted; the Flask twin is `tests.apps.counted_flask`."""

import json
import os
import threading
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from mlguard_fastapi import MLGuard


class Rows(BaseModel):
    instances: list[list[float]]
    more: int = 0


app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/threads")
async def running_threads() -> dict[str, Any]:
    """Name the threads of the worker that answers."""
    return {"worker": os.getpid(), "threads": [t.name for t in threading.enumerate()]}


@app.post("/predict")
@app.post("/loose")
@app.post("/strict")
async def predict(rows: Rows) -> dict[str, Any]:
    """Answer with `more` predictions than there are rows, and say which worker did."""
    found = [sum(row) for row in rows.instances] + [0.0] * rows.more
    return {"predictions": found, "worker": os.getpid()}


guard = MLGuard(app, json.loads(os.environ["COUNTED"]))
for unit in guard.service.settings.quotas.all_units if guard.service.settings.quotas else ():
    guard.counts(unit)(lambda call: call.rows)
