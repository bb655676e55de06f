"""A page with a form, in a blueprint: fields come as text, the answer is a page again."""

from __future__ import annotations

from flask import Blueprint, Flask, render_template_string, request
from werkzeug.exceptions import BadRequestKeyError

PAGE = """<!doctype html>
<title>What is it worth?</title>
<form method="post" action="{{ url_for('page.predict') }}">
<input name="rooms"><input name="area"><button>Tell me</button></form>
{% if worth %}<p>About {{ worth }}</p>{% endif %}
"""

page = Blueprint("page", __name__)


@page.get("/")
def form() -> str:
    return render_template_string(PAGE)


@page.post("/predict")
def predict() -> str | tuple[str, int]:
    try:
        rooms, area = int(request.form["rooms"]), float(request.form["area"])
    except (BadRequestKeyError, ValueError):
        return "What is that?", 400
    return render_template_string(PAGE, worth=round(10_000 * rooms + 2_000 * area))


app = Flask(__name__)
app.register_blueprint(page, url_prefix="/houses")
