"""Do labels find their calls in a service of four workers, on both frameworks?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlguard.cli import main
from tests import servers
from tests.contract.client import AUDIENCE, ISSUER, SECRET, Answer, OverSockets, bearer, metric
from tests.redis_servers import Redis

WORKERS = 4
SETTINGS: dict[str, Any] = {
    "service": {"name": "labelled", "max_body": "64 KiB"},
    "models": [
        {"name": "risk", "version": "3", "route": "/predict", "inputs": "instances",
         "outputs": "predictions", "scores": "scores", "task": "classification"},
        {"name": "own", "task": "regression"},
    ],
    "auth": {"issuer": ISSUER, "audience": AUDIENCE, "secret_env": "TWIN_SECRET",
             "algorithms": ["HS256"], "public": ["/health"]},
    "feedback": {"route": "/feedback"},
}  # fmt: skip
RISK = {"model": "risk", "version": "3"}
HEADER = "mlguard-call-id"
LABELLER = bearer("labeller", scope="mlguard.feedback")


class Labelled(OverSockets):
    """A service with four workers."""

    def post(self, path: str, body: object, headers: Any = None) -> Answer:
        told = [*(headers or bearer()), ("Content-Type", "application/json")]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, headers=told, body=raw)

    def predict(self, *scores: float) -> str:
        """Ask the model, and return the call's name."""
        answer = self.post("/predict", {"instances": [[score] for score in scores]})
        assert answer.status == 200
        return answer.header(HEADER) or ""

    def label(self, call_id: str, *truths: Any) -> Answer:
        return self.post("/feedback", {"call_id": call_id, "truths": truths}, LABELLER)

    def until(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric says so."""
        servers.wait_until(lambda: metric(self, name, **labels) == value, f"{name} is {value}")

    def labels(self, result: str, **labels: str) -> float:
        return metric(self, "mlguard_feedback_labels_total", result=result, **labels)


Start = Callable[..., Any]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("fastapi", marks=pytest.mark.xdist_group("feedback fastapi")),
        pytest.param("flask", marks=pytest.mark.xdist_group("feedback flask")),
    ],
)
def start(request: pytest.FixtureRequest) -> Start:
    """Starts a service whose workers meet in a folder."""
    serve = {"fastapi": servers.uvicorn, "flask": servers.gunicorn}[request.param]

    def start(folder: Path, settings: dict[str, Any] = SETTINGS) -> servers.Server:
        env = {
            "LABELLED_SETTINGS": json.dumps(settings),
            "TWIN_SECRET": SECRET,
            "TMPDIR": str(folder),
            "XDG_RUNTIME_DIR": "",
        }
        app = f"tests.apps.labelled_{request.param}:app"
        return serve(app, cwd=folder, workers=WORKERS, env=env)

    return start


@pytest.fixture(scope="module")
def service(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    with start(tmp_path_factory.mktemp("labelled")) as server:
        yield Labelled(server.url)


class TestFourWorkers:
    def test_labels_reach_any_worker(self, service: Labelled) -> None:
        """Each answer tells its call's name, and whichever worker gets the label joins it."""
        before = metric(service, "mlguard_model_performance_labels", **RISK)
        ids = [service.predict(0.9, 0.2, 0.7) for _ in range(12)]
        answers = [service.label(call_id, 1, 0, 0) for call_id in ids]

        assert len(set(ids)) == 12
        assert [a.status for a in answers] == [202] * 12
        assert answers[0].json == {"taken": 1, "dropped": 0}
        service.until("mlguard_model_performance_labels", before + 36, **RISK)
        assert service.labels("ok", **RISK) >= 36
        scraped = {metric(service, "mlguard_model_performance", **RISK, metric="accuracy")}
        scraped |= {
            metric(service, "mlguard_model_performance", **RISK, metric="accuracy")
            for _ in range(6)
        }
        assert len(scraped) == 1

    def test_handlers_have_the_name(self, service: Labelled) -> None:
        """`call.id` is what the header says; `guard.feedback` takes it, on a loop and off."""
        answer = service.post("/own", {"instances": [[2.0], [5.0]]})
        call_id = answer.json["call_id"]
        assert answer.header(HEADER) == call_id

        told = service.post("/truth", {"call_id": call_id, "truths": [3, 5]})

        assert told.json == {"taken": True}
        labels = {"model": "own", "version": "4-canary"}
        service.until("mlguard_model_performance_labels", 2, **labels)
        assert metric(service, "mlguard_model_performance", **labels, metric="mae") == 0.5

    def test_labels_need_their_scope(self, service: Labelled) -> None:
        """Whoever may ask the model may not label it."""
        body = {"call_id": service.predict(0.9), "truths": [1]}

        assert service.post("/feedback", body, [("X", "y")]).code == "token_missing"
        assert service.post("/feedback", body).code == "scope_missing"

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            pytest.param(b"", "labels_unreadable", id="nothing"),
            pytest.param(b"{", "labels_unreadable", id="no JSON"),
            pytest.param(b"[]", "labels_unreadable", id="none"),
            pytest.param(b'{"call_id": 1, "truths": [1]}', "labels_unreadable", id="no name"),
            pytest.param(b'{"call_id": "a", "truths": 1}', "labels_unreadable", id="no list"),
            pytest.param(b'{"call_id": "a", "truths": []}', "labels_unreadable", id="no truths"),
            pytest.param(b"[" * 60_000, "labels_unreadable", id="deep"),
            pytest.param(b"\xff\xfe", "labels_unreadable", id="no text"),
            pytest.param(b" " * 70_000, "body_too_large", id="large"),
        ],
    )
    def test_bodies_that_are_no_labels(self, service: Labelled, body: bytes, code: str) -> None:
        """A body that holds no labels is refused, whatever it is."""
        answer = service.post("/feedback", body, LABELLER)

        assert answer.code == code

    def test_labels_that_do_not_fit(self, service: Labelled) -> None:
        """Each is counted by what is wrong with it, and none is an error of the service."""
        call_id = service.predict(0.9, 0.2)
        body = [
            {"call_id": "\ud800 junk", "truths": [1]},
            {"call_id": call_id, "truths": [1]},
            {"call_id": call_id, "truths": [1, "x"]},
            {"call_id": call_id, "truths": [1, 0]},
            {"call_id": call_id, "truths": [0, 0]},
        ]
        results = [("unknown", {"model": "", "version": ""})]
        results += [(name, RISK) for name in ("wrong_length", "invalid", "ok", "duplicate")]
        before = [service.labels(name, **labels) for name, labels in results]

        assert service.post("/feedback", body, LABELLER).status == 202
        expected = [b + n for b, n in zip(before, (1, 1, 2, 2, 2), strict=True)]
        servers.wait_until(
            lambda: [service.labels(name, **labels) for name, labels in results] == expected,
            "each is counted",
        )

    def test_refused_answers_have_no_name(self, service: Labelled) -> None:
        """What the model did not answer cannot be labelled."""
        assert service.post("/predict", b"{}", [("X", "y")]).header(HEADER) is None
        assert service.ask("GET", "/health").header(HEADER) is None


def test_scores_are_estimated(start: Start, tmp_path: Path) -> None:
    """Without any label, the scores of sampled rows tell how well the model does."""
    pytest.importorskip("evidently", reason="the drift extra is not installed")
    from mlguard.reference import Reference

    Reference.build({"a": [n / 100 for n in range(100)]}).save(tmp_path / "reference.parquet")
    scored = {**SETTINGS["models"][0], "reference": str(tmp_path / "reference.parquet")}
    with start(tmp_path, {**SETTINGS, "models": [scored], "drift": {"window": 50}}) as server:
        service = Labelled(server.url)
        for _ in range(25):
            service.predict(0.9)
            service.predict(0.3)
        servers.wait_until(
            lambda: metric(service, "mlguard_model_performance_estimated_rows", **RISK) == 50,
            "there is an estimate",
            within=180,
        )

        name = "mlguard_model_performance_estimated"
        told = {
            of: round(metric(service, name, **RISK, metric=of), 6)
            for of in ("accuracy", "precision", "recall")
        }
        assert told == {"accuracy": 0.8, "precision": 0.9, "recall": 0.75}
        assert 0 < metric(service, f"{name}_error", **RISK, metric="accuracy") < 0.2


def test_restarts_lose_no_call(start: Start, tmp_path: Path) -> None:
    """A label that comes after a restart, or from a file, finds a call from before it."""
    with start(tmp_path) as server:
        service = Labelled(server.url)
        ids = [service.predict(0.9, 0.1) for _ in range(3)]
    settings = tmp_path / "mlguard.json"
    settings.write_text(json.dumps(SETTINGS))
    lines = [f"{ids[0]},1", f"{ids[0]},0", f"{ids[1]},0", f"{ids[1]},"]
    (tmp_path / "labels.csv").write_text("\n".join(["call_id,truth", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path))
        patch.setattr("tempfile.tempdir", None)
        toml = tmp_path / "mlguard.toml"
        toml.write_text(_toml())
        assert (
            main(["feedback", "import", str(tmp_path / "labels.csv"), "--settings", str(toml)]) == 0
        )
    with start(tmp_path) as server:
        service = Labelled(server.url)
        service.label(ids[2], 1, 1)
        service.until("mlguard_model_performance_labels", 5, **RISK)

        accuracy = metric(service, "mlguard_model_performance", **RISK, metric="accuracy")
        assert accuracy == 3 / 5


def test_hosts_meet_in_redis(start: Start, tmp_path: Path) -> None:
    """Where the service counts in a Redis, a label may come to another host than the call."""
    with Redis(tmp_path) as redis:
        quotas = {"requests": ["100000/minute"], "store": redis.url}
        settings = {**SETTINGS, "quotas": quotas}
        hosts = [tmp_path / "one", tmp_path / "other"]
        for host in hosts:
            host.mkdir()
        with start(hosts[0], settings) as one, start(hosts[1], settings) as other:
            call_id = Labelled(one.url).predict(0.9)
            Labelled(other.url).label(call_id, 1)
            for host in (one, other):
                Labelled(host.url).until("mlguard_model_performance_labels", 1, **RISK)


def _toml() -> str:
    """Write the settings that the command needs."""
    return """
[service]
name = "labelled"
[[models]]
name = "risk"
version = "3"
task = "classification"
[feedback]
"""
