"""Which place in a JSON document is meant?

Keys joined by dots, or a JSON Pointer (RFC 6901), which a key with a dot in it needs. In a list, a
key is an index. "" and "$" are the whole document.
"""

from __future__ import annotations

import re

SOURCES = ("form", "query", "files", "csv")
"""What names no place in a JSON document but another source of rows."""

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_BRACKETS = re.compile(r"\[([^\]]*)\]")


def keys_of(place: str) -> tuple[str, ...]:
    """Split what names a place into its keys.

    Raises:
        ValueError: It names none; the message goes on after the setting, and says what to write.
    """
    if place in ("", "$"):
        return ()
    if place.startswith("/"):
        if _BAD_ESCAPE.search(place):
            raise ValueError('has a "~" in a JSON Pointer: write "~0" for "~" and "~1" for "/"')
        return tuple(k.replace("~1", "/").replace("~0", "~") for k in place[1:].split("/"))
    if meant := _meant(place):
        raise ValueError(meant)
    return tuple(place.split("."))


def _meant(place: str) -> str:
    """Say what was probably meant by what is no place; "" where it is one."""
    plain = _BRACKETS.sub(r".\1", place.removeprefix("#")).removeprefix("$")
    keys = [key for key in plain.split(".") if key not in ("", "*")]
    if not keys:
        return 'reads nothing: write "" for the whole document'
    if plain.startswith("/"):
        return f'is no place: write "{plain}"'
    if place != ".".join(keys):
        return f'reads nothing: write "{".".join(keys)}", or a JSON Pointer like "/a key/0"'
    return ""


def index_of(key: str) -> int | None:
    """Read a key as the index of a list's item; None where it is none."""
    return int(key) if _INDEX.fullmatch(key) else None


def written(keys: tuple[str, ...]) -> str:
    """Write a place as a person would."""
    plain = ".".join(keys)
    try:
        if keys_of(plain) == keys:
            return plain
    except ValueError:
        pass
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
