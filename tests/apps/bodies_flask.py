"""Flask views as people write them, whatever their bodies; the twin is `bodies_fastapi`."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pandas as pd
from flask import Flask, Response, jsonify, request

from mlguard.errors import MLGuardError
from mlguard_flask import MLGuard
from tests.apps import kinds
from tests.apps.iris import FEATURES, predict


def species(flowers: list[dict[str, float]]) -> list[str]:
    return predict([[flower[name] for name in FEATURES] for flower in flowers])


def bare() -> Flask:
    app = Flask(__name__)

    @app.post("/iris")
    def iris() -> dict[str, Any]:
        return {"species": species([request.get_json()])[0], "probability": 0.75}

    @app.post("/list")
    def flowers() -> Any:
        return jsonify(species(request.get_json()))

    @app.post("/flat")
    def flat() -> dict[str, Any]:
        label = predict([request.get_json()["features"]])[0]
        return {"label": label, "probabilities": [0.0, 1.0, 0.0]}

    @app.post("/image")
    def image() -> Any:
        return jsonify([0.0] * 9 + [float(len(request.get_json()["image"]))])

    @app.post("/documents")
    def documents() -> dict[str, Any]:
        return {"answers": [{"topics": list(d)} for d in request.get_json()["documents"]]}

    @app.post("/nested")
    def nested() -> dict[str, Any]:
        found = predict(request.get_json()["inputs"][0]["data"])
        return {"outputs": [{"label": label, "score": 0.5} for label in found]}

    @app.post("/dotted")
    def dotted() -> dict[str, Any]:
        return {"iris.species": predict(request.get_json()["iris.rows"])}

    @app.post("/form")
    def form() -> dict[str, Any]:
        columns = [request.form.getlist(name, float) for name in FEATURES]
        return {"species": predict(list(map(list, zip(*columns, strict=True))))}

    @app.get("/query")
    def query() -> Any:
        return jsonify(predict([[float(request.args[name]) for name in FEATURES]])[0])

    @app.post("/files")
    def files() -> Any:
        return jsonify([len(file.read()) for file in request.files.getlist("files")])

    @app.post("/upload")
    def upload() -> Response:
        """Read an upload bit by bit, as one does with what is larger than memory."""
        size = 0
        while chunk := request.stream.read(64 * 1024):
            size += len(chunk)
        return Response(iter([f"{size} ", "bytes"]), mimetype="text/plain")

    @app.post("/csv")
    def csv() -> dict[str, Any]:
        frame = pd.read_csv(BytesIO(request.get_data()))
        return {"species": predict(frame[list(FEATURES)].to_numpy().tolist())}

    @app.route("/both", methods=["GET", "POST"])
    def both() -> Any:
        if request.method == "GET":
            return {"help": "post a list"}
        return jsonify(predict(request.get_json()))

    return app


def owned(app: Flask, guard: MLGuard) -> None:
    """Add views that guard their model themselves."""

    @app.post("/own")
    def own() -> Any:
        flowers = request.get_json()
        with guard.inference("iris", kinds.ALL[request.args["kind"]](flowers)) as call:
            call.predictions = predict(flowers)
        return jsonify(call.predictions[: call.rows])

    @app.post("/own/stated")
    def stated() -> Any:
        rows = int(request.args["rows"])
        with guard.inference("iris", (n for n in range(9)), rows=rows) as call:
            return jsonify(call.rows)

    @app.post("/own/wrong")
    def wrong() -> Any:
        name = "iriss" if request.args["kind"] == "name" else "iris"
        try:
            with guard.inference(name, iter("abc")):
                return jsonify("it ran")
        except (MLGuardError, TypeError) as error:
            return jsonify(str(error))
