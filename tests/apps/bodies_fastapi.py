"""FastAPI routes as people write them, whatever their bodies; the twin is `bodies_flask`."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated, Any

import pandas as pd
from fastapi import Body, FastAPI, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from mlguard.errors import MLGuardError
from mlguard_fastapi import MLGuard
from tests.apps import kinds
from tests.apps.iris import FEATURES, predict


class Flower(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


class Flat(BaseModel):
    features: list[float]


class Picture(BaseModel):
    image: list[list[float]]


class Documents(BaseModel):
    documents: list[dict[str, Any]]


def species(flowers: list[Flower]) -> list[str]:
    return predict([[getattr(flower, name) for name in FEATURES] for flower in flowers])


def bare() -> FastAPI:
    app = FastAPI()

    @app.post("/iris")
    async def iris(flower: Flower) -> dict[str, Any]:
        return {"species": species([flower])[0], "probability": 0.75}

    @app.post("/list")
    def flowers(flowers: list[Flower]) -> list[str]:
        return species(flowers)

    @app.post("/flat")
    def flat(body: Flat) -> dict[str, Any]:
        return {"label": predict([body.features])[0], "probabilities": [0.0, 1.0, 0.0]}

    @app.post("/image")
    def image(picture: Picture) -> list[float]:
        return [0.0] * 9 + [float(len(picture.image))]

    @app.post("/documents")
    def documents(body: Documents) -> dict[str, Any]:
        return {"answers": [{"topics": list(d)} for d in body.documents]}

    @app.post("/nested")
    def nested(body: Any = Body()) -> dict[str, Any]:
        found = predict(body["inputs"][0]["data"])
        return {"outputs": [{"label": label, "score": 0.5} for label in found]}

    @app.post("/dotted")
    def dotted(body: Any = Body()) -> dict[str, Any]:
        return {"iris.species": predict(body["iris.rows"])}

    @app.post("/form")
    def form(
        sepal_length: Annotated[list[float], Form()],
        sepal_width: Annotated[list[float], Form()],
        petal_length: Annotated[list[float], Form()],
        petal_width: Annotated[list[float], Form()],
    ) -> dict[str, Any]:
        columns = (sepal_length, sepal_width, petal_length, petal_width)
        return {"species": predict(list(map(list, zip(*columns, strict=True))))}

    @app.get("/query")
    def query(
        sepal_length: float, sepal_width: float, petal_length: float, petal_width: float
    ) -> str:
        return predict([[sepal_length, sepal_width, petal_length, petal_width]])[0]

    @app.post("/files")
    async def files(files: list[UploadFile]) -> list[int]:
        return [len(await file.read()) for file in files]

    @app.post("/upload")
    async def upload(request: Request) -> StreamingResponse:
        """Read an upload bit by bit, as one does with what is larger than memory."""
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return StreamingResponse(iter([f"{size} ", "bytes"]), media_type="text/plain")

    @app.post("/csv")
    async def csv(request: Request) -> dict[str, Any]:
        frame = pd.read_csv(BytesIO(await request.body()))
        return {"species": predict(frame[list(FEATURES)].to_numpy().tolist())}

    @app.api_route("/both", methods=["GET", "POST"])
    def both(body: Any = Body(None)) -> Any:
        return {"help": "post a list"} if body is None else predict(body)

    return app


def owned(app: FastAPI, guard: MLGuard) -> None:
    """Add handlers that guard their model themselves."""

    @app.post("/own")
    async def own(kind: str, flowers: list[list[float]] = Body()) -> list[str]:
        async with guard.inference("iris", kinds.ALL[kind](flowers)) as call:
            call.predictions = predict(flowers)
        return call.predictions[: call.rows]

    @app.post("/own/stated")
    def stated(rows: int) -> int:
        with guard.inference("iris", (n for n in range(9)), rows=rows) as call:
            return call.rows

    @app.post("/own/wrong")
    def wrong(kind: str) -> str:
        try:
            with guard.inference("iriss" if kind == "name" else "iris", iter("abc")):
                return "it ran"
        except (MLGuardError, TypeError) as error:
            return str(error)
