"""How is a token, or whatever a subject holds, refused from now on?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from mlguard.auth import revocation
from mlguard.cli.token.options import (
    add_issuer,
    add_settings,
    add_token,
    issuer_named,
    loaded,
    token_of,
)
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.revocations import Revocation
from mlguard.settings import Auth


def add(actions: Any) -> None:
    """Add the action to a parser."""
    revoke = actions.add_parser(
        "revoke",
        help="refuse a token, or all tokens of a subject, from now on",
        description="Tell every running service of the settings' name on this host, started by "
        "this user, and the other hosts through the store that the settings name.",
    )
    which = revoke.add_mutually_exclusive_group(required=True)
    add_token(which, nargs="?")
    which.add_argument("--jti", help="the jti of a token")
    which.add_argument("--subject", help="whose tokens, all that were issued until now")
    add_settings(revoke)
    add_issuer(revoke, "for --jti and --subject")
    revoke.set_defaults(run=_revoke)


def _revoke(options: argparse.Namespace) -> None:
    settings, auth = loaded(options, ())  # in an emergency, the shell at hand will do
    if not settings.service.companion:
        raise InvalidSettings(
            "nobody can be told: `service.companion` is false, and the companion process is who "
            "listens; call `revoke` of the guard within the service",
            source=settings.source,
        )
    revoked = _revocation(options, auth)
    if troubles := list(_spread(settings.service.name, auth.revocation_store, revoked)):
        raise MLGuardError("; ".join(troubles))
    if revoked.until is None:
        print("it stays revoked for good: with `auth.max_age`, entries leave when tokens do")


def _revocation(options: argparse.Namespace, auth: Auth) -> Revocation:
    try:
        return revocation(
            auth,
            token=None if options.token is None else token_of(options.token),
            jti=options.jti,
            subject=options.subject,
            issuer=issuer_named(auth, options.issuer).issuer if options.issuer else None,
            now=time.time(),
        )
    except ValueError as error:
        raise MLGuardError(str(error)) from error


def _spread(service: str, store: str | None, revoked: Revocation) -> Iterator[str]:
    """Say who was told, and yield the troubles."""
    from mlguard.runtime.companion import operators

    told, forgotten, unpublished = operators.spread(service, [revoked], store)
    if forgotten:
        yield f"it is not remembered on this host: {_said(forgotten)}"
    services = f"{told} running service{'' if told == 1 else 's'}"
    print(f"told {services} named {service!r} on this host")
    if unpublished:
        yield f"other hosts were not told: {_said(unpublished)}"
    elif store:
        print("told the other hosts, through the store")
    elif not told:
        kept = "" if forgotten else ". It is remembered for the next start here"
        yield (
            f"no service named {service!r} was told: none runs on this host as this user{kept}; "
            "`auth.revocation_store` would reach other hosts"
        )


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
