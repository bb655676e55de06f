"""Why would a token be refused?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlguard.auth import InvalidToken, Keyring, KeysUnavailable
from mlguard.auth import claims as jwt
from mlguard.auth.claims import Problem
from mlguard.auth.finding import find_key
from mlguard.auth.jws import Unverified, parse_jws, parse_object
from mlguard.cli.terminal import bad, good, lasting, say
from mlguard.cli.token.options import add_settings, add_token, loaded, token_of
from mlguard.cli.token.showing import Row, either, shown, shown_moment, table, words
from mlguard.errors import MLGuardError
from mlguard.keys import KeyFetcher, rings
from mlguard.settings import Auth, Issuer, Settings


def add(actions: Any) -> None:
    """Add the action to a parser."""
    explain = actions.add_parser(
        "explain",
        help="say why a token would be refused",
        description="Judge a token as the service would, with its issuer's keys fetched where the "
        "service would fetch them; the token never leaves this machine.",
    )
    add_token(explain)
    add_settings(explain)
    explain.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> None:
    settings, auth = loaded(options)
    try:
        unverified = parse_jws(token_of(options.token))
        claims = parse_object(unverified.payload, "payload")
    except InvalidToken as error:
        raise _refused(error.code, error.reason) from error
    rows, problem = explained(settings, auth, unverified, claims, time.time())
    say(*(bad(line) if line.startswith("!") else line for line in table(rows)))
    if problem is not None:
        raise _refused(problem.code, problem.reason)
    say(f"{good('ok')}: accepted, unless it was revoked")


def _refused(code: str, reason: str) -> MLGuardError:
    return MLGuardError(f"the token would be refused: {code}: {reason}")


def explained(
    settings: Settings, auth: Auth, unverified: Unverified, claims: Mapping[str, Any], now: float
) -> tuple[list[Row], Problem | None]:
    """Judge a token as a service with these settings would, and show what it is judged by.

    Fetches its issuer's keys where the service would; the token never leaves this machine.

    Returns:
        What to show; and why the token would be refused, None where it would not be.
    """
    issuer = next((i for i in auth.issuers if i.issuer == claims.get("iss")), None)
    known = either([i.issuer for i in auth.issuers])
    iss = Row("iss", shown(claims, "iss"), known, issuer is None)
    if issuer is None:
        return [iss], Problem("iss", "iss is not the issuer")
    # In the order of the service: with a bad signature, no claim is the reason.
    found = [
        *_signature(settings, auth, issuer, unverified),
        *jwt.problems(claims, unverified.header, issuer, auth, now),
        *_ungranted(claims, issuer, auth),
    ]
    wrong = {problem.claim for problem in found}
    rows = [
        iss,
        *_header(unverified.header, issuer, wrong),
        *_claims(claims, issuer, auth, now, wrong),
        *_scopes(claims, issuer, settings, auth),
    ]
    return rows, found[0] if found else None


def _signature(
    settings: Settings, auth: Auth, issuer: Issuer, unverified: Unverified
) -> Iterator[Problem]:
    """Tell why nothing verifies it, and which member of the header that is about."""
    ring, trouble = _keys(settings, auth, issuer)
    try:
        next(find_key(unverified, issuer, ring, auth.jwks_timeout))
        raise AssertionError("keys are fetched before anything is judged")
    except StopIteration:
        return
    except KeysUnavailable:
        reason = f"its issuer's keys cannot be fetched: {trouble}"
        yield Problem("signature", reason, "keys_unavailable")
        return
    except InvalidToken as error:
        bad = Problem("signature", error.reason, error.code)
    yield bad
    keys = ring.keys()
    if unverified.algorithm not in issuer.algorithms:
        yield bad._replace(claim="alg")
    elif keys is not None and not keys.candidates(unverified.algorithm, unverified.kid):
        yield bad._replace(claim="kid")


def _keys(settings: Settings, auth: Auth, issuer: Issuer) -> tuple[Keyring, str]:
    """Get an issuer's keys; the text says why they cannot be fetched."""
    ring = rings(settings)[issuer.issuer]
    if not issuer.is_fetched:
        return ring, ""
    fetcher = KeyFetcher(auth, {issuer.issuer: ring}, on_result=lambda *_: None)
    with lasting(f"fetching the keys of {issuer.issuer}"):
        return ring, fetcher.fetch_once()[issuer.issuer] or ""


def _ungranted(claims: Mapping[str, Any], issuer: Issuer, auth: Auth) -> Iterator[Problem]:
    granted = jwt.scopes(claims, issuer)
    if missing := [scope for scope in auth.scopes if scope not in granted]:
        reason = f"it does not grant {' '.join(missing)}"
        yield Problem(_scope_claim(claims, issuer), reason, "scope_missing")


def _header(header: Mapping[str, Any], issuer: Issuer, wrong: Collection[str]) -> Iterator[Row]:
    yield Row("alg", shown(header, "alg"), either(issuer.algorithms), "alg" in wrong)
    yield Row("kid", shown(header, "kid"), "that of a key, or none", "kid" in wrong)
    is_good = "signature" not in wrong
    yield Row("signature", "good" if is_good else "not verified", issuer.origin, not is_good)
    yield Row("typ", shown(header, "typ"), either(issuer.typ), "typ" in wrong)


def _claims(
    claims: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float, wrong: Collection[str]
) -> Iterator[Row]:
    texts = [(issuer.audience_claim, either(issuer.audience)), (issuer.subject_claim, "any text")]
    if issuer.tenant_claim:
        texts.append((issuer.tenant_claim, "any text"))
    for name, accepted in texts:
        yield Row(name, shown(claims, name), accepted, name in wrong)
    past = f"past, give or take {auth.leeway} s"
    young = f"{past}, by {auth.max_age} s at most" if auth.max_age else past
    for name, accepted in (("iat", young), ("nbf", past), ("exp", f"not {past}")):
        if name in claims or name in wrong:
            yield Row(name, shown_moment(claims, name, now), accepted, name in wrong)


def _scopes(
    claims: Mapping[str, Any], issuer: Issuer, settings: Settings, auth: Auth
) -> Iterator[Row]:
    granted = jwt.scopes(claims, issuer)
    accepted = " ".join(auth.scopes) or "any"
    is_wrong = not granted.issuperset(auth.scopes)
    yield Row(_scope_claim(claims, issuer), words(granted), accepted, is_wrong)
    for model in settings.models:
        if model.scopes:
            accepted = f"{' '.join(model.scopes)} too, for the model {model.name}"
            yield Row("", "", accepted, not granted.issuperset(model.scopes))


def _scope_claim(claims: Mapping[str, Any], issuer: Issuer) -> str:
    return issuer.scope_claim or ("scp" if "scp" in claims and "scope" not in claims else "scope")
