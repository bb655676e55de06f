"""Which servers are there, which endings, and where do they differ?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from tests import servers
from tests.endings.service import Service
from tests.endings.wire import Got

LEFT = 499
HOLD = 0.15  # seconds that a stream is held open at least


class Start(Protocol):
    """Starts a server; see `tests.servers`."""

    def __call__(self, app: str, *, cwd: Path, env: Mapping[str, str]) -> servers.Server: ...


@dataclass(frozen=True)
class Served:
    """A guarded app behind a server.

    Attributes:
        framework: "fastapi" or "flask", which decides.
        start: Starts it.
        app: What it serves, named module:app.
        prefix: What stands before each path of the app.
        tells_leaving: Whether the server tells an app, while it makes a plain answer, that the
            client has left: `receive` does in ASGI, where it is a coroutine (granian's is none);
            PEP 3333 has no word for it, but gunicorn and waitress lay what tells it into the
            environ.
        tells_streams_leaving: Whether it tells an app that streams, and does not swallow the rest.
        lets_exit: Whether a SIGTERM lets what is registered with atexit run.
        lacks: Endings that cannot be brought about there.
        takes: The only endings that are tried, where not all are.
        env: Variables that the app reads.
    """

    framework: str
    start: Start
    app: str
    prefix: str = ""
    tells_leaving: bool = True
    tells_streams_leaving: bool = True
    lets_exit: bool = True
    lacks: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    env: Mapping[str, str] = field(default_factory=dict)


_FASTAPI = "tests.endings.served_fastapi:app"
_FLASK = "tests.endings.served_flask:app"
_FOREIGN = {"ENDINGS_CONTEXT": "foreign"}
_WITH_SPANS = frozenset(
    {
        "a-plain-answer",
        "a-models-answer",
        "a-models-exception",
        "an-exception",
        "a-stream",
        "a-client-that-leaves-a-stream",
    }
)

SERVED = {
    "fastapi-uvicorn-h11": Served("fastapi", partial(servers.uvicorn, http="h11"), _FASTAPI),
    "fastapi-uvicorn-httptools": Served(
        "fastapi", partial(servers.uvicorn, http="httptools"), _FASTAPI
    ),
    "fastapi-hypercorn": Served("fastapi", servers.hypercorn, _FASTAPI, lets_exit=False),
    "fastapi-granian": Served("fastapi", servers.granian, _FASTAPI, tells_leaving=False),
    "flask-gunicorn-sync": Served("flask", partial(servers.gunicorn, kind="sync"), _FLASK),
    "flask-gunicorn-gthread": Served("flask", partial(servers.gunicorn, kind="gthread"), _FLASK),
    "flask-gunicorn-gevent": Served("flask", partial(servers.gunicorn, kind="gevent"), _FLASK),
    "flask-waitress": Served("flask", servers.waitress, _FLASK, lets_exit=False),
    "flask-uwsgi": Served("flask", servers.uwsgi, _FLASK, tells_leaving=False),
    "flask-granian": Served(
        "flask",
        partial(servers.granian, interface="wsgi"),
        _FLASK,
        tells_leaving=False,
        lets_exit=False,
    ),
    "flask-werkzeug": Served(
        "flask", servers.werkzeug, _FLASK, tells_leaving=False, lets_exit=False
    ),
    # What ddtrace does to OpenTelemetry's context.
    "fastapi-foreign-context": Served(
        "fastapi", servers.uvicorn, _FASTAPI, takes=_WITH_SPANS, env=_FOREIGN
    ),
    "flask-foreign-context": Served(
        "flask", servers.gunicorn, _FLASK, takes=_WITH_SPANS, env=_FOREIGN
    ),
    "flask-asgiref-uvicorn": Served(
        "flask",
        servers.uvicorn,
        "tests.endings.bridged:asgiref_app",
        lets_exit=False,
        tells_leaving=False,
        tells_streams_leaving=False,
    ),
    "flask-a2wsgi-uvicorn": Served(
        "flask",
        servers.uvicorn,
        "tests.endings.bridged:a2wsgi_app",
        lets_exit=False,
        tells_leaving=False,
        tells_streams_leaving=False,
    ),
    "flask-starlette-uvicorn": Served(
        "flask",
        servers.uvicorn,
        "tests.endings.bridged:starlette_app",
        lets_exit=False,
        tells_leaving=False,
        tells_streams_leaving=False,
    ),
    "flask-in-fastapi-uvicorn": Served(
        "flask",
        servers.uvicorn,
        "tests.endings.bridged:mounted_app",
        prefix="/flask",
        tells_streams_leaving=False,
        tells_leaving=False,
        # What fails in its stead would hide the one guard from the other.
        lacks=frozenset({"a-server-that-cannot-begin", "a-server-that-cannot-send"}),
    ),
}


@dataclass(frozen=True)
class Ending:
    """A way for a request to end.

    Attributes:
        act: What the client does: of the service, the caller's name and a trace id.
        got: The statuses that the client may get, None where that is the server's business.
        method: As it is counted.
        route: The route's template below the prefix, None where only metric and span must agree.
        error_type: What was raised, where something was.
        is_held: Whether it is a stream that the client holds open.
        is_cut: Whether what the client got must not look whole.
        model_fails: Whether an inference was under way.
        only: The framework that has it, "" both.
        leaves: While what the client leaves: a "plain" answer, a "stream", or the "sending", where
            nobody can tell a client that left from a server that broke. Then 499 is counted, else
            what the client got, or 500 where it got nothing.
    """

    act: Callable[[Service, str, str], Got]
    got: frozenset[int] | None = frozenset({200})
    method: str = "GET"
    route: str | None = None
    error_type: str | None = None
    is_held: bool = False
    is_cut: bool = False
    model_fails: bool = False
    only: str = ""
    leaves: str = ""


def _whole(method: str, path: str, body: bytes = b"") -> Callable[[Service, str, str], Got]:
    def act(service: Service, subject: str, trace_id: str) -> Got:
        return service.ask(method, path, subject=subject, trace_id=trace_id, body=body)

    return act


def _held(path: str) -> Callable[[Service, str, str], Got]:
    """Read a stream whose second chunk waits until the first was read, and some time has passed."""

    def act(service: Service, subject: str, trace_id: str) -> Got:
        gate = f"secret-held-{subject}"
        with service.open("GET", f"{path}?gate={gate}", subject=subject, trace_id=trace_id) as wire:
            service.reached(gate)
            since = time.monotonic()
            servers.wait_until(lambda: time.monotonic() - since > HOLD, "the stream was held")
            service.opened(gate)
            return wire.rest()

    return act


def _left_stream(path: str) -> Callable[[Service, str, str], Got]:
    """Leave a stream after its first chunk; more than anybody buffers follows."""

    def act(service: Service, subject: str, trace_id: str) -> Got:
        gate = f"secret-left-{subject}"
        with service.open("GET", f"{path}?gate={gate}", subject=subject, trace_id=trace_id) as wire:
            wire.until(b"one")
            got = wire.so_far()
            service.reached(gate)
            wire.reset()
            service.opened(gate)
            return got

    return act


NOTICED = 0.1  # seconds


def _left_plain(path: str) -> Callable[[Service, str, str], Got]:
    """Leave while an answer is made."""

    def act(service: Service, subject: str, trace_id: str) -> Got:
        gate = f"secret-left-{subject}"
        with service.open("GET", f"{path}?gate={gate}", subject=subject, trace_id=trace_id) as wire:
            service.reached(gate)
            wire.leave()
            time.sleep(NOTICED)  # nothing says when a server has noticed
            service.opened(gate)
            return Got()

    return act


_ROWS = b'{"instances": [[1, 2]]}'
_NO_ROW = b'{"instances": [[]]}'

_ANY = None  # the server's business
_NOTHING = frozenset({0})


def _status(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


ENDINGS = {
    "a-plain-answer": Ending(_whole("GET", "/ok"), route="/ok"),
    "a-models-answer": Ending(_whole("POST", "/predict", _ROWS), method="POST", route="/predict"),
    "a-head": Ending(_whole("HEAD", "/ok"), method="HEAD", route="/ok"),
    "no-route": Ending(_whole("GET", "/nowhere"), _status(404)),
    "no-such-method": Ending(_whole("DELETE", "/ok"), _status(405), method="DELETE"),
    "a-mounted-app": Ending(_whole("GET", "/mounted/items/7")),
    "an-http-exception": Ending(_whole("GET", "/aborted"), _status(409), route="/aborted"),
    "an-exception": Ending(
        _whole("GET", "/broken"), _status(500), route="/broken", error_type="LookupError"
    ),
    "a-models-exception": Ending(
        _whole("POST", "/predict", _NO_ROW),
        _status(500),
        method="POST",
        route="/predict",
        error_type="LookupError",
        model_fails=True,
    ),
    "a-stream": Ending(_held("/stream"), route="/stream", is_held=True),
    "a-stream-that-ends-in-finally": Ending(_held("/closing"), route="/closing", is_held=True),
    "a-stream-that-fails-late": Ending(
        _whole("GET", "/fails/late"), route="/fails/late", error_type="LookupError", is_cut=True
    ),
    # A 500 wherever the server waits with the status for the first byte.
    "a-stream-that-fails-at-once": Ending(
        _whole("GET", "/fails/first"), _ANY, route="/fails/first", error_type="LookupError"
    ),
    "a-stream-that-fails-after-nothing": Ending(
        _whole("GET", "/fails/empty"), _ANY, route="/fails/empty", error_type="LookupError"
    ),
    # A 500 wherever the server waits with the status for the app to return.
    "a-teardown-that-fails": Ending(
        _whole("GET", "/teardown"),
        _ANY,
        route="/teardown",
        error_type="LookupError",
        only="flask",
    ),
    "a-server-that-cannot-begin": Ending(
        _whole("GET", "/deaf/start"), _ANY, route="/deaf/start", leaves="sending"
    ),
    "a-server-that-cannot-send": Ending(
        _whole("GET", "/deaf/body"), _ANY, route="/deaf/body", leaves="sending"
    ),
    "a-client-that-leaves-a-stream": Ending(
        _left_stream("/endless"), route="/endless", leaves="stream"
    ),
    "a-client-that-leaves-what-ends-in-finally": Ending(
        _left_stream("/closing"), route="/closing", leaves="stream"
    ),
    "a-client-that-leaves-before-the-answer": Ending(
        _left_plain("/slow"), _NOTHING, route="/slow", leaves="plain"
    ),
    "a-client-that-leaves-a-thread": Ending(
        _left_plain("/slow/thread"),
        _NOTHING,
        route="/slow/thread",
        leaves="plain",
        only="fastapi",
    ),
    "a-stream-below-a-middleware": Ending(
        _held("/below/stream"), route="/below/stream", is_held=True, only="fastapi"
    ),
    "a-client-that-leaves-below-a-middleware": Ending(
        _left_stream("/below/endless"), route="/below/endless", leaves="stream", only="fastapi"
    ),
}
