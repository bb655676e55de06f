"""Can one request be followed from its caller into the model? Real Jaeger, real workers."""

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.apps import iris
from tests.servers import OTLPReceiver, gunicorn, jaeger, uvicorn, wait_until

frameworks = pytest.mark.parametrize(
    ("serve", "app"),
    [
        pytest.param(uvicorn, "tests.apps.fastapi_app:app", id="fastapi-uvicorn"),
        pytest.param(gunicorn, "tests.apps.flask_app:app", id="flask-gunicorn"),
    ],
)


@dataclass(frozen=True)
class Caller:
    """Somebody with a trace of their own.

    Attributes:
        trace_id: Their trace.
        span_id: Their span, from which the request goes out.
    """

    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def headers(self):
        """What they send along (W3C Trace Context)."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}


@contextmanager
def called(serve, app, endpoint, folder):
    """Let a caller send two rows to a service of its own that traces to `endpoint`."""
    caller = Caller()
    settings = iris.write_settings(folder, f'[tracing]\nendpoint = "{endpoint}"\n')
    with serve(app, cwd=folder, workers=2, env=iris.environment(settings)) as service:
        answer = service.ask(
            "/predict",
            body={"instances": iris.rows(2, seed=1).tolist()},
            headers={**iris.bearer(sub="alice"), **caller.headers},
        )
        assert answer.status == 200, answer
        yield caller


def check(spans, caller):
    """Compare what was received; `spans` are as `OTLPReceiver` writes them."""
    (server,) = (span for span in spans if span["kind"] == "server")
    (inference,) = (span for span in spans if span["name"] == "inference iris")

    assert server["name"] == "POST /predict"
    assert server["parent_id"] == caller.span_id
    assert server["attributes"]["http.route"] == "/predict"
    assert server["attributes"]["http.response.status_code"] == 200
    assert server["attributes"]["mlguard.decision"] == "allow"
    assert server["attributes"]["enduser.pseudo.id"]
    assert "alice" not in str(spans)
    assert server["resource"]["service.name"] == "iris-api"
    assert inference["parent_id"] == server["span_id"]
    assert inference["attributes"]["mlguard.model.name"] == "iris"
    assert inference["attributes"]["mlguard.model.version"] == "3"
    assert inference["attributes"]["mlguard.inference.rows"] == 2


def as_spans(trace):
    """Write a trace of Jaeger's query API as `OTLPReceiver` writes spans."""
    return [
        {
            "name": span["operationName"],
            "kind": attributes(span["tags"]).get("span.kind"),
            "trace_id": span["traceID"],
            "span_id": span["spanID"],
            "parent_id": "".join(above["spanID"] for above in span["references"]),
            "attributes": attributes(span["tags"]),
            "resource": {"service.name": trace["processes"][span["processID"]]["serviceName"]},
        }
        for span in trace["spans"]
    ]


def attributes(tags):
    return {tag["key"]: tag["value"] for tag in tags}


@frameworks
def test_jaeger_shows_the_request_within_its_callers_trace(serve, app, tmp_path):
    """Jaeger's query API returns the server span and, below it, the inference."""
    with jaeger(cwd=tmp_path) as kept, called(serve, app, kept.endpoint, tmp_path) as caller:
        found = wait_until(lambda: complete(kept.trace(caller.trace_id)), "both spans arrive")

    check(as_spans(found), caller)


def complete(trace):
    return trace if trace and len(trace["spans"]) >= 2 else None


@frameworks
def test_a_collector_receives_the_request_within_its_callers_trace(serve, app, tmp_path):
    """Any receiver of OTLP over HTTP gets what Jaeger gets."""
    with OTLPReceiver() as receiver, called(serve, app, receiver.url, tmp_path) as caller:
        wait_until(lambda: len(receiver.trace(caller.trace_id)) >= 2, "both spans arrive")

    check(receiver.trace(caller.trace_id), caller)
