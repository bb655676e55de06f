"""For how long is an answer fresh, by RFC 9111?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LEAST = 30  # seconds: no server makes us ask it more often, unless the settings do
_HUGE = 2.0**31  # RFC 9111 section 1.2.2


def freshness(headers: Mapping[str, str], most: int, now: float) -> float:
    """Return for how many seconds an answer is fresh: what its headers say, within bounds.

    Args:
        headers: The answer's headers, their names in lower case.
        most: Seconds at most, and where the headers say nothing.
        now: The time in seconds since 1970.
    """
    lifetime = _lifetime(headers, now)
    if lifetime is None:
        return float(most)
    return float(min(max(lifetime - _seconds(headers.get("age", "")), min(LEAST, most)), most))


def _lifetime(headers: Mapping[str, str], now: float) -> float | None:
    """Read the freshness lifetime (section 4.2.1); what cannot be read counts as stale."""
    directives = _directives(headers.get("cache-control", ""))
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    if "max-age" in directives:
        return _seconds(directives["max-age"])
    if "expires" not in headers:
        return None
    expires, date = _moment(headers["expires"]), _moment(headers.get("date", ""))
    return 0.0 if expires is None else expires - (now if date is None else date)


def _directives(text: str) -> dict[str, str]:
    """Take the directives of Cache-Control apart; of those that stand twice, the first holds."""
    directives: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        directives.setdefault(name.strip().lower(), value.strip())
    return directives


def _seconds(text: str) -> float:
    """Read delta-seconds; 0 where they cannot be read."""
    digits = text.strip().strip('"')
    return min(float(digits), _HUGE) if digits.isascii() and digits.isdigit() else 0.0


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
