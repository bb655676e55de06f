"""An inference service on Flask, guarded: gunicorn examples.flask_service:app --workers 2"""

import os
from pathlib import Path

import joblib
from flask import Flask, request
from flask_cors import CORS

from mlguard_flask import MLGuard  # guard 1 of 3

HERE = Path(__file__).parent
model = joblib.load(os.environ.get("MODEL", HERE / "build" / "model.joblib"))

app = Flask(__name__)
settings = HERE / "mlguard.toml"  # guard 2 of 3
guard = MLGuard(app, settings)  # guard 3 of 3

CORS(  # a page elsewhere may ask, and read what is left of its quota
    app,
    origins=["http://localhost:3000"],
    methods=["POST"],
    allow_headers=["Authorization", "Content-Type"],
    expose_headers=["RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"],
)


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/predict")
def predict():
    probabilities = model.predict_proba(request.get_json()["instances"])
    predictions = model.classes_[probabilities.argmax(axis=1)]
    return {"predictions": predictions.tolist(), "probabilities": probabilities.tolist()}
