"""How is a token, or whatever a subject holds, refused from now on?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mlguard.auth import revocation
from mlguard.cli.terminal import say
from mlguard.cli.token.options import (
    add_issuer,
    add_settings,
    add_token,
    issuer_named,
    loaded,
    token_of,
)
from mlguard.errors import InvalidSettings, MissingExtra, MLGuardError
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.host.revocations import RevocationTable
from mlguard.host.snapshots import instances
from mlguard.revocations import Revocation, Revocations, RevocationsFull
from mlguard.settings import Auth, Settings

_PATIENCE = 2.0  # seconds: an operator waits longer than a request


def add(actions: Any) -> None:
    """Add the action to a parser."""
    revoke = actions.add_parser(
        "revoke",
        help="refuse a token, or all tokens of a subject, from now on",
        description="Write it into the file of the settings' service on this host, as its user, "
        "whether or not it runs, and tell other hosts through the store that the settings name.",
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
    if not settings.service.host_file:
        raise InvalidSettings(
            "nobody can be told: `service.host_file` is false, and the workers read that file; "
            "call `revoke` of the guard within the service",
            source=settings.source,
        )
    revoked = _revocation(options, auth)
    if troubles := list(_spread(settings, auth.revocation_store, revoked)):
        raise MLGuardError("; ".join(troubles))
    if revoked.until is None:
        say("it stays revoked for good: with `auth.max_age`, entries leave when tokens do")


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


def _spread(settings: Settings, store: str | None, revoked: Revocation) -> Iterator[str]:
    """Tell the service here, and other hosts; say so, and yield the troubles."""
    service = settings.service.name
    found = Folder.existing(settings.meeting, settings.folder)
    told = 0
    try:
        for folder in found or [_prepared(settings.meeting, settings.folder)]:
            told += _write(folder, revoked)
    except (OSError, DatabaseFailed, RevocationsFull) as error:
        yield f"it is not remembered on this host: {_said(error)}"
    else:
        running = f"{told} of its instances run" if told != 1 else "1 of its instances runs"
        say(f"written for the service {service!r} on this host: {running}")
        if not found and not store:
            yield (
                f"no service named {service!r} has run on this host as this user: one that starts "
                "here will know; `auth.revocation_store` would reach other hosts"
            )
    if store:
        try:
            from mlguard.redis.revocations import publish

            publish(store, service, [revoked])
        except (OSError, MissingExtra) as error:
            yield f"other hosts were not told: {_said(error)}"
        else:
            say("told the other hosts, through the store")


def _prepared(service: str, wanted: Path | None) -> Folder:
    folder = Folder.of(service, wanted)
    folder.prepare()
    return folder


def _write(folder: Folder, revoked: Revocation) -> int:
    """Write a revocation down; tell how many instances run that will read it within a second."""
    database = Database(folder.database, wait=_PATIENCE)
    with closing(database):
        table = RevocationTable(database, Revocations())
        table.start()
        if refused := table.learn([revoked]):
            raise RevocationsFull(refused)
        table.save()
        return instances(database)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
