"""A server of several models, each under a path of its own; it lists them, and knows no other."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Rows(BaseModel):
    inputs: list[list[float]]


MODELS = {"sum": sum, "largest": max}


def create_app() -> FastAPI:
    app = FastAPI()

    @app.get("/models")
    async def listed() -> list[str]:
        return sorted(MODELS)

    @app.get("/models/{name}")
    async def one(name: str) -> dict[str, Any]:
        return {"name": name, "ready": name in MODELS}

    @app.post("/models/{name}/predict")
    def predict(name: str, rows: Rows) -> dict[str, Any]:
        if name not in MODELS:
            raise HTTPException(404, f"no model {name}")
        return {"model": name, "outputs": [MODELS[name](row) for row in rows.inputs]}

    return app
