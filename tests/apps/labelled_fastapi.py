"""A FastAPI service whose calls are labelled later; the Flask twin answers the same."""

import json
import os

from fastapi import FastAPI
from pydantic import BaseModel

from mlguard_fastapi import MLGuard


class Rows(BaseModel):
    instances: list[list[float]]


class Truths(BaseModel):
    call_id: str
    truths: list[int]


app = FastAPI()
guard = MLGuard(app, json.loads(os.environ["LABELLED_SETTINGS"]))


@app.get("/health")
async def health() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.post("/predict")
async def predict(rows: Rows) -> dict[str, list[float]]:
    scores = [row[0] for row in rows.instances]
    return {"predictions": [int(score >= 0.5) for score in scores], "scores": scores}


@app.post("/own")
async def own(rows: Rows) -> dict[str, str]:
    async with guard.inference("own", rows.instances) as call:
        call.version = "4-canary"
        call.predictions = [row[0] for row in rows.instances]
    return {"call_id": call.id}


@app.post("/truth")
async def truth(told: Truths) -> dict[str, bool]:
    return {"taken": guard.feedback(told.call_id, told.truths)}
