"""What is it with this token? `mlguard token mint · explain · revoke`."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jose.exceptions import JOSEError

from mlguard.auth import InvalidToken, KeySet, revocation, verify_jws
from mlguard.auth.claims import usual
from mlguard.auth.minting import Signer, make_key, mint, secret_signer, signer, usual_type
from mlguard.cli.explain import explain
from mlguard.errors import InvalidSettings, MissingExtra, MLGuardError
from mlguard.revocations import Revocation
from mlguard.settings import NAMED, Auth, Issuer, Settings, load

_AROUND = re.compile(r"^\s*(authorization:\s*)?(bearer\s+)?", re.IGNORECASE)


def add(commands: Any) -> None:
    """Add the command to a parser."""
    token = commands.add_parser("token", help="tokens: make, explain and revoke them")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    _add_mint(actions)
    _add_explain(actions)
    _add_revoke(actions)


def _add_mint(actions: Any) -> None:
    mint = actions.add_parser(
        "mint",
        help="sign a token for trying things out",
        description="Sign with the secret that the settings name. Where they name a `jwks_file` "
        "that is not there, make a key set: it, and a private key beside it.",
    )
    _add_settings(mint, issuer="default: the first")
    mint.add_argument("--subject", default="alice", help="default: %(default)s")
    mint.add_argument("--tenant", help="the value of the tenant claim")
    mint.add_argument("--scope", help="words; default: all that the settings demand")
    mint.add_argument("--minutes", type=_minutes, default=60, help="default: %(default)s")
    mint.set_defaults(run=_mint)


def _add_explain(actions: Any) -> None:
    explain = actions.add_parser("explain", help="say why a token would be refused")
    explain.add_argument("token", help="a token, or - to read it from standard input")
    _add_settings(explain)
    explain.set_defaults(run=_explain)


def _add_revoke(actions: Any) -> None:
    revoke = actions.add_parser(
        "revoke",
        help="refuse a token, or all tokens of a subject, from now on",
        description="Tell every running service of the settings' name on this host, started by "
        "this user, and the other hosts through the store that the settings name.",
    )
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("token", nargs="?", help="a token, or - to read it from standard input")
    which.add_argument("--jti", help="the jti of a token")
    which.add_argument("--subject", help="whose tokens, all that were issued until now")
    _add_settings(revoke, issuer="for --jti and --subject")
    revoke.set_defaults(run=_revoke)


def _add_settings(parser: Any, *, issuer: str = "") -> None:
    parser.add_argument("--settings", default="mlguard.toml", help="default: %(default)s")
    if issuer:
        parser.add_argument("--issuer", help=f"which of several, or its `name`; {issuer}")


def _minutes(text: str) -> float:
    minutes = float(text)
    if not -1e9 < minutes < 1e9:
        raise ValueError
    return minutes


def _mint(options: argparse.Namespace) -> None:
    settings, auth = _loaded(options, ["secrets"])
    issuer = _issuer(auth, options.issuer)
    algorithm, kid, sign = _key(settings, issuer)
    claims = usual(
        issuer,
        options.subject,
        scope=" ".join(settings.all_scopes) if options.scope is None else options.scope,
        tenant=options.tenant or "tenant",
        now=int(time.time()),
        seconds=int(options.minutes * 60),
    )
    claims["jti"] = secrets.token_hex(8)
    print(mint(claims, algorithm, sign, typ=usual_type(issuer), kid=kid))


def _key(settings: Settings, issuer: Issuer) -> tuple[str, str | None, Signer]:
    """Find or make what signs: its algorithm, its id and itself."""
    if issuer.is_symmetric:
        newest, algorithm = settings.secrets_of(issuer)[-1], issuer.algorithms[0]
        return algorithm, None, secret_signer(newest, algorithm)
    if issuer.jwks_file is None:
        raise InvalidSettings(
            f"only the issuer {issuer.issuer!r} has private keys of its {issuer.origin}: to try "
            "things out, let settings of your own name a `jwks_file` or a `secret_env`",
            source=settings.source,
        )
    public, private = issuer.jwks_file, issuer.jwks_file.with_suffix(".private.pem")
    if not public.exists() and not private.exists():
        _make_keys(issuer, public, private)
    return _read_keys(issuer, public, private)


def _make_keys(issuer: Issuer, public: Path, private: Path) -> None:
    pem, jwk = make_key(issuer.algorithms[0])
    try:
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        public.write_text(json.dumps({"keys": [jwk]}, indent=2) + "\n")
    except OSError as error:
        raise InvalidSettings(f"cannot be made: {error}", source=str(public)) from error
    text = f"made {public}, and {private} to sign with: keep that one off every server"
    print(text, file=sys.stderr)


def _read_keys(issuer: Issuer, public: Path, private: Path) -> tuple[str, str | None, Signer]:
    """Take the pair that was made before, and try it."""
    if not private.exists():
        raise InvalidSettings(
            f"{private} is missing, and only the issuer has private keys of {public}: "
            "to try things out, name a `jwks_file` that is not there yet, and both are made"
        )
    if not public.exists():
        raise InvalidSettings(
            f"{public} is missing, but {private} is there: bring the one back, "
            "or remove the other, and both are made anew"
        )
    try:
        document = public.read_bytes()
        key = json.loads(document)["keys"][0]
        algorithm, kid = key["alg"], key["kid"]
        sign = signer(private.read_bytes(), algorithm)
        trial = mint({}, algorithm, sign, kid=kid)
        verify_jws(trial, KeySet.from_document(document, algorithms=issuer.algorithms))
    except (OSError, ValueError, LookupError, TypeError, JOSEError, InvalidToken) as error:
        raise InvalidSettings(
            f"{private} cannot sign for {public}: {error}; remove both, and they are made anew"
        ) from error
    return algorithm, kid, sign


def _explain(options: argparse.Namespace) -> None:
    settings, auth = _loaded(options)
    lines, refusal = explain(settings, auth, _token(options.token), time.time())
    for line in lines:
        print(line)
    if refusal:
        raise MLGuardError(f"the token would be refused: {refusal}")


def _revoke(options: argparse.Namespace) -> None:
    settings, auth = _loaded(options, ())  # in an emergency, the shell at hand will do
    if not settings.service.companion:
        raise InvalidSettings(
            "nobody can be told: `service.companion` is false, and the companion process is who "
            "listens; call `revoke` of the guard within the service",
            source=settings.source,
        )
    try:
        revoked = revocation(
            auth,
            token=None if options.token is None else _token(options.token),
            jti=options.jti,
            subject=options.subject,
            issuer=_issuer(auth, options.issuer).issuer if options.issuer else None,
            now=time.time(),
        )
    except ValueError as error:
        raise MLGuardError(str(error)) from error
    _spread(settings, auth, revoked)
    if revoked.until is None:
        print("it stays revoked for good: with `auth.max_age`, entries leave when tokens do")


def _spread(settings: Settings, auth: Auth, revoked: Revocation) -> None:
    """Tell whoever must know, each whether or not the others can be told."""
    from mlguard.runtime.companion import operators

    service, told, troubles = settings.service.name, 0, []
    try:
        operators.remember(service, [revoked])
    except (OSError, ValueError) as error:
        troubles.append(f"it is not remembered on this host: {error}")
    told = operators.tell_companions(service, [revoked])
    services = f"{told} running service{'' if told == 1 else 's'}"
    print(f"told {services} named {service!r} on this host")
    if auth.store:
        try:
            operators.publish(auth.store, service, [revoked])
            print("told the other hosts, through the store")
        except (OSError, ValueError, MissingExtra) as error:
            troubles.append(f"other hosts were not told: {error}")
    elif not told:
        troubles.append(
            f"no service named {service!r} was told: none runs on this host as this user. "
            "It is remembered for the next start here; `auth.store` would reach other hosts"
        )
    if troubles:
        raise MLGuardError("; ".join(troubles))


def _loaded(options: argparse.Namespace, named: Collection[str] = NAMED) -> tuple[Settings, Auth]:
    settings = load(options.settings, named=named)
    if settings.auth is None:
        raise InvalidSettings("tokens need the table [auth]", source=settings.source)
    return settings, settings.auth


def _issuer(auth: Auth, name: str | None) -> Issuer:
    if name is None:
        return auth.accepted[0]
    for issuer in auth.accepted:
        if name in (issuer.issuer, issuer.name):
            return issuer
    known = ", ".join(issuer.issuer for issuer in auth.accepted)
    raise InvalidSettings(f"no issuer is {name!r}; known: {known}")


def _token(argument: str) -> str:
    """Take a token as people copy it: with its header's name, `Bearer` and blanks around it."""
    text = sys.stdin.buffer.read().decode("latin-1") if argument == "-" else argument
    return _AROUND.sub("", text).strip()
