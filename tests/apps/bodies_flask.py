"""Flask views as people write them, whatever their bodies; the twin is `bodies_fastapi`."""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify, request

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
