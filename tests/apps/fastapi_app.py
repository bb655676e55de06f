"""A FastAPI service as it was, and the one line that guards it."""

from fastapi import FastAPI
from pydantic import BaseModel

from mlguard_fastapi import MLGuard
from tests.apps import iris


class Rows(BaseModel):
    instances: list[list[float]]


app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
async def predict(rows: Rows) -> dict[str, list[str]]:
    return {"predictions": iris.predict(rows.instances)}


guard = MLGuard(app, iris.settings_path())
