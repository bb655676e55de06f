"""Which settings would fit this app? `mlguard init`."""

from __future__ import annotations

import argparse
import tomllib
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlguard.app.front import GuardedApp
from mlguard.cli.apps import adapter_of, app_and_guard
from mlguard.cli.init.draft import Draft, draft
from mlguard.cli.init.writing import SECRET, settings_of
from mlguard.cli.sending import Sender, running
from mlguard.cli.terminal import below, bold, good, note, odd, say, say_json
from mlguard.errors import MLGuardError
from mlguard.settings import load

_ALONE = {"service": {"host_file": False}}


def add(commands: Any) -> None:
    """Add the command to a parser."""
    init = commands.add_parser(
        "init",
        help="write a settings file that fits an app",
        description="Look at an app's routes, its OpenAPI document, its handlers' code and, where "
        "one is given, an example of a request; write the settings that fit, with what is guessed.",
    )
    init.add_argument("target", metavar="APP", help="module:app, or module:create_app()")
    add_example(init)
    init.add_argument(
        "--send", action="store_true", help="have the app answer the example, to see how it answers"
    )
    init.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    init.add_argument("--force", action="store_true", help="overwrite the file")
    init.add_argument("--json", action="store_true", help="for programs")
    init.set_defaults(run=_init)


def add_example(parser: argparse.ArgumentParser) -> None:
    """Add the example of a request to a parser."""
    parser.add_argument(
        "--example",
        metavar="FILE",
        help="the body of a request: a file, - for standard input, or JSON as it stands; default: "
        "made up, from what the app says of itself",
    )
    parser.add_argument(
        "--route",
        help="whose example it is: as the framework spells it, or a path that it serves",
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="sent with it; as often as need be",
    )


def headers_of(options: argparse.Namespace) -> dict[str, str]:
    """Read the headers that the operator wants sent.

    Raises:
        MLGuardError: One is none.
    """
    found = {}
    for text in options.header:
        name, colon, said = text.partition(":")
        if not (colon and name.strip()):
            raise MLGuardError(f"--header {text!r}: must be like 'X-API-Key: value'")
        found[name.strip()] = said.strip()
    return found


def _init(options: argparse.Namespace) -> None:
    path: Path | None = options.output
    if path is not None and path.exists() and not options.force:
        raise MLGuardError(f"{path} is there already: --force overwrites it")
    app, guard = app_and_guard(options.target, _ALONE)
    found = look(app, guard, options)
    text = settings_of(found)
    load(tomllib.loads(text), named=())  # what is written can be read
    steps = [*_missing(found), *_steps(options.target, path, guard)]
    if path is not None:
        _write(path, text)
    if options.json:
        document = {"settings": tomllib.loads(text), "text": text}
        document |= {"guessed": found.guessed, "unknown": found.unknown, "next": steps}
        say_json(document)
    elif path is None:
        say(text.rstrip("\n"))
        note(*below(bold("\nNext:"), steps))
    else:
        lines = [f"{path}: {good('written')}", *below(bold("\nGuessed:"), found.guessed)]
        lines += below(odd("\nCould not tell:"), found.unknown)
        say(*lines, *below(bold("\nNext:"), steps))


def look(app: Any, guard: GuardedApp[Any] | None, options: argparse.Namespace) -> Draft:
    """Look at an app, guarded or not; returns what its settings would be."""
    looking = guard
    if looking is None:
        looking = adapter_of(app, options.target).front(settings=_ALONE)
        looking.look_at(app)
    headers = headers_of(options)
    with ExitStack() as stack:
        send: Sender | None = None
        if getattr(options, "send", False):
            ask = stack.enter_context(running(app))
            send = lambda request: ask(request.with_headers(headers))  # noqa: E731 - one line
        return draft(looking, options.target, given=options.example, route=options.route, send=send)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MLGuardError(f"{path}: cannot be written: {error.strerror}") from error


def _missing(found: Draft) -> list[str]:
    """Say what has to be installed for what the settings read."""
    read = {model.keys["inputs"].value for model in found.models if "inputs" in model.keys}
    needed = read & {"form", "files"} and find_spec("python_multipart") is None
    return ["pip install 'mlguard-core[forms]'"] if needed else []


def _steps(target: str, path: Path | None, guard: GuardedApp[Any] | None) -> list[str]:
    """Say what to do next."""
    file = str(path or "mlguard.toml")
    steps = []
    if guard is None:
        steps.append(f"guard the app: `guard = MLGuard(app, {file!r})`, from the adapter")
    shown = f"'{target}'" if "(" in target else target
    return [
        *steps,
        f'export {SECRET}=$(python -c "import secrets; print(secrets.token_hex())")',
        f"mlguard try {shown}",
        f"mlguard check {shown if guard else file}",
    ]
