"""What does each part make of one request? `mlguard try`."""

from __future__ import annotations

import argparse
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlguard.app.front import GuardedApp, Source
from mlguard.cli.apps import adapter_of, app_and_guard
from mlguard.cli.init import add_example, headers_of, look
from mlguard.cli.init.examples import Example, example_of, fitting
from mlguard.cli.init.handlers import Endpoint, handlers_of, named_by
from mlguard.cli.init.writing import SECRET, settings_of
from mlguard.cli.sending import running
from mlguard.cli.terminal import say, say_json
from mlguard.cli.trial.found import Trial
from mlguard.cli.trial.seen import Heard, drift, left, rows, samples, wrong
from mlguard.cli.trial.telling import document, told
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.logs import LOGGER
from mlguard.routes.placement import Places
from mlguard.settings import load, split_route
from mlguard.testing import GuardTester

_USUAL = "mlguard.toml"


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
        say_json(document(trial, options.target))
    else:
        say(*told(trial, options.target))
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


def _tried(app: Any, guard: GuardedApp[Any], settings: str, options: argparse.Namespace) -> Trial:
    tester = GuardTester(guard)
    guard.check()
    handler, model = _asked(guard, options.route)
    example = _example(guard, handler, model, options.example)
    request = example.request(handler, model).with_headers(headers_of(options))
    who, headers = _caller(guard, tester, handler, options.subject)
    heard = Heard()
    LOGGER.addHandler(heard)
    try:
        with running(app) as send:
            before = samples(guard)
            answer = send(request.with_headers(headers))
            spans, after = tester.spans, samples(guard)
            refused = send(request) if headers else None
    finally:
        LOGGER.removeHandler(heard)
        guard.service.close()  # which a WSGI server does at its end
    trial = Trial(settings, request, example.origin, who, answer, refused=refused)
    trial.spans, trial.log = spans, heard.lines
    trial.metrics = [
        (name, dict(labels), value - before.get((name, labels), 0.0))
        for (name, labels), value in after.items()
        if value != before.get((name, labels), 0.0)
    ]
    trial.rows = rows(trial.metrics)
    trial.left = left(answer)
    trial.drift = [*drift(guard, tester, trial.rows)]
    trial.wrong = wrong(trial, guard, is_made_up=example.origin.startswith("made up"))
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
