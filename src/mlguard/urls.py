"""Which URLs may be trusted, and what of a URL may be seen?"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

_ODD = re.compile(r"[\s\\\x00-\x1f\x7f]")
_PASSWORD = re.compile(r"@|[?&](username|password)=")
_PARTS = re.compile(r"^((?:https?|rediss?(?:\+\w+)?)://|)([^?#]*)(.*)", re.DOTALL | re.IGNORECASE)


def is_loopback(host: str | None) -> bool:
    """Say whether a host is this machine."""
    with suppress(ValueError):
        return ip_address(host or "").is_loopback
    return host == "localhost"


def is_secure(url: str) -> bool:
    """Demand https, but for this machine itself, and no password before the host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return is_safe and bool(host) and port != 0 and "@" not in parts.netloc and not _ODD.search(url)


def has_password(url: str) -> bool:
    """Say whether a URL may hold a password: before an @, or among the options of Redis."""
    return bool(_PASSWORD.search(url))


def redacted_url(url: str) -> str:
    """Return a text, which may be a URL, as it may be seen: without user, password and query.

    Nothing before an @ is shown, as a password may hold a slash. With an @ behind a question mark,
    which could be of a password or of a query, only the scheme is.
    """
    scheme, place, rest = _PARTS.findall(url)[0]
    if "@" in rest:
        return f"{scheme}..."
    _, at, place = place.rpartition("@")
    user, query = "...@" if at else "", f"{rest[0]}..." if rest else ""
    return f"{scheme}{user}{place}{query}"
