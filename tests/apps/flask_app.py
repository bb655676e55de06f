"""A Flask service as it was, and the one line that guards it."""

from flask import Flask, request

from mlguard_flask import MLGuard
from tests.apps import iris

app = Flask(__name__)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict() -> dict[str, list[str]]:
    return {"predictions": iris.predict(request.get_json()["instances"])}


guard = MLGuard(app, iris.settings_path())
