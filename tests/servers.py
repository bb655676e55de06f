"""Which real servers do the tests run against?

Each server is a context manager: entered, it is ready; left, its whole process group is gone.
What it wrote is printed on leaving, which pytest shows only where a test fails.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LOG_TAIL = 6000  # characters
# Asking a closed port costs nothing, so readiness is asked often.
POLL = 0.05
# Seconds in which a machine under load does what an idle one does at once: whoever waits for what
# comes leaves when it does.
LONG = 60.0


def wait_until(probe: Callable[[], Any], what: str, *, within: float = LONG) -> Any:
    """Ask until the answer is true, and return it.

    Raises:
        AssertionError: Names what did not come true within so many seconds.
    """
    deadline = time.monotonic() + within
    answer = probe()
    while not answer:
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}; last answer: {answer!r}")
        time.sleep(POLL)
        answer = probe()
    return answer


def free_port() -> int:
    """Find a port that nobody listens on, and that nobody else is given while this process runs."""
    return reserved(0)


def reserved(port: int) -> int:
    """Keep others from a port of this machine, or from any for 0; only a server may listen on it.

    A socket that is bound and does not listen lets one of another process in that says
    SO_REUSEADDR, as every server does; the kernel gives its port to nobody who asks for any.

    Raises:
        OSError: It is taken.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        port = int(holder.getsockname()[1])
        holder.detach()  # until this process ends
        return port


def find(program: str) -> str:
    """Find the program, or skip the test; where CI promises it, its absence is a failure."""
    path = shutil.which(program)
    if path:
        return path
    reason = f"needs {program} on the PATH"
    if os.environ.get("CI") == "true" and program != "jaeger":
        pytest.fail(reason)
    pytest.skip(reason)


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        status: The HTTP status, 0 where nobody answered.
        headers: The headers; their names in lower case.
        body: The bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    url: str,
    *,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = LONG,
) -> Answer:
    """Send a GET, or the body as a JSON POST; refusals and closed ports are answers too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers or {}))
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return _answer(answer.status, answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return _answer(refusal.code, refusal)
    except OSError:
        return Answer(0, {}, b"")


def _answer(status: int, answer: Any) -> Answer:
    return Answer(status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())


class Server:
    """A program of its own process group that answers HTTP.

    Attributes:
        url: Where it answers, without a slash at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        ready: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        within: float = LONG,
        status: int = 200,
    ) -> None:
        """Describe the server; entering the context starts it.

        Args:
            command: The program and its arguments.
            port: The port that the arguments name.
            ready: The path that answers with `status` once it is ready.
            cwd: Its working directory, where its log goes too.
            env: Variables beyond those of the tests. Without a TMPDIR it is alone on its host: it
                gets one that no other service of its name looks into.
            within: Seconds that it may take to get ready.
            status: What the path answers.
        """
        self.url = f"http://127.0.0.1:{port}"
        self._command = list(command)
        self._ready, self._status, self._within = ready, status, within
        own = {} if env and "TMPDIR" in env else {"TMPDIR": tempfile.mkdtemp(prefix="s")}
        self._cwd, self._env = cwd, {**os.environ, **own, **(env or {})}
        self._log = cwd / f"{Path(command[0]).name}-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, f"{self._command} answers", within=self._within)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self.stop()
        print(f"--- {' '.join(self._command)}\n{self.log()[-LOG_TAIL:]}")

    def stop(self) -> None:
        """End the whole process group; what it wrote stays."""
        assert self._process is not None
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._signal(signal.SIGKILL)
        self._process.wait(10)

    @property
    def pid(self) -> int:
        """The process that was started; its group has the same number."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Everything it wrote so far."""
        return self._log.read_text(errors="replace")

    def ask(self, path: str, **more: Any) -> Answer:
        """Ask this server; see `ask`."""
        return ask(self.url + path, **more)

    def _is_ready(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self._command} ended with {code}:\n{self.log()[-LOG_TAIL:]}"
        return self.ask(self._ready, timeout=10).status == self._status

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def uvicorn(
    app: str,
    *,
    cwd: Path,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    ready: str = "/health",
    http: str = "auto",
    launcher: Sequence[str] = (),
) -> Server:
    """Serve an ASGI app, named module:app.

    Args:
        app: Its name.
        cwd: The working directory.
        workers: How many.
        env: Variables beyond those of the tests.
        ready: The path that answers 200 once it is ready.
        http: uvicorn's parser, "h11" or "httptools".
        launcher: A command that is to run the server.
    """
    port = free_port()
    command = [*launcher, sys.executable, "-m", "uvicorn", app, "--http", http]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    # Long, as a worker starts slowly on a busy machine; but uvicorn waits for so long for a worker
    # that was killed while it was asked, before it starts another.
    command += ["--timeout-worker-healthcheck", str(int(LONG / 4))]
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def gunicorn(
    app: str,
    *,
    cwd: Path,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    ready: str = "/health",
    kind: str = "gthread",
    launcher: Sequence[str] = (),
) -> Server:
    """Serve a WSGI app, named module:app, by workers of that kind."""
    port = free_port()
    command = [*launcher, sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers), "--worker-class", kind, "--graceful-timeout", "5"]
    # Threads beside the workers: an idle keep-alive connection must not hold a worker.
    command += ["--threads", "4"] if kind == "gthread" else []
    # Newer versions keep a control socket at home, which all runs would share.
    env = {"HOME": str(cwd), **(env or {})}
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def hypercorn(app: str, *, cwd: Path, env: Mapping[str, str], ready: str = "/health") -> Server:
    """Serve an ASGI app, named module:app."""
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", app, "--bind", f"127.0.0.1:{port}"]
    command += ["--graceful-timeout", "1"]
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def granian(
    app: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    ready: str = "/health",
    interface: str = "asgi",
) -> Server:
    """Serve an app of that interface, named module:app."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", interface, "--host", "127.0.0.1"]
    return Server(
        [*command, "--port", str(port), app], port=port, ready=ready, cwd=cwd, env=_importing(env)
    )


def waitress(app: str, *, cwd: Path, env: Mapping[str, str], ready: str = "/health") -> Server:
    """Serve a WSGI app, named module:app; it looks ahead, so that it knows who has left."""
    port = free_port()
    command = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}"]
    command += ["--threads=4", "--channel-request-lookahead=1", app]
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def uwsgi(app: str, *, cwd: Path, env: Mapping[str, str], ready: str = "/health") -> Server:
    """Serve a WSGI app, named module:app, where uWSGI is installed."""
    beside, port = Path(sys.executable).with_name("uwsgi"), free_port()
    program = str(beside) if beside.exists() else find("uwsgi")
    command = [program, "--http-socket", f"127.0.0.1:{port}", "--module", app, "--need-app"]
    command += ["--home", sys.prefix, "--die-on-term", "--enable-threads", "--threads", "4"]
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def werkzeug(app: str, *, cwd: Path, env: Mapping[str, str], ready: str = "/health") -> Server:
    """Serve a WSGI app, named module:app, by the server of `flask run`."""
    port, (module, _, name) = free_port(), app.partition(":")
    serve = f"import werkzeug, {module}; werkzeug.run_simple('127.0.0.1', {port}, "
    command = [sys.executable, "-c", f"{serve}{module}.{name}, threaded=True)"]
    return Server(command, port=port, ready=ready, cwd=cwd, env=_importing(env))


def _importing(env: Mapping[str, str] | None) -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", **(env or {})}


def prometheus(config: Mapping[str, Any], *, cwd: Path, rules: Sequence[Path] = ()) -> Server:
    """Run Prometheus with exemplar storage, these rule files instead of the configured ones."""
    program, port = find("prometheus"), free_port()
    path = cwd / "prometheus.yml"
    path.write_text(yaml.safe_dump({**config, "rule_files": [str(rule) for rule in rules]}))
    command = [program, f"--config.file={path}", f"--storage.tsdb.path={cwd / 'prometheus'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]
    return Server(command, port=port, ready="/-/ready", cwd=cwd)


def alertmanager(config: Mapping[str, Any], *, cwd: Path) -> Server:
    """Run Alertmanager alone, without a cluster."""
    name = "prometheus-alertmanager" if shutil.which("prometheus-alertmanager") else "alertmanager"
    program, port = find(name), free_port()
    path = cwd / "alertmanager.yml"
    path.write_text(yaml.safe_dump(dict(config)))
    command = [program, f"--config.file={path}", f"--storage.path={cwd / 'alertmanager'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    return Server(command, port=port, ready="/-/ready", cwd=cwd)


@dataclass(frozen=True)
class Jaeger:
    """A running Jaeger.

    Attributes:
        query: Answers the query API.
        endpoint: Takes OTLP over HTTP.
    """

    query: Server
    endpoint: str

    def __enter__(self) -> Self:
        self.query.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.query.__exit__(*exc)

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """Fetch a trace as the query API shows it, None where there is none yet."""
        found = self.query.ask(f"/api/traces/{trace_id}")
        return found.json()["data"][0] if found.status == 200 and found.json()["data"] else None


def jaeger(*, cwd: Path) -> Jaeger:
    """Run Jaeger v2 in one process that keeps traces in memory."""
    program, port, otlp = find("jaeger"), free_port(), free_port()
    config = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            # Its own metrics would take port 8888.
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
            },
        },
        "extensions": {
            "jaeger_storage": {"backends": {"kept": {"memory": {"max_traces": 1000}}}},
            "jaeger_query": {
                "storage": {"traces": "kept"},
                "http": {"endpoint": f"127.0.0.1:{port}"},
                "grpc": {"endpoint": f"127.0.0.1:{free_port()}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "kept"}},
    }
    path = cwd / "jaeger.yml"
    path.write_text(yaml.safe_dump(config))
    server = Server(
        [program, "--config", str(path)],
        port=port,
        ready="/api/services",
        cwd=cwd,
        # It would send traces of its own to port 4317 and wait for an answer when it ends.
        env={"OTEL_TRACES_SAMPLER": "always_off"},
    )
    return Jaeger(server, f"http://127.0.0.1:{otlp}")


class _Receiver:
    """An HTTP server in a thread that keeps what is posted to it.

    Attributes:
        go: While it is not set, nobody is answered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.go = threading.Event()
        self.go.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(POLL,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Keep one post."""
        raise NotImplementedError

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.go.wait(LONG)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._lock:
                    receiver.receive(self.path, self.headers, body)
                with contextlib.suppress(OSError):  # who has waited for too long is gone
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        return Post


class Webhook(_Receiver):
    """Receives Alertmanager's notifications.

    Attributes:
        url: Where it listens.
        posts: The JSON of each post, oldest first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[dict[str, Any]] = []

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.posts.append(json.loads(body))

    def alerts(self, name: str = "") -> list[dict[str, Any]]:
        """Every delivered alert of that name, or of any."""
        alerts = [alert for post in list(self.posts) for alert in post["alerts"]]
        return [alert for alert in alerts if alert["labels"]["alertname"] == name or not name]


class OTLPReceiver(_Receiver):
    """Receives spans over OTLP/HTTP, as a collector would.

    Attributes:
        url: The endpoint, without /v1/traces.
        spans: Each span: name, kind, trace_id, span_id, parent_id, attributes, resource, scope,
            start and end in nanoseconds, events with their attributes, and whether it failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[dict[str, Any]] = []

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        assert path == "/v1/traces", path
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(traced.resource.attributes)
            for scope in traced.scope_spans:
                self.spans += [_span(span, resource, scope.scope.name) for span in scope.spans]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of one trace."""
        return [span for span in list(self.spans) if span["trace_id"] == trace_id]


_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


_FAILED = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR


def _span(span: Any, resource: dict[str, Any], scope: str) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": _KINDS[span.kind],
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex(),
        "attributes": _attributes(span.attributes),
        "resource": resource,
        "scope": scope,
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "events": [
            {"name": event.name, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "failed": span.status.code == _FAILED,
        "message": span.status.message,
    }


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
