"""What can an operator do from a shell? `mlguard check`, `token`, `key`, `quota` and others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlguard import __version__
from mlguard.cli import check, drift, feedback, key, quota, reference, token
from mlguard.errors import MLGuardError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all is well, 1 where standard error says what is not.

    A command may have a code of its own for what it found.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except MLGuardError as error:
        print(f"mlguard: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlguard", description="Guard an ML inference service.")
    parser.add_argument("--version", action="version", version=f"mlguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (check, token, key, quota, reference, drift, feedback):
        command.add(commands)
    return parser
