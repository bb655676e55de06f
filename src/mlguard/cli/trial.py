"""What does each part make of one request? `mlguard try`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from mlguard.app.front import GuardedApp, Source
from mlguard.cli.apps import adapter_of, app_and_guard
from mlguard.cli.init import add_example, headers_of, look
from mlguard.cli.init.examples import Example, example_of, fitting
from mlguard.cli.init.handlers import Endpoint, handlers_of, named_by
from mlguard.cli.init.writing import SECRET, settings_of
from mlguard.cli.sending import Request, Response, running
from mlguard.cli.terminal import bad, bold, good, odd, say, say_json, titled, wrapped
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.logs import LOGGER
from mlguard.routes.coverage import rate
from mlguard.routes.placement import Places
from mlguard.settings import load, split_route
from mlguard.testing import GuardTester
from mlguard.tracing.console import tree

_USUAL = "mlguard.toml"
_WIDEST = 200  # characters of a body that are shown
_OURS = ("ratelimit", "retry-after", "www-authenticate", "mlguard-")
_POLICY = re.compile(r'"([^"]+)";q=(\d+)(?:;w=(\d+))?')
_LEFT = re.compile(r'"([^"]+)";r=(\d+)')
_BY_HANDLERS = "its rows are what its handler says"


@dataclass
class _Trial:
    """What was sent, and what each part saw of it.

    Attributes:
        settings: Where the settings are from.
        request: What was sent.
        origin: Where the example is from.
        who: Who called.
        answer: What came back.
        rows: The rows that each model was asked, by its name and version.
        left: What is left of each limit.
        drift: What the drift check got.
        spans: Those of the request.
        metrics: What was counted: samples with their labels.
        log: What the kit said.
        refused: What came back to who shows no credential; None where all may ask.
        wrong: What is not as it should be, and what to do; "" where all is well.
    """

    settings: str
    request: Request
    origin: str
    who: str
    answer: Response
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    spans: list[ReadableSpan] = field(default_factory=list)
    metrics: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    refused: Response | None = None
    wrong: str = ""


def add(commands: Any) -> None:
    """Add the command to a parser."""
    trial = commands.add_parser(
        "try",
        help="send one request through the guard, and show what each part saw",
        description="Have an app answer one request in this process, guarded, and cut off from "
        "everything outside: no server, no exporter, no file; a token signed here.",
    )
    trial.add_argument("target", metavar="APP", help="module:app, or module:create_app()")
    add_example(trial)
    trial.add_argument(
        "--settings",
        metavar="FILE",
        help="default: those that the app names; of one that is not guarded, "
        f"{_USUAL}, else what `mlguard init` would write",
    )
    trial.add_argument("--as", dest="subject", default="alice", metavar="SUBJECT", help="who calls")
    trial.add_argument("--json", action="store_true", help="for programs")
    trial.set_defaults(run=_try)


def _try(options: argparse.Namespace) -> None:
    with _secrets_of_this_run(options.settings or _USUAL):
        app, guard, settings = _guarded(options)
        trial = _tried(app, guard, settings, options)
    if options.json:
        say_json(_document(trial, options.target))
    else:
        say(*_told(trial, options.target))
    if trial.wrong:
        raise MLGuardError(trial.wrong)


@contextmanager
def _secrets_of_this_run(settings: str) -> Iterator[None]:
    """Have a secret where the settings name a variable that is not set: tokens are signed here."""
    try:
        auth = load(settings, named=()).auth
    except InvalidSettings:  # which is told when the app is guarded
        auth = None
    named = [
        variable for issuer in (auth.issuers if auth else ()) for variable in issuer.secret_env
    ]
    named.append(SECRET)
    unset = [variable for variable in dict.fromkeys(named) if not os.environ.get(variable)]
    os.environ.update({variable: secrets.token_hex(64) for variable in unset})
    try:
        yield
    finally:
        for variable in unset:
            del os.environ[variable]


def _guarded(options: argparse.Namespace) -> tuple[Any, GuardedApp[Any], str]:
    """Import an app and guard it, if it is not; returns where its settings are from, too."""
    try:
        app, guard = app_and_guard(options.target, options.settings)
    except InvalidSettings as error:
        if options.settings or Path(_USUAL).exists() or _USUAL not in str(error):
            raise
        text = f"{error}; `mlguard init {options.target} -o {_USUAL}` writes one"
        raise MLGuardError(text) from error
    if guard is not None:
        return app, guard, guard.service.settings.source
    source: Source
    if options.settings or Path(_USUAL).exists():
        source = name = options.settings or _USUAL
    else:
        draft = look(app, None, options)
        source, name = tomllib.loads(settings_of(draft)), "what `mlguard init` would write"
    return app, adapter_of(app, options.target).front(app, source), name


def _tried(app: Any, guard: GuardedApp[Any], settings: str, options: argparse.Namespace) -> _Trial:
    tester = GuardTester(guard)
    guard.check()
    handler, model = _asked(guard, options.route)
    example = _example(guard, handler, model, options.example)
    request = example.request(handler, model).with_headers(headers_of(options))
    who, headers = _caller(guard, tester, handler, options.subject)
    heard = _Heard()
    LOGGER.addHandler(heard)
    try:
        with running(app) as send:
            before = _samples(guard)
            answer = send(request.with_headers(headers))
            spans, after = tester.spans, _samples(guard)
            refused = send(request) if headers else None
    finally:
        LOGGER.removeHandler(heard)
        guard.service.close()  # which a WSGI server does at its end
    trial = _Trial(settings, request, example.origin, who, answer, refused=refused)
    trial.spans, trial.log = spans, heard.lines
    trial.metrics = [
        (name, dict(labels), value - before.get((name, labels), 0.0))
        for (name, labels), value in after.items()
        if value != before.get((name, labels), 0.0)
    ]
    trial.rows = _rows(trial.metrics)
    trial.left = _left(answer)
    trial.drift = [*_drift(guard, tester, trial.rows)]
    trial.wrong = _wrong(trial, guard, example)
    return trial


def _asked(guard: GuardedApp[Any], route: str | None) -> tuple[Endpoint, str]:
    """Choose whom to ask: the handler of a route, and the model that the settings place there."""
    settings = guard.service.settings
    handlers, places = handlers_of(guard), Places(settings)
    if route:
        handler = named_by(handlers, route)
        models = places.of(handler.route.host, handler.route.template).models
        named = (handler.filled(handler.path) or {}).get(handler.name_parameter, "")
        return handler, named if named in models else next(iter(models or handler.models), "")
    for name in [name for m in settings.models for name in m.all_routes]:
        host, template = split_route(name)
        found = [
            h for h in handlers if h.route.template == template and host in (None, h.route.host)
        ]
        for handler in sorted(found, key=lambda h: h.method == "GET" and h.kind != "query"):
            models = places.of(handler.route.host, handler.route.template).models
            return handler, models[0] if models else next(iter(handler.models), "")
    for handler in handlers:
        if handler.models or handler.asks_a_model:
            return handler, next(iter(handler.models), "")
    raise MLGuardError("no model has a route, and no route looks like a model's: say --route")


def _example(guard: GuardedApp[Any], handler: Endpoint, model: str, given: str | None) -> Example:
    """Take the example that was given, or make one up: of the schema, else of the settings."""
    settings = next((m for m in guard.service.settings.models if m.name == model), None)
    served = guard.service.guard.parts.models.get(model)
    features = served.layout.features if served else ()
    found = example_of(handler, given, len(features))
    if found is None and settings is not None:
        found = fitting(settings, features)
    if found is None:
        raise MLGuardError(
            f"nothing says what {handler.route.shown} takes: give an example of a request, with "
            "--example FILE"
        )
    return found


def _caller(
    guard: GuardedApp[Any], tester: GuardTester, handler: Endpoint, subject: str
) -> tuple[str, dict[str, str]]:
    """Say who calls, and by which headers: none where nobody is asked."""
    settings = guard.service.settings
    place = Places(settings).of(handler.route.host, handler.route.template)
    if settings.auth is None:
        return "nobody is asked, as there is no table [auth]: the client's address pays", {}
    if place.is_public and not handler.route.scopes:
        return "nobody is asked on a public route: the client's address pays", {}
    scopes = {*settings.all_scopes, *handler.route.scopes}
    try:
        headers = tester.headers(subject, scopes=sorted(scopes))
    except InvalidSettings:  # by the app's own login alone
        return "whoever the app's own login says, and nobody has logged in here", {}
    how = "an API key made here" if "Authorization" not in headers else "a token signed here"
    return f"{subject}, by {how}", headers


class _Heard(logging.Handler):
    """Keeps what the kit says, in place of the handlers that a service would have."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self.lines:
            self.lines.append(record.getMessage())


_Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _samples(guard: GuardedApp[Any]) -> _Samples:
    """Read what counts and is not part of a histogram."""
    guard.service.flush()
    return {
        (sample["name"], tuple(sorted(sample["labels"].items()))): sample["value"]
        for family in guard.service.metrics.snapshot()
        for sample in family["samples"]
        if sample["name"].endswith(("_total", "_count"))
    }


def _rows(metrics: Sequence[tuple[str, Mapping[str, str], float]]) -> dict[tuple[str, str], int]:
    return {
        (labels["model"], labels["version"]): int(value)
        for name, labels, value in metrics
        if name == "mlguard_inference_rows_total"
    }


def _left(answer: Response) -> list[str]:
    """Say what is left of each limit, by the headers of an answer."""
    left = dict(_LEFT.findall(answer.header("ratelimit")))
    said = []
    for name, amount, window in _POLICY.findall(answer.header("ratelimit-policy")):
        what = name.rpartition("-")[0] or name
        limit = rate(int(amount), int(window)) if window else amount
        said.append(f"{limit} {what}: {left[name]} left" if name in left else f"{limit} {what}")
    return said


def _drift(
    guard: GuardedApp[Any], tester: GuardTester, rows: Mapping[tuple[str, str], int]
) -> Iterator[str]:
    """Say what the drift check got, and how far its first verdict is."""
    if guard.service.settings.drift is None:
        yield "off: no model has a `reference`, which `mlguard reference build` makes"
        return
    sampled = tester.sampled
    for name, version in rows:
        wanted = tester.rows_wanted(name)
        if not wanted:
            yield f"{name}: it has no `reference`"
            continue
        values = [row for model, v, row in sampled if (model, v) == (name, version)]
        shown = f": {_cut(json.dumps(values[0]))}" if values else ""
        yield (
            f"{name}: {len(values)} of {rows[name, version]} rows sampled{shown}; "
            f"{max(0, wanted - len(values))} more to the first verdict"
        )


def _wrong(trial: _Trial, guard: GuardedApp[Any], example: Example) -> str:
    """Say what is not as it should be, and what to do."""
    answer, where = trial.answer, f"{trial.request.method} {trial.request.path}"
    code = _code(answer)
    made_up = example.origin.startswith("made up")
    if not 200 <= answer.status < 300:
        if code:
            return f"the guard refused {where}: {answer.status} {code}: {_title(answer)}"
        if answer.status >= 500:
            kinds = [labels.get("error_type") for _, labels, _ in trial.metrics]
            kind = next((kind for kind in kinds if kind and kind != str(answer.status)), "")
            raised = f": {answer.error}" if answer.error else f" ({kind})" if kind else ""
            return f"the app failed at {where}: {answer.status}{raised}"
        hint = ": it was made up; give one that the app takes, with --example FILE"
        if answer.status == 404:
            hint += ", or a path that it serves, with --route"
        return f"the app refused the example: {answer.status}{hint if made_up else ''}"
    if not sum(trial.rows.values()):
        has_models = bool(guard.service.settings.models)
        hint = "name its route in `models[].route`" if has_models else "no model is in the settings"
        return f"no row was counted at {where}: {hint}; `mlguard init` proposes settings"
    unread = [labels for name, labels, _ in trial.metrics if name == "mlguard_rows_unread_total"]
    if unread:
        sides = " and ".join(dict.fromkeys(f"`{labels['side']}`" for labels in unread))
        return f"nothing was read at {sides} of models[{unread[0]['model']}]: correct the settings"
    return ""


def _code(answer: Response) -> str:
    """Tell the code of a refusal of the kit's, "" where it is none."""
    return str(_problem(answer).get("code", ""))


def _title(answer: Response) -> str:
    return str(_problem(answer).get("title", ""))


def _problem(answer: Response) -> dict[str, Any]:
    if not answer.header("content-type").startswith("application/problem+json"):
        return {}
    found = json.loads(answer.body)
    return found if isinstance(found, dict) else {}


def _told(trial: _Trial, target: str) -> Iterator[str]:
    """Tell what each part saw to a person."""
    request, answer = trial.request, trial.answer
    yield from wrapped(f"{target}, guarded by {trial.settings}", 2)
    yield from wrapped(f"{bold(f'{request.method} {request.path}')}, {trial.origin}", 2)
    sent = _cut(_text(request.body))
    for about, said in (
        ("sent", [sent] if sent else []),
        ("who", [trial.who]),
        ("answer", [_line(answer)]),
        ("rows", [f"{rows} of {model} {v}" for (model, v), rows in trial.rows.items()] or ["none"]),
        ("quotas", trial.left or ["none counts it"]),
        ("drift", trial.drift),
        ("trace", tree(trial.spans) or ["off: there is no table [tracing]"]),
        ("metrics", [_sample(*sample) for sample in trial.metrics]),
        ("headers", [f"{n}: {v}" for n, v in answer.headers if n.startswith(_OURS)]),
        ("log", [odd(line) for line in trial.log]),
    ):
        for number, text in enumerate(said):
            yield from titled(f"  {'' if number else about:9}{text}", 11)
    if trial.refused is not None:
        yield ""
        yield bold("The same without a credential")
        yield from titled(f"  {'answer':9}{_line(trial.refused)}", 11)
    yield ""
    count = sum(trial.rows.values())
    if not trial.wrong:
        yield f"{good('ok')}: {count} {'row' if count == 1 else 'rows'} counted and charged"


def _line(answer: Response) -> str:
    problem = _problem(answer)
    said = f"{problem['code']}: {problem.get('title')}" if "code" in problem else _text(answer.body)
    colour = good if answer.status < 400 else bad
    return f"{colour(str(answer.status))} in {answer.seconds * 1000:.1f} ms: {_cut(said)}"


def _text(body: bytes) -> str:
    """Show bytes so that a terminal obeys nothing in them."""
    text = body.decode("utf-8", "replace")
    if sum(not c.isprintable() and not c.isspace() for c in text) > len(text) // 10:
        return f"{len(body)} bytes"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ", ".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{said}}} {value:g}" if said else f"{name} {value:g}"


def _document(trial: _Trial, target: str) -> dict[str, Any]:
    """Write what each part saw for a program."""
    request = trial.request
    return {
        "target": target,
        "ok": not trial.wrong,
        "wrong": trial.wrong,
        "settings": trial.settings,
        "request": {
            "method": request.method,
            "path": request.path,
            "origin": trial.origin,
            "body": _text(request.body),
        },
        "who": trial.who,
        "answer": _written(trial.answer),
        "rows": [{"model": m, "version": v, "rows": n} for (m, v), n in trial.rows.items()],
        "left": trial.left,
        "drift": trial.drift,
        "trace": [
            {"name": s.name, "attributes": {k: str(v) for k, v in (s.attributes or {}).items()}}
            for s in trial.spans
        ],
        "metrics": [{"name": n, "labels": {**of}, "value": v} for n, of, v in trial.metrics],
        "log": trial.log,
        "without_credential": trial.refused and _written(trial.refused),
    }


def _written(answer: Response) -> dict[str, Any]:
    return {
        "status": answer.status,
        "code": _code(answer) or None,
        "headers": [[name, value] for name, value in answer.headers],
        "body": _text(answer.body),
    }
