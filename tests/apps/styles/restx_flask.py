"""An API by Flask-RESTX: the root of a request is a list of records, that of an answer too."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_restx import Api, Namespace, Resource, fields

loans = Namespace("loans", description="Who gets a loan?", path="/loans")
applicant = loans.model(
    "Applicant",
    {"age": fields.Integer(required=True), "income": fields.Float(required=True)},
)
decision = loans.model("Decision", {"approved": fields.Boolean, "score": fields.Float})


@loans.route("/decide")
class Decide(Resource):
    @loans.expect([applicant], validate=True)
    @loans.marshal_list_with(decision)
    def post(self) -> list[dict[str, Any]]:
        scores = [min(1.0, each["income"] / 100_000) for each in loans.payload]
        return [{"approved": score > 0.5, "score": score} for score in scores]


def create_app() -> Flask:
    app = Flask(__name__)
    Api(app, title="Loans", doc="/docs").add_namespace(loans)
    return app
