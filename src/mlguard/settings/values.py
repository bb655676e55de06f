"""Which values may a setting have?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mlguard.drift.values import to_category
from mlguard.pointers import keys_of
from mlguard.redis_url import problem
from mlguard.urls import is_secure

HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC_KEY = (*RSA, "ES256", "ES384", "ES512", "EdDSA")
NO_TYPE = "none"
"""Stands among media types for a token without one."""
ANY_HOST = ""
"""The host of a route that asks for none; where a route is named, it is written "*"."""

REST = "_other"
"""What models and versions are called that no setting names."""

_RATE = re.compile(
    r"\s*([1-9]\d*)\s*(?:/|\s+per\s+)\s*([1-9]\d*)?\s*(second|minute|hour|day|month|year)s?\s*"
)
# As `limits` reads them, in which a month has 30 days and a year twelve of those.
_UNITS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "month": 2_592_000,
    "year": 31_104_000,
}
_ROUTE = re.compile(r"[^/\s]*/.*", re.DOTALL)
_REDIS = (
    r"rediss?(\+cluster)?://[^\s\x00-\x1f\x7f]+"
    r"|rediss?\+sentinel://[^\s/\x00-\x1f\x7f]+/[^\s\x00-\x1f\x7f]+"
)
_STORE = re.compile(_REDIS)
_QUOTA_STORE = re.compile(rf"memory://|host://(/[^\x00-\x1f\x7f?#]+)?|{_REDIS}")


class Table(BaseModel):
    """A table of the settings file: frozen, and no key beyond those named."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def known_keys(cls) -> dict[str, FieldInfo]:
        """List the keys that may stand in the table."""
        return dict(cls.model_fields)


class Rate(Table):
    """So many units in so much time.

    Attributes:
        text: The rate as the operator wrote it.
        limit: Units admitted in one window.
        seconds: Length of the window.
    """

    text: str
    limit: int
    seconds: int


def secret_bytes(algorithm: str) -> int:
    """Say how long an HMAC secret must be: as long as the hash (RFC 7518 section 3.2)."""
    return int(algorithm.removeprefix("HS")) // 8


def media_type(typ: str) -> str:
    """Spell a type in one way: in lower case, without "application/" (RFC 7515 section 4.1.9)."""
    kind = typ.lower().removeprefix("application/")
    # RFC 7519 section 5.1: this one is in upper case, as some compare it so.
    return "JWT" if kind == "jwt" else kind


def mistake(text: str) -> PydanticCustomError:
    """Say what is wrong with a value, as a sentence that goes on after its key."""
    return PydanticCustomError("mistake", "{text}", {"text": text})


def contradiction(text: str) -> PydanticCustomError:
    """Say what is wrong with several keys of a table together."""
    return PydanticCustomError("contradiction", "{text}", {"text": text})


def _must(fits: Callable[[object], bool], be: str) -> BeforeValidator:
    """Take a value as it stands if it fits."""

    def check(value: object) -> object:
        if not fits(value):
            raise mistake(f"must be {be}")
        return value

    return BeforeValidator(check)


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(str(value))
    if found is None:
        raise mistake('must be a rate like "600/minute" or "10000 per 2 hours"')
    amount, times, unit = found.groups()
    return Rate(text=str(value), limit=int(amount), seconds=int(times or 1) * _UNITS[unit])


def _rate_or_off(value: object) -> Rate | None:
    """Take a rate, or "off" for none."""
    if value == "off":
        return None
    try:
        return _rate(value)
    except PydanticCustomError:
        raise mistake('must be a rate like "100/minute", or "off"') from None


def _is_url(value: object) -> bool:
    # Before an @ in the path may stand the rest of a password with a slash.
    return isinstance(value, str) and "@" not in value and is_secure(value)


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def spelt(pattern: str, be: str) -> BeforeValidator:
    """Take a text that is spelt like this; else it is said in words what it must be."""
    return _must(_matches(re.compile(pattern)), be)


def _redis(value: str) -> str:
    if value.startswith("redis") and (wrong := problem(value)):
        raise mistake(f"the URL of the Redis {wrong}")
    return value


def _model_name(value: object) -> object:
    """Call the rest by its name, which no other can have."""
    return REST if value == "*" else value


def _listed(value: object) -> object:
    """Take one name where several may stand."""
    return (value,) if isinstance(value, str | os.PathLike) else value


def _selector(value: str) -> str:
    """Check the place in a body."""
    kind, _, place = value.partition(":")
    if kind == "body":
        _place(place)
    return value


def _place(value: object) -> str:
    """Take a place in a JSON document."""
    if not isinstance(value, str):
        raise mistake('must be keys joined by dots, a JSON Pointer, or "" for the whole document')
    try:
        keys_of(value)
    except ValueError as error:
        raise mistake(str(error)) from None
    return value


def _classes(value: object) -> object:
    """Spell classes as they are compared: what JSON, NumPy and files turn into another is one."""
    if not isinstance(value, list | tuple):
        raise mistake('must be a list like ["no", "yes"] or [0, 1]')
    classes = tuple(map(to_category, value))
    if len(classes) < 2 or None in classes or len(set(classes)) != len(classes):
        raise mistake("must be two or more classes, each another text or number")
    return classes


def _media_types(typ: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(media_type, typ))


def _path(value: object, info: ValidationInfo) -> Path:
    """Take a path, relative to the folder of the settings file."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise mistake("must be the path of a file")
    return Path((info.context or {}).get("folder", ""), value)


def split_route(name: str) -> tuple[str | None, str]:
    """Tell the host that a route's name holds, None where it holds none, and the template."""
    host, _, path = name.partition("/")
    return (ANY_HOST if host == "*" else host) if host else None, f"/{path}"


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAMED = 'a name of at most 64 letters, digits and ". _ -", which begins with a letter or a digit'

Name = Annotated[str, spelt(_NAME, _NAMED)]
ModelName = Annotated[
    str, spelt(rf"{REST}|{_NAME}", f'{_NAMED}, or "*" for the rest'), BeforeValidator(_model_name)
]
SelectorText = Annotated[
    str,
    spelt(
        r"(?s:(path|query|body):.+)",
        'where it is said: "path:name", "query:model" or "body:model"',
    ),
    AfterValidator(_selector),
]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
Place = Annotated[str, BeforeValidator(_place)]
Places = Annotated[tuple[Place, ...], BeforeValidator(_listed), Field(min_length=1)]
Variable = Annotated[
    str, spelt(r"[A-Za-z_][A-Za-z0-9_]{0,99}", "the name of an environment variable")
]
Variables = Annotated[tuple[Variable, ...], BeforeValidator(_listed)]
Size = Annotated[
    ByteSize,
    _must(lambda value: bool(value) and not isinstance(value, bool), 'a size like "8 MiB"'),
]
HeaderName = Annotated[
    str,
    spelt(
        r"(?!(?i:host|cookie|content-length|transfer-encoding)\Z)[A-Za-z0-9-]{1,64}",
        'the name of a header, like "X-API-Key"',
    ),
]
Network = Annotated[
    IPv4Network | IPv6Network,
    _must(lambda v: isinstance(v, str), 'a network like "10.0.0.0/8" or "fd00::/8"'),
]
PathText = Annotated[
    str, _must(_matches(re.compile("/.*", re.DOTALL)), 'a path that begins with "/"')
]
RouteText = Annotated[
    str,
    _must(_matches(_ROUTE), 'a path that begins with "/", or a host before it: "example.org/x"'),
]
HeadSize = Annotated[Size, Field(ge=1024, le=1024 * 1024)]
FilePath = Annotated[Path, BeforeValidator(_path)]
FilePaths = Annotated[tuple[FilePath, ...], BeforeValidator(_listed)]
RateText = Annotated[Rate, BeforeValidator(_rate)]
RateOrOff = Annotated[Rate | None, BeforeValidator(_rate_or_off)]
Url = Annotated[
    str,
    _must(_is_url, "an https:// URL without a password; http:// only for this machine"),
]
QuotaStore = Annotated[
    str,
    AfterValidator(_redis),
    _must(
        _matches(_QUOTA_STORE),
        "memory://, host://, host:///a/folder, redis://host:6379/0, redis+cluster://host:6379 or "
        "redis+sentinel://host:26379/service, or rediss for TLS",
    ),
]
StoreUrl = Annotated[
    str,
    AfterValidator(_redis),
    _must(_matches(_STORE), 'a URL like "rediss://redis.example.com:6379/0"'),
]
MediaTypes = Annotated[Texts, AfterValidator(_media_types)]
Classes = Annotated[tuple[str, ...], BeforeValidator(_classes)]
Algorithm = Literal[*HMAC, *PUBLIC_KEY]  # type: ignore[valid-type]
Algorithms = Annotated[tuple[Algorithm, ...], Field(min_length=1)]
Scope = Annotated[  # RFC 6749 section 3.3
    str, spelt(r"[\x21\x23-\x5B\x5D-\x7E]+", "one word without blanks, quotes and backslashes")
]
Scopes = tuple[Scope, ...]
