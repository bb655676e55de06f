"""How does an operator get a token, for trying things out?"""

from __future__ import annotations

import argparse
import secrets
import time
from typing import Any

from mlguard.auth.minting import mint, usual, usual_type
from mlguard.cli.terminal import say
from mlguard.cli.token.options import add_issuer, add_settings, issuer_named, loaded, some_text
from mlguard.cli.token.signing import signing_key


def add(actions: Any) -> None:
    """Add the action to a parser."""
    mint = actions.add_parser(
        "mint",
        help="sign a token for trying things out",
        description="Sign with the secret that the settings name. Where they name a `jwks_file` "
        "that is not there, make a key set: it, and a private key beside it.",
    )
    add_settings(mint)
    add_issuer(mint, "default: the first")
    mint.add_argument("--subject", type=some_text, default="alice", help="default: %(default)s")
    mint.add_argument("--tenant", type=some_text, help="the value of the tenant claim")
    mint.add_argument("--scope", help="words; default: all that the settings demand")
    mint.add_argument("--minutes", type=_minutes, default=60, help="default: %(default)s")
    mint.set_defaults(run=_mint)


def _minutes(text: str) -> float:
    minutes = float(text)
    if not -1e9 < minutes < 1e9:
        raise ValueError
    return minutes


def _mint(options: argparse.Namespace) -> None:
    settings, auth = loaded(options, ["secrets"])
    issuer = issuer_named(auth, options.issuer) if options.issuer is not None else auth.issuers[0]
    key = signing_key(settings, issuer)
    claims = usual(
        issuer,
        options.subject,
        scope=" ".join(settings.all_scopes) if options.scope is None else options.scope,
        tenant=options.tenant or "tenant",
        now=int(time.time()),
        seconds=int(options.minutes * 60),
    )
    claims["jti"] = secrets.token_hex(8)
    say(mint(claims, key.algorithm, key.sign, typ=usual_type(issuer), kid=key.kid))
