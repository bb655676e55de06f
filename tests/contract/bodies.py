"""Which bodies does every framework count and sample? Inherited by one class per framework."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from mlguard.testing import GuardTester
from tests.apps import iris, kinds
from tests.contract.client import SECRET, Answer, Client
from tests.contract.client import SETTINGS as TWIN

FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.7, 1.5]]
NAMED = [dict(zip(iris.FEATURES, flower, strict=True)) for flower in FLOWERS]
IMAGE = [[0.5] * 28] * 28
DOCUMENT = {"title": "a", "authors": ["b", "c", "d"], "cited": {"e": [1, 2]}}
_JSON = ("Content-Type", "application/json")


URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=XYZ"


def multipart(*fields: tuple[str, str | bytes]) -> bytes:
    """Write a form: texts are fields, bytes are files."""
    parts = []
    for name, value in fields:
        named = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            parts.append(f'{named}; filename="{name}.png"\r\n\r\n'.encode() + value)
        else:
            parts.append(f"{named}\r\n\r\n{value}".encode())
    return b"".join(b"--XYZ\r\n" + part + b"\r\n" for part in parts) + b"--XYZ--\r\n"


class Guarded(NamedTuple):
    """A guarded app of a framework.

    Attributes:
        client: Asks it.
        bare: Asks the same app without a guard.
        tester: Sees what the guard saw.
    """

    client: Client
    bare: Client
    tester: GuardTester

    def ask(
        self,
        path: str,
        body: Any = b"",
        content_type: str = "application/json",
        *,
        method: str = "POST",
        caller: str = "alice",
    ) -> Answer:
        """Ask both; their answers are the same, byte for byte."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [("Content-Type", content_type)] if raw else []
        known = self.tester.headers(caller).items()
        answer = self.client.ask(method, path, headers=[*known, *headers], body=raw)
        bare = self.bare.ask(method, path, headers=headers, body=raw)

        assert (answer.status, answer.body) == (bare.status, bare.body) or answer.code
        return answer

    def rows(self, model: str = "iris") -> float:
        """How many rows the model answered."""
        return self.tester.metric("mlguard_inference_rows_total", model=model, version="1")

    def unread(self, side: str) -> float:
        return self.tester.metric("mlguard_rows_unread_total", model="iris", side=side)

    def dropped(self, reason: str) -> float:
        labels = {"model": "iris", "version": "1", "reason": reason}
        return self.tester.metric("mlguard_drift_rows_dropped_total", **labels)

    @property
    def sampled(self) -> list[list[Any]]:
        return [row for _, _, row in self.tester.sampled]


def left(answer: Answer) -> int:
    """How many rows the caller has left, as the answer says; 100 where nothing was spent."""
    found = re.search(r'"rows-3600";r=(\d+)', answer.header("ratelimit") or "")
    return int(found[1]) if found else 100


class BodyContract:
    """Black-box tests; a subclass makes the guarded app."""

    def make(self, settings: dict[str, Any]) -> Guarded:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return iris.save_reference(tmp_path_factory.mktemp("reference") / "iris.parquet")

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
        monkeypatch.setenv("TWIN_SECRET", SECRET)
        self.reference_path = reference

    def guarded(self, route: str | None, **model: Any) -> Guarded:
        """Place one model on a route; it has a reference, so that its rows are sampled."""
        named = {"name": "iris", "reference": str(self.reference_path), **model}
        named |= {"route": route} if route else {}
        named = {key: value for key, value in named.items() if value is not None}
        tables = {**TWIN, "models": [named], "auth": {**TWIN["auth"], "public": []}}
        tables |= {"drift": {"rows_per_request": 9}} if "reference" in named else {}
        return self.make(tables)

    # -- where the rows are --------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("route", "model", "body", "rows", "sampled"),
        [
            pytest.param(
                "/iris", {"inputs": "", "outputs": ""}, NAMED[0], 1, FLOWERS[:1], id="root object"
            ),
            pytest.param(
                "/iris",
                {"inputs": "$", "outputs": ["species", "probability"], "shape": "row"},
                NAMED[0],
                1,
                FLOWERS[:1],
                id="several outputs",
            ),
            pytest.param("/list", {"inputs": "", "outputs": ""}, NAMED, 2, FLOWERS, id="root list"),
            pytest.param(
                "/list", {"inputs": "", "shape": "rows"}, NAMED, 2, FLOWERS, id="root rows"
            ),
            pytest.param(
                "/flat",
                {"inputs": "features", "outputs": "label", "shape": "row"},
                {"features": FLOWERS[0]},
                1,
                FLOWERS[:1],
                id="flat row",
            ),
            pytest.param(
                "/flat",
                {"inputs": "features", "outputs": "probabilities", "shape": "row"},
                {"features": FLOWERS[0]},
                1,
                FLOWERS[:1],
                id="flat row, probabilities answered",
            ),
            pytest.param(
                "/nested",
                {"inputs": "inputs.0.data", "outputs": "outputs.label"},
                {"inputs": [{"name": "x", "data": FLOWERS}]},
                2,
                FLOWERS,
                id="index in the path",
            ),
            pytest.param(
                "/dotted",
                {"inputs": "/iris.rows", "outputs": "/iris.species"},
                {"iris.rows": FLOWERS},
                2,
                FLOWERS,
                id="keys with dots",
            ),
        ],
    )
    def test_rows(
        self, route: str, model: dict[str, Any], body: Any, rows: int, sampled: list[Any]
    ) -> None:
        """Rows are counted, charged and sampled wherever the settings say they are."""
        guarded = self.guarded(route, **model)
        answer = guarded.ask(route, body)

        assert (answer.status, left(answer), guarded.rows()) == (200, 100 - rows, rows)
        assert sorted(guarded.sampled) == sorted(sampled)
        assert (guarded.unread("inputs"), guarded.unread("outputs")) == (0, 0)

    def test_what_is_no_row_of_values(self) -> None:
        """What is no row of the features is counted, and not sampled for a reason that is told."""
        model = {"inputs": "documents", "outputs": "answers", "shape": "rows"}
        guarded = self.guarded("/documents", **model)
        answer = guarded.ask("/documents", {"documents": [DOCUMENT] * 3})

        assert (answer.status, left(answer), guarded.rows()) == (200, 97, 3)
        assert guarded.sampled == []
        assert guarded.dropped("shape") == 3

    def test_an_image(self) -> None:
        """An image is one row, and so is what is said of it."""
        model = {"inputs": "image", "outputs": "", "shape": "row", "reference": None}
        guarded = self.guarded("/image", **model)
        answer = guarded.ask("/image", {"image": IMAGE})

        assert (answer.status, left(answer), guarded.rows()) == (200, 99, 1)

    def test_a_stated_shape_is_no_way_around(self) -> None:
        """Where one row is stated, a thousand objects are a thousand."""
        guarded = self.guarded("/list", inputs="", shape="row")
        answer = guarded.ask("/list", NAMED * 500)

        assert (answer.status, answer.code) == (422, "batch_exceeds_quota")

    # -- what is no JSON -----------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
    @pytest.mark.parametrize("rows", [1, 2])
    def test_forms(self, kind: str, rows: int) -> None:
        """Fields are a row, or columns where they repeat; their texts are numbers."""
        guarded = self.guarded("/form", inputs="form", outputs="species")
        pairs = [(name, str(flower[name])) for flower in NAMED[:rows] for name in iris.FEATURES]
        if kind == "urlencoded":
            answer = guarded.ask("/form", urlencode(pairs).encode(), URLENCODED)
        else:
            answer = guarded.ask("/form", multipart(*pairs), MULTIPART)

        assert (answer.status, left(answer), guarded.rows()) == (200, 100 - rows, rows)
        assert sorted(guarded.sampled) == sorted(FLOWERS[:rows])

    def test_what_does_not_spell_a_number(self) -> None:
        """A blank field is missing, and one that spells no number stays as it came."""
        guarded = self.guarded("/upload", inputs="form")
        raw = urlencode({"sepal_length": "", "sepal_width": "wide", "petal_length": " 1.5 "})
        guarded.ask("/upload", raw.encode(), URLENCODED)

        assert guarded.sampled == [[None, "wide", 1.5, None]]

    def test_queries(self) -> None:
        """The parameters of a query are a row, of a GET too."""
        guarded = self.guarded("/query", inputs="query", outputs="")
        answer = guarded.ask(f"/query?{urlencode(NAMED[0])}", method="GET")

        assert (answer.status, left(answer), guarded.rows()) == (200, 99, 1)
        assert guarded.sampled == FLOWERS[:1]

    def test_csv(self) -> None:
        """Lines of CSV are rows, by the names of the header."""
        guarded = self.guarded("/csv", inputs="csv", outputs="species")
        names = list(reversed(iris.FEATURES))
        lines = [names, *([str(flower[name]) for name in names] for flower in NAMED)]
        answer = guarded.ask("/csv", "\n".join(map(",".join, lines)).encode(), "text/csv")

        assert (answer.status, left(answer), guarded.rows()) == (200, 98, 2)
        assert sorted(guarded.sampled) == FLOWERS

    @pytest.mark.parametrize("number", [1, 3])
    def test_files(self, number: int) -> None:
        """Each file that is uploaded is a row, of which nothing can be sampled."""
        guarded = self.guarded("/files", inputs="files", outputs="")
        answer = guarded.ask("/files", multipart(*[("files", b"\x89PNG" * 9)] * number), MULTIPART)

        assert (answer.json, left(answer)) == ([36] * number, 100 - number)
        assert (guarded.rows(), guarded.dropped("unseen")) == (number, 1)

    def test_files_that_cannot_be_paid(self) -> None:
        """What the files turn out to cost is charged before the answer leaves, or it stays."""
        guarded = self.guarded("/files", inputs="files")
        files = multipart(*[("files", b"x")] * 60)
        answers = [guarded.ask("/files", files, MULTIPART) for _ in range(2)]

        assert [(a.status, a.code) for a in answers] == [(200, None), (429, "answer_withheld")]
        assert guarded.rows() == 60

    def test_a_stream_that_cannot_be_paid(self) -> None:
        """So it is where the answer is a stream."""
        guarded = self.guarded("/upload", inputs="files")
        answer = guarded.ask("/upload", multipart(*[("files", b"x")] * 101), MULTIPART)

        assert (answer.status, answer.code) == (429, "answer_withheld")

    @pytest.mark.parametrize("content_type", ["image/png", None], ids=["a file", "multipart"])
    def test_uploads_beyond_every_limit(self, content_type: str | None) -> None:
        """An upload is counted in passing: the kit reads none of it, however large it is."""
        guarded = self.guarded("/upload", inputs="files")
        raw = b"x" * (3 << 20) if content_type else multipart(("files", b"x" * (3 << 20)))
        answer = guarded.ask("/upload", raw, content_type or MULTIPART)

        assert (answer.body, left(answer)) == (f"{len(raw)} bytes".encode(), 99)
        assert guarded.rows() == 1

    @pytest.mark.parametrize(
        ("content_type", "old", "new"),
        [
            pytest.param(MULTIPART, b"\r\n--", b"\n--", id="other line ends"),
            pytest.param(f"{MULTIPART}; boundary=other", b"", b"", id="two boundaries"),
            pytest.param(MULTIPART, b"filename=", b"filename*=UTF-8''", id="extended names"),
            pytest.param(MULTIPART, b"--XYZ--", b"", id="no end"),
        ],
    )
    def test_no_file_is_hidden(self, content_type: str, old: bytes, new: bytes) -> None:
        """What some readers see as files is charged, whatever others make of it."""
        guarded = self.guarded("/upload", inputs="files")
        raw = multipart(*[("files", b"x")] * 101).replace(old, new)
        answer = guarded.ask("/upload", raw, content_type)

        assert (answer.status, answer.code) == (429, "answer_withheld")

    @pytest.mark.parametrize(
        ("source", "body", "content_type", "said"),
        [
            pytest.param(
                "files", multipart(("a", "1")), MULTIPART, "an object with a", id="no file"
            ),
            pytest.param("form", b'{"a": 1}', "application/json", "JSON", id="no form"),
            pytest.param("csv", b"", "text/csv", "empty", id="no line"),
        ],
    )
    def test_another_kind_of_body(
        self,
        source: str,
        body: bytes,
        content_type: str,
        said: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Where a request holds none of what the settings say, it is told once what it holds."""
        guarded = self.guarded("/upload", inputs=source)
        for _ in range(2):
            guarded.ask("/upload", body, content_type)

        wrong = f'inputs = "{source}" of model iris found nothing in POST /upload'
        told = [r.getMessage() for r in caplog.records]
        assert told == [f"{wrong}: the body is {said}; its rows were not counted"]
        assert guarded.unread("inputs") == 2

    # -- what nothing is read from -------------------------------------------------------------

    def test_what_is_there_instead(self, caplog: pytest.LogCaptureFixture) -> None:
        """A setting that reads nothing is told once, with what was there and what to write."""
        guarded = self.guarded("/iris", inputs="instances", outputs="species")
        for _ in range(3):
            guarded.ask("/iris", NAMED[0])

        there = f"an object with {', '.join(iris.FEATURES)}"
        wrong = 'inputs = "instances" of model iris found nothing in POST /iris'
        told = [r.getMessage() for r in caplog.records]
        assert told == [f'{wrong}: the body is {there}: set inputs = ""']
        assert guarded.unread("inputs") == 3

    def test_scalar_answers_are_no_noise(self, caplog: pytest.LogCaptureFixture) -> None:
        """Predictions are found, whatever they are: numbers, texts, objects."""
        for outputs in ("species", "probability", "", ["species", "probability"]):
            guarded = self.guarded("/iris", inputs="", outputs=outputs)
            guarded.ask("/iris", NAMED[0])

            assert guarded.unread("outputs") == 0
        assert caplog.records == []

    def test_a_get_asks_no_model(self, caplog: pytest.LogCaptureFixture) -> None:
        """A GET of a route that also takes POSTs is no inference, and nothing unread."""
        guarded = self.guarded("/both", inputs="", outputs="")
        answer = guarded.ask("/both", method="GET")

        assert (answer.status, left(answer), guarded.rows()) == (200, 100, 0)
        assert (
            guarded.tester.metric(
                "mlguard_inference_duration_seconds_count", model="iris", version="1"
            )
            == 0
        )
        assert (guarded.unread("inputs"), caplog.records) == (0, [])
        assert left(guarded.ask("/both", FLOWERS)) == 98

    # -- what a handler gives ------------------------------------------------------------------

    @pytest.mark.parametrize("kind", kinds.ALL)
    def test_what_a_handler_gives(self, kind: str) -> None:
        """Rows of any kind are counted, charged and sampled, or it is told why not."""
        guarded = self.guarded(None)
        known = [*guarded.tester.headers("alice").items(), _JSON]
        several, readable = kind in kinds.SEVERAL, kind not in kinds.UNREADABLE
        flowers = FLOWERS if several else FLOWERS[:1]
        path = f"/own?kind={quote(kind)}"
        answer = guarded.client.ask("POST", path, headers=known, body=json.dumps(flowers).encode())

        assert (answer.status, answer.json) == (200, iris.predict(flowers))
        assert (100 - left(answer), guarded.rows()) == (len(flowers), len(flowers))
        assert sorted(guarded.sampled) == (flowers if readable else [])
        assert guarded.dropped("unreadable") == (not readable)

    def test_how_many_rows_a_handler_says(self) -> None:
        """A stream is as many rows as its handler says, of which none can be seen."""
        guarded = self.guarded(None)
        known = guarded.tester.headers("alice").items()
        answer = guarded.client.ask("POST", "/own/stated?rows=7", headers=known)

        assert (answer.json, left(answer), guarded.rows()) == (7, 93, 7)
        assert guarded.dropped("unseen") == 1

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("name", "no model is named 'iriss'; did you mean 'iris'?"),
            ("rows", "rows of the type "),
        ],
    )
    def test_what_a_handler_does_wrong(self, kind: str, said: str) -> None:
        """A model that nobody knows, and what rows cannot be seen in, are errors at the call."""
        guarded = self.guarded(None)
        known = guarded.tester.headers("alice").items()
        answer = guarded.client.ask("POST", f"/own/wrong?kind={kind}", headers=known)

        assert answer.json.startswith(said)
        assert guarded.rows() == 0
