"""An inference service on FastAPI, guarded: uvicorn examples.fastapi_service:app --workers 2"""

import os
from pathlib import Path

import joblib
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel

from mlguard_fastapi import MLGuard  # guard 1 of 3

HERE = Path(__file__).parent
model = joblib.load(os.environ.get("MODEL", HERE / "build" / "model.joblib"))


class Patients(BaseModel):
    instances: list[list[float]]


app = FastAPI(title="How fast will a patient's diabetes progress?")
settings = HERE / "mlguard.toml"  # guard 2 of 3
guard = MLGuard(app, settings)  # guard 3 of 3

app.add_middleware(  # a page elsewhere may ask, and read what is left of its quota
    CORSMiddleware,
    allow_origins=["http://localhost:3000"],
    allow_methods=["POST"],
    allow_headers=["Authorization", "Content-Type"],
    expose_headers=["RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"],
)


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/predict")
def predict(patients: Patients):
    probabilities = model.predict_proba(patients.instances)
    predictions = model.classes_[probabilities.argmax(axis=1)]
    return {"predictions": predictions.tolist(), "probabilities": probabilities.tolist()}
