"""Where are the API keys that the operator means, and which are they?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing

from mlguard.auth.api_keys import ApiKey, KeyBook, id_of
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.keys import KeyStore, key_store
from mlguard.settings import Settings, load

_LONGEST_ID = 16  # characters; what is longer may be a key, which is not shown


def settings_of(options: argparse.Namespace) -> Settings:
    """Load the settings; an InvalidSettings where nobody may call by a key."""
    settings = load(options.settings, named=())  # no secret of the service is needed
    if settings.auth is None or settings.auth.api_keys is None:
        raise InvalidSettings(
            "API keys need the table [auth.api_keys]; it may be empty", source=settings.source
        )
    return settings


def change(settings: Settings, edit: Callable[[KeyBook], KeyBook]) -> None:
    """Change the keys; services that run know within a second.

    Raises:
        MLGuardError: It cannot be done.
    """
    try:
        with closing(_store(settings)) as store:
            store.change(edit)
    except (OSError, ValueError) as error:
        raise MLGuardError(str(error)) from error


def book_of(settings: Settings) -> KeyBook:
    """Read the keys; there may be none yet.

    Raises:
        MLGuardError: They cannot be read.
    """
    try:
        with closing(_store(settings)) as store:
            return store.news() or KeyBook.new()
    except FileNotFoundError:
        return KeyBook.new()
    except (OSError, ValueError) as error:
        raise MLGuardError(str(error)) from error


def _store(settings: Settings) -> KeyStore:
    store = key_store(settings)
    if store is None:
        raise AssertionError("the settings have API keys")
    return store


def sent(argument: str) -> str:
    """Take an argument as it stands, or from standard input for `-`."""
    return sys.stdin.read().strip() if argument == "-" else argument.strip()


def meant(book: KeyBook, text: str) -> ApiKey:
    """Find a key by its id, or by itself; a ValueError where there is none."""
    hashed = book.hash(text)
    named = id_of(text) or text
    for key in book.keys:
        if key.hash == hashed or key.id == named:
            return key
    what = "such key" if len(text) > _LONGEST_ID else f"key with the id {text!r}"
    raise ValueError(f"there is no {what}; `mlguard key list` shows which there are")
