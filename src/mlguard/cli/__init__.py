"""What can an operator do from a shell? `mlguard init`, `try`, `check`, `token` and others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mlguard import __version__
from mlguard.cli import check, drift, feedback, init, key, quota, reference, token, trial
from mlguard.cli.groups import help_of
from mlguard.cli.terminal import complain, say, speaking
from mlguard.errors import MissingExtra, MLGuardError

_INTERRUPTED = 130  # as a shell says it of Ctrl-C
_TASKS = {
    "guard an app": (init, trial, check),
    "who calls, and how much": (token, key, quota),
    "drift and performance": (reference, drift, feedback),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all is well, 1 where standard error says what is not.

    A command may have a code of its own for what it found.
    """
    try:
        with speaking():
            options = _parser().parse_args(arguments)
            return options.run(options) or 0
    except MLGuardError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


class _Commands:
    """Takes commands, and lists them by what they are for.

    Args:
        parser: What the commands stand below.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(
            metavar="COMMAND", help=argparse.SUPPRESS, prog="mlguard"
        )
        self._helps: list[tuple[str, str]] = []

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Take a command, as argparse does."""
        self._helps.append((name, options["help"]))
        return self._commands.add_parser(name, **options)

    def told(self, task: str) -> str:
        """List the commands that came since the last time."""
        lines = [f"  {name:10} {what}" for name, what in self._helps]
        self._helps.clear()
        return "\n".join([f"{task}:", *lines])


class _Completion(argparse.Action):
    """Prints a script for a shell, and ends there, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: Any, *__: object) -> None:
        try:
            from shtab import complete
        except ImportError as error:
            text = "--completion needs shtab: run `pip install 'mlguard-core[completion]'`"
            raise MissingExtra(text) from error
        for action in parser._actions:
            action.help = action.help if action.option_strings else None  # what help hides as well
        say(complete(parser, shell))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlguard",
        usage="mlguard COMMAND ...",
        description="Guard an ML inference service.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlguard {__version__}")
    parser.add_argument(
        "--completion",
        action=_Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print what has that shell complete commands and options",
    )
    commands = _Commands(parser)
    told = []
    for task, parts in _TASKS.items():
        for command in parts:
            command.add(commands)
        told.append(commands.told(task))
    parser.epilog = "\n\n".join([*told, "`mlguard COMMAND --help` says more of one."])
    parser.set_defaults(run=lambda _: help_of(parser))
    return parser
