"""How do several commands stand below one?"""

from __future__ import annotations

import argparse
from typing import Any

_WRONG_USE = 2  # as argparse has it


def help_of(parser: argparse.ArgumentParser) -> int:
    """List what could be said, to somebody who said nothing."""
    parser.print_help()
    return _WRONG_USE


def group(commands: Any, name: str, help: str) -> Any:  # noqa: A002 - as argparse has it
    """Add a command of several actions; returns what takes those."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(run=lambda _: help_of(parser))
    return parser.add_subparsers(metavar="ACTION", title="actions")
