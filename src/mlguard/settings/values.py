"""Which values may a setting have?"""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from limits import parse as parse_rate
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mlguard.places import problem
from mlguard.urls import is_secure

HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC_KEY = (*RSA, "ES256", "ES384", "ES512", "EdDSA")
NO_TYPE = "none"
"""Stands among media types for a token without one."""
ANY_HOST = ""
"""The host of a route that asks for none; where a route is named, it is written "*"."""

_RATE = re.compile(
    r"\s*[1-9]\d*\s*(/|\s+per\s+)\s*([1-9]\d*\s*)?(second|minute|hour|day|month|year)s?\s*"
)
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


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    if not _RATE.fullmatch(str(value)):
        raise PydanticCustomError("rate", 'must be a rate like "600/minute" or "10000 per 2 hours"')
    item = parse_rate(str(value))
    return Rate(text=str(value), limit=item.amount, seconds=item.get_expiry())


def _rate_or_off(value: object) -> Rate | None:
    """Take a rate, or "off" for none."""
    if value == "off":
        return None
    try:
        return _rate(value)
    except PydanticCustomError:
        raise PydanticCustomError("rate", 'must be a rate like "100/minute", or "off"') from None


def _size(value: object) -> object:
    if isinstance(value, bool) or not value:
        raise PydanticCustomError("size", 'must be a size like "8 MiB"')
    return value


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("network", 'must be a network like "10.0.0.0/8" or "fd00::/8"')
    return value


def _url(value: object) -> str:
    # Before an @ in the path may stand the rest of a password with a slash.
    if not isinstance(value, str) or "@" in value or not is_secure(value):
        raise PydanticCustomError(
            "url", "must be an https:// URL without a password; http:// only for this machine"
        )
    return value


def _store(value: object) -> str:
    if not isinstance(value, str) or not _STORE.fullmatch(value):
        raise PydanticCustomError("store", 'must be a URL like "rediss://redis.example.com:6379/0"')
    return _redis(value)


def _quota_store(value: object) -> str:
    if not isinstance(value, str) or not _QUOTA_STORE.fullmatch(value):
        raise PydanticCustomError(
            "store",
            "must be memory://, host://, host:///a/folder, redis://host:6379/0, "
            "redis+cluster://host:6379 or redis+sentinel://host:26379/service, or rediss for TLS",
        )
    return _redis(value) if value.startswith("redis") else value


def _redis(value: str) -> str:
    if wrong := problem(value):
        raise PydanticCustomError("store", "the URL of the Redis {wrong}", {"wrong": wrong})
    return value


def _listed(value: object) -> object:
    """Take one name where several may stand."""
    return (value,) if isinstance(value, str | os.PathLike) else value


def _media_types(typ: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(media_type, typ))


def _existing(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise PydanticCustomError("path", "must be the path of a file")
    return Path(value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise PydanticCustomError("route", 'must be a path that begins with "/"')
    return value


def _route(value: object) -> str:
    if not isinstance(value, str) or not _ROUTE.fullmatch(value):
        raise PydanticCustomError(
            "route", 'must be a path that begins with "/", or a host before it: "example.org/x"'
        )
    return value


def split_route(name: str) -> tuple[str | None, str]:
    """Tell the host that a route's name holds, None where it holds none, and the template."""
    host, _, path = name.partition("/")
    return (ANY_HOST if host == "*" else host) if host else None, f"/{path}"


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Variables = Annotated[tuple[Variable, ...], BeforeValidator(_listed)]
Size = Annotated[ByteSize, BeforeValidator(_size)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
PathText = Annotated[str, BeforeValidator(_path)]
RouteText = Annotated[str, BeforeValidator(_route)]
HeadSize = Annotated[Size, Field(ge=1024, le=1024 * 1024)]
FilePath = Annotated[Path, BeforeValidator(_existing)]
FilePaths = Annotated[tuple[FilePath, ...], BeforeValidator(_listed)]
RateText = Annotated[Rate, BeforeValidator(_rate)]
RateOrOff = Annotated[Rate | None, BeforeValidator(_rate_or_off)]
Url = Annotated[str, BeforeValidator(_url)]
QuotaStore = Annotated[str, BeforeValidator(_quota_store)]
StoreUrl = Annotated[str, BeforeValidator(_store)]
MediaTypes = Annotated[Texts, AfterValidator(_media_types)]
Algorithm = Literal[*HMAC, *PUBLIC_KEY]  # type: ignore[valid-type]
Algorithms = Annotated[tuple[Algorithm, ...], Field(min_length=1)]
Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$")]  # RFC 6749 section 3.3
Scopes = tuple[Scope, ...]
