"""A guarded FastAPI app whose model keeps every thread."""

from __future__ import annotations

import threading
import time

from fastapi import FastAPI

from mlguard_fastapi import MLGuard
from tests.endings.fastapi_app import Rows, settings

app = FastAPI()
guard = MLGuard(app, settings())
taken: list[float] = []  # seconds that the model itself took, each time
inside: list[int] = []
opened = threading.Event()


@app.get("/health")
@app.get("/again")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.post("/predict")
def predict(rows: Rows) -> dict[str, list[float]]:
    began = time.perf_counter()
    inside.append(1)
    opened.wait(60)
    taken.append(time.perf_counter() - began)
    return {"predictions": [sum(row) for row in rows.instances]}


@app.get("/inside")
async def how_many() -> dict[str, float]:
    return {"inside": len(inside), "taken": sum(taken)}


@app.get("/open")
async def let_pass() -> dict[str, bool]:
    opened.set()
    return {"open": True}
