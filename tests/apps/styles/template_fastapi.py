"""A template for scikit-learn: one flower is the root object, the model is loaded at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, Field
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier


class Flower(BaseModel):
    sepal_length: float = Field(gt=0, examples=[5.1])
    sepal_width: float = Field(gt=0, examples=[3.5])
    petal_length: float = Field(gt=0, examples=[1.4])
    petal_width: float = Field(gt=0, examples=[0.2])


class Prediction(BaseModel):
    label: str
    probability: float


router = APIRouter(prefix="/api/v1", tags=["prediction"])


@router.post("/predict", response_model=Prediction)
def predict(flower: Flower, request: Request) -> Prediction:
    model, names = request.app.state.model, request.app.state.names
    row = [[flower.sepal_length, flower.sepal_width, flower.petal_length, flower.petal_width]]
    likely = model.predict_proba(row)[0]
    return Prediction(label=names[likely.argmax()], probability=likely.max())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    data = load_iris()
    app.state.model = DecisionTreeClassifier(random_state=0).fit(data.data, data.target)
    app.state.names = [str(name) for name in data.target_names]
    yield


app = FastAPI(title="Iris", lifespan=lifespan)
app.include_router(router)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
