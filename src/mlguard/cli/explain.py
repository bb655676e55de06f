"""Why would a token be refused?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mlguard.auth import Authenticator, InvalidToken, KeysUnavailable
from mlguard.auth import claims as jwt
from mlguard.auth.jws import parse_jws, parse_object
from mlguard.auth.minting import usual_type
from mlguard.runtime.service import Service
from mlguard.settings import Auth, Issuer, Settings

_WIDEST = 60  # characters of a value
_ABSENT = object()
_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


class Row(NamedTuple):
    """What a token has, beside what would be accepted.

    Attributes:
        name: Of the header's member or the claim.
        has: What the token has.
        accepted: What would be accepted.
        wrong: The reason to refuse the token for it, "" where there is none.
    """

    name: str
    has: str
    accepted: str
    wrong: str = ""


def explain(settings: Settings, auth: Auth, token: str, now: float) -> tuple[list[str], str]:
    """Judge a token as a service with these settings would, and show what it is judged by.

    Fetches its issuer's keys where the service would; the token leaves this machine never.

    Args:
        settings: Of the service.
        auth: Their part that is about tokens.
        token: The token.
        now: Seconds since 1970.

    Returns:
        Lines for a person; and the refusal, its code and the reason, "" where there is none.
    """
    try:
        unverified = parse_jws(token)
        claims = parse_object(unverified.payload, "payload")
    except InvalidToken as error:
        return [], f"{error.code}: {error.reason}"
    service = Service(settings)
    issuer = next((i for i in auth.accepted if i.issuer == claims.get("iss")), None)
    failures = service.fetch_keys() if issuer and issuer.is_fetched else {}
    why = failures.get(issuer.issuer, "") if issuer else ""
    refusal = _refusal(service.guard.authenticator, token, now, why)
    told = [_issuer(claims, auth)]
    if issuer is not None:
        told += [_typ(unverified.header, issuer, auth, now), *_claims(claims, issuer, auth, now)]
        # The signature is judged first: with a bad one, no claim is the reason.
        is_signed = not refusal or refusal.partition(": ")[2] in [row.wrong for row in told]
        told[1:1] = _signature(unverified.header, issuer, "" if is_signed else refusal)
        granted = _scopes(claims, issuer, settings, auth)
        refusal = refusal or (granted[0].wrong and f"scope_missing: {granted[0].wrong}")
        told += granted
    return [*_table(told), *([] if refusal else ["ok: accepted, unless it was revoked"])], refusal


def _refusal(authenticator: Authenticator | None, token: str, now: float, why: str) -> str:
    if authenticator is None:
        raise AssertionError("without [auth] nobody explains a token")
    try:
        next(authenticator.judge(token, now))
    except StopIteration:
        return ""
    except InvalidToken as error:
        return f"{error.code}: {error.reason}"
    except KeysUnavailable:
        return f"keys_unavailable: its issuer's keys cannot be fetched: {why}"
    raise AssertionError("keys are fetched before anything is judged")


def _issuer(claims: Mapping[str, Any], auth: Auth) -> Row:
    known = [i.issuer for i in auth.accepted]
    wrong = "" if claims.get("iss") in known else "iss is not the issuer"
    return Row("iss", _value(claims, "iss"), _either(known), wrong)


def _signature(header: Mapping[str, Any], issuer: Issuer, why: str) -> Iterator[Row]:
    alg = header["alg"]
    wrong = "" if alg in issuer.algorithms else "alg is not accepted"
    yield Row("alg", _value(header, "alg"), _either(issuer.algorithms), wrong)
    is_unknown = not wrong and why.endswith("kid")
    yield Row("kid", _value(header, "kid"), "that of a key, or none", why if is_unknown else "")
    yield Row("signature", "not verified" if why else "good", issuer.origin, why)


def _typ(header: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float) -> Row:
    own = {"typ": header["typ"]} if "typ" in header else {}
    wrong = _reason(lambda: jwt.check(_good(issuer, now), own, issuer, auth, now))
    return Row("typ", _value(header, "typ"), _either(issuer.typ), wrong)


def _claims(claims: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float) -> Iterator[Row]:
    """Judge each claim by itself: among others that are good."""
    kind = {name: value for name, value in [("typ", usual_type(issuer))] if value}

    def row(name: str, accepted: str, shown: Callable[..., str] = _value) -> Row:
        others = {n: value for n, value in _good(issuer, now).items() if n != name}
        own = {} if _claim(claims, name) is _ABSENT else {name: _claim(claims, name)}
        wrong = _reason(lambda: jwt.check(others | own, kind, issuer, auth, now))
        return Row(name, shown(claims, name), accepted, wrong)

    yield row(issuer.audience_claim, _either(issuer.audience))
    yield row(issuer.subject_claim, "any text")
    if issuer.tenant_claim:
        wrong = _reason(lambda: jwt.tenant(claims, issuer))
        yield Row(issuer.tenant_claim, _value(claims, issuer.tenant_claim), "any text", wrong)
    past = f"past, give or take {auth.leeway} s"
    young = f"{past}, by {auth.max_age} s at most" if auth.max_age else past
    for name, accepted in (("iat", young), ("nbf", past), ("exp", f"not {past}")):
        if name in claims or name == "exp" or (name == "iat" and auth.max_age):
            yield row(name, accepted, lambda c, n: _moment(c[n], now) if n in c else "none")


def _scopes(claims: Mapping[str, Any], issuer: Issuer, settings: Settings, auth: Auth) -> list[Row]:
    granted = jwt.scopes(claims, issuer)
    name = issuer.scope_claim or ("scp" if "scp" in claims and "scope" not in claims else "scope")
    has = " ".join(_json(scope) for scope in sorted(granted)) or "none"
    needs = [("", auth.scopes)] + [(m.name, m.scopes) for m in settings.models if m.scopes]
    rows = []
    for model, needed in needs:
        missing = " ".join(s for s in needed if s not in granted)
        what = " ".join(needed) or "any"
        accepted = f"{what} too, for the model {model}" if model else what
        wrong = missing and f"it does not grant {missing}"
        rows.append(Row("" if model else name, "" if model else _cut(has), accepted, wrong))
    return rows


def _table(rows: Sequence[Row]) -> list[str]:
    """Lay rows out in columns, with a mark before what is wrong."""
    rows = [Row("", "the token has", "accepted"), *rows]
    name, has = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = (
        f"{'!' if row.wrong else ' '} {row.name:{name}}  {row.has:{has}}  {row.accepted}"
        for row in rows
    )
    return [line.rstrip() for line in lines]


def _good(issuer: Issuer, now: float) -> dict[str, Any]:
    return jwt.usual(issuer, "someone", scope="", tenant="", now=int(now), seconds=60)


def _reason(check: Callable[[], object]) -> str:
    try:
        check()
    except InvalidToken as error:
        return error.reason
    return ""


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Read a claim as it is judged; where it is not there, what is no JSON value."""
    found = jwt.claim(claims, name)
    return _ABSENT if found is None and name not in claims else found


def _value(claims: Mapping[str, Any], name: str) -> str:
    found = _claim(claims, name)
    return "none" if found is _ABSENT else _cut(_json(found))


def _json(value: Any) -> str:
    """Write a value so that a terminal shows it and obeys nothing in it."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _either(values: Sequence[str]) -> str:
    return " or ".join(value if value == "none" else _json(value) for value in values)


def _moment(value: Any, now: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{_cut(_json(value))}, which is no number"
    try:
        moment = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        away = abs(value - now)
    except (ValueError, OverflowError, OSError):
        return f"{_cut(_json(value))}, which is no time"
    unit, size = next((u, s) for u, s in _UNITS if away >= s or s == 1)
    count = int(away / size)
    told = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{moment}, {f'in {told}' if value > now else f'{told} ago'}"
