"""What is a refused client told?"""

from __future__ import annotations

import json
from functools import cache, lru_cache

from mlguard.messages import Deny, Headers

CONTENT_TYPE = "application/problem+json"
SOON = 1  # seconds, where nobody can tell when
_MOST_SCOPE = 1024  # characters of a challenge
_OWN = frozenset(("type", "title", "status", "code"))
_encode = json.JSONEncoder(separators=(",", ":")).encode


def body(deny: Deny, trace_id: str | None) -> bytes:
    """Write the problem document (RFC 9457)."""
    own = _head(deny.code, deny.title, deny.status)
    if not deny.more:
        last = f',"trace_id":{_encode(trace_id)}' if trace_id else ""
        return f"{own}{last}}}".encode()
    more = {**deny.more, "trace_id": trace_id} if trace_id else deny.more
    if _OWN.isdisjoint(more):
        return f"{own},{','.join([_member(*pair) for pair in more.items()])}}}".encode()
    return _encode({**json.loads(f"{own}}}"), **more}).encode()


def _member(name: str, value: object) -> str:
    # A whole number's text is its JSON; for all but texts the encoder is made anew.
    return f"{_encode(name)}:{value if type(value) is int else _encode(value)}"


@lru_cache(256)
def _head(code: str, title: str, status: int) -> str:
    """Write what every document of a refusal begins with; all but its last brace."""
    document = {
        "type": f"urn:mlguard:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
    }
    return _encode(document)[:-1]


@cache
def token_missing() -> Deny:
    """No credentials: RFC 6750 section 3.1 wants the challenge without an error code."""
    headers = (("WWW-Authenticate", "Bearer"),)
    return Deny(401, "token_missing", "A bearer token is required.", headers)


@lru_cache(16)
def token(code: str, title: str) -> Deny:
    """Credentials that do not hold; why stays in the log."""
    challenge = f'Bearer error="invalid_token", error_description="{title}"'
    return Deny(401, code, title, (("WWW-Authenticate", challenge),))


@cache
def labels_unreadable() -> Deny:
    """A body that holds no labels."""
    title = 'The body must be {"call_id": "...", "truths": [...]}, or a list of such.'
    return Deny(422, "labels_unreadable", title)


@lru_cache(16)
def key_missing(header: str, *, beside_tokens: bool) -> Deny:
    """No credentials, where an API key is one."""
    if header.lower() == "authorization":
        return token_missing()
    named, own = f"An API key in {header}", ("WWW-Authenticate", _challenge(header))
    if not beside_tokens:
        return Deny(401, "key_missing", f"{named} is required.", (own,))
    title = f"{named}, or a bearer token, is required."
    return Deny(401, "token_missing", title, (("WWW-Authenticate", "Bearer"), own))


@lru_cache(16)
def key_unknown(header: str) -> Deny:
    """Nobody's API key: never one, mistyped, or revoked."""
    return _key("key_unknown", "The API key is not known.", header)


@lru_cache(16)
def key_expired(header: str) -> Deny:
    """The API key's time is over."""
    return _key("key_expired", "The API key has expired.", header)


@lru_cache(16)
def two_credentials(header: str) -> Deny:
    """A token and an API key (RFC 6750 section 2: one method a request)."""
    title = f"Send a bearer token or an API key in {header}, not both."
    return _key("two_credentials", title, header)


@cache
def api_keys_unknown(retry_after: int = SOON) -> Deny:
    """Which API keys there are could not be read yet, so nothing can be said of this one."""
    title = "The API keys of this service are not known yet; retry later."
    return Deny(503, "keys_unavailable", title, (("Retry-After", str(retry_after)),))


def _key(code: str, title: str, header: str) -> Deny:
    if header.lower() == "authorization":
        return token(code, title)
    return Deny(401, code, title, (("WWW-Authenticate", _challenge(header)),))


def _challenge(header: str) -> str:
    return f'ApiKey header="{header}"'


def token_malformed() -> Deny:
    """Not a JSON Web Token in a single Authorization header."""
    return token("token_malformed", "The bearer token is malformed.")


def token_expired() -> Deny:
    """The token's time is over."""
    return token("token_expired", "The bearer token has expired.")


def token_not_yet_valid() -> Deny:
    """The token's time has not begun."""
    return token("token_not_yet_valid", "The bearer token is not valid yet.")


def token_revoked() -> Deny:
    """The token, or its subject, was revoked."""
    return token("token_revoked", "The bearer token has been revoked.")


def token_untrusted() -> Deny:
    """Signature, key, algorithm, issuer, audience or a claim: which one is never said."""
    return token("token_untrusted", "The bearer token is not trusted.")


@lru_cache(256)
def scope_missing(needed: frozenset[str]) -> Deny:
    """The token is good but does not grant this (RFC 6750 section 3.1).

    Scopes beyond what a header may well hold are left out of the challenge, not cut.
    """
    scope = " ".join(sorted(needed))
    if len(scope) > _MOST_SCOPE:
        scope = scope[: _MOST_SCOPE + 1].rpartition(" ")[0]
    named = f', scope="{scope}"' if scope else ""
    challenge = f'Bearer error="insufficient_scope"{named}'
    title = "The bearer token does not grant what this route needs."
    return Deny(403, "scope_missing", title, (("WWW-Authenticate", challenge),))


def too_many_failures(retry_after: int) -> Deny:
    """Too many refused tokens from this address; it is not even looked at another one."""
    title = "Too many refused tokens from this address; retry later."
    return Deny(429, "too_many_failures", title, (("Retry-After", str(retry_after)),))


def keys_unavailable(retry_after: int) -> Deny:
    """The issuer's keys cannot be fetched, so nothing can be said of the token."""
    title = "The keys that verify this token cannot be fetched; retry later."
    return Deny(503, "keys_unavailable", title, (("Retry-After", str(retry_after)),))


def revocations_unknown(retry_after: int = SOON) -> Deny:
    """What other hosts revoked was not read yet, so nothing can be said of the token."""
    title = "Whether this token was revoked cannot be told yet; retry later."
    return Deny(503, "revocations_unknown", title, (("Retry-After", str(retry_after)),))


@cache
def caller_unknown(retry_after: int = SOON) -> Deny:
    """The app could not tell who is logged in."""
    title = "Who is calling cannot be told at the moment; retry later."
    return Deny(503, "caller_unknown", title, (("Retry-After", str(retry_after)),))


def body_too_large(limit: int) -> Deny:
    """The body is larger than the service reads."""
    title = f"The request body is larger than {limit} bytes."
    return Deny(413, "body_too_large", title, more={"limit": limit})


def body_timeout(seconds: float) -> Deny:
    """The body did not arrive in time (RFC 9110 section 15.5.9)."""
    title = f"The request body did not arrive within {seconds:g} seconds."
    return Deny(408, "body_timeout", title, more={"limit": seconds})


def client_left() -> Deny:
    """The client left before its body was whole: nobody reads this (nginx's 499)."""
    return Deny(499, "client_left", "The client left before its request was whole.")


def uri_too_long(limit: int) -> Deny:
    """The path and the query are longer than the service reads (RFC 9110 section 15.5.15)."""
    title = f"The path and the query are longer than {limit} bytes."
    return Deny(414, "uri_too_long", title, more={"limit": limit})


def header_too_large(limit: int) -> Deny:
    """A header that is read is longer than that (RFC 6585 section 5)."""
    title = f"A header field is larger than {limit} bytes."
    return Deny(431, "header_too_large", title, more={"limit": limit})


def rows_unreadable(largest: int, headers: Headers = ()) -> Deny:
    """The body is no JSON that could be read, and could hold more rows than may be asked."""
    title = (
        "The body cannot be read as JSON, and could hold more rows than the quota admits; "
        f"send valid JSON, with at most {largest} rows."
    )
    return Deny(422, "rows_unreadable", title, headers, {"largest_batch": largest})


def model_ambiguous() -> Deny:
    """What names the model is said more than once: readers differ in which they take."""
    return Deny(422, "model_unclear", "The request names more than one model; name one.")


def model_unreadable() -> Deny:
    """What names the model stands in a body that is no JSON."""
    title = "The body cannot be read as JSON, so nobody can tell which model it asks."
    return Deny(422, "model_unclear", title)


def batch_exceeds_quota(unit: str, largest: int, headers: Headers = ()) -> Deny:
    """The call would never fit: retrying does not help, splitting does."""
    title = f"The call is larger than the whole quota; send at most {largest} {unit}."
    more = {"largest_batch": largest, "unit": unit}
    return Deny(422, "batch_exceeds_quota", title, headers, more)


def rate_exceeded(retry_after: int, headers: Headers = ()) -> Deny:
    """Too many requests."""
    title = "Too many requests; retry later."
    return Deny(429, "rate_exceeded", title, (("Retry-After", str(retry_after)), *headers))


def quota_exceeded(unit: str, retry_after: int, headers: Headers) -> Deny:
    """Too many predicted rows, or of whatever else is counted."""
    title = f"The quota of {unit} is spent; retry later."
    return Deny(429, "quota_exceeded", title, (("Retry-After", str(retry_after)), *headers))


def answer_withheld(retry_after: int | None, headers: Headers = (), unit: str = "rows") -> Deny:
    """The model answered more than the caller can pay; None where waiting does not help."""
    title = f"The answer holds more {unit} than the quota has left; it is withheld."
    wait = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return Deny(429, "answer_withheld", title, (*wait, *headers))


def quota_lifetime_spent(remaining: int, headers: Headers) -> Deny:
    """More rows than are left of a budget that never comes back."""
    title = f"The budget of rows is spent for good; {remaining} are left."
    return Deny(403, "quota_lifetime_spent", title, headers, {"remaining": remaining})


def too_many_in_flight(retry_after: int = SOON, headers: Headers = ()) -> Deny:
    """Too many requests of this caller at once."""
    title = "Too many requests at once; wait for the others to end."
    return Deny(429, "too_many_in_flight", title, (("Retry-After", str(retry_after)), *headers))


def store_unavailable(retry_after: int = SOON) -> Deny:
    """Nobody can tell what was asked before, and the settings want to know."""
    title = "The quota cannot be told at the moment; retry later."
    return Deny(503, "store_unavailable", title, (("Retry-After", str(retry_after)),))


def overloaded(retry_after: int = SOON) -> Deny:
    """The service has as many requests in flight as it takes."""
    title = "The service is overloaded; retry later."
    return Deny(503, "overloaded", title, (("Retry-After", str(retry_after)),))
