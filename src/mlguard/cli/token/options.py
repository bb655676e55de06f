"""Which settings, which issuer and which token does the operator mean?"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection
from typing import Any

from mlguard.errors import InvalidSettings
from mlguard.settings import NAMED, Auth, Issuer, Settings, load

_AROUND = re.compile(r"^\s*(authorization:\s*)?(bearer\s+)?", re.IGNORECASE)


def add_token(parser: Any, **options: Any) -> None:
    """Add the token to a parser or a group of one."""
    parser.add_argument("token", help="a token, or - to read it from standard input", **options)


def some_text(text: str) -> str:
    """Take a name, which is never empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def add_settings(parser: Any) -> None:
    """Add the settings file to a parser."""
    parser.add_argument("--settings", default="mlguard.toml", help="default: %(default)s")


def add_issuer(parser: Any, needed: str) -> None:
    """Add the issuer to a parser, and say when one is needed."""
    parser.add_argument("--issuer", help=f"which of several, or its `name`; {needed}")


def loaded(options: argparse.Namespace, named: Collection[str] = NAMED) -> tuple[Settings, Auth]:
    """Load the settings, and their part that is about tokens.

    Raises:
        InvalidSettings: They have mistakes, or authentication is off.
    """
    settings = load(options.settings, named=named)
    if settings.auth is None:
        raise InvalidSettings("tokens need the table [auth]", source=settings.source)
    return settings, settings.auth


def issuer_named(auth: Auth, name: str) -> Issuer:
    """Find an issuer by itself or by its entry's name; an InvalidSettings where there is none."""
    for issuer in auth.issuers:
        if name in (issuer.issuer, issuer.name):
            return issuer
    known = ", ".join(issuer.issuer for issuer in auth.issuers)
    raise InvalidSettings(f"no issuer is {name!r}; known: {known}")


def token_of(argument: str) -> str:
    """Take a token as people copy it: with its header's name, `Bearer` and blanks around it."""
    text = sys.stdin.buffer.read().decode("latin-1") if argument == "-" else argument
    return _AROUND.sub("", text).strip()
