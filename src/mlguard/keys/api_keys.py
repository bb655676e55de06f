"""Does this worker know the API keys that hold now?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mlguard.auth.api_keys import ApiKeys, KeyBook
from mlguard.errors import InvalidSettings
from mlguard.keys.api_key_file import ApiKeyFile
from mlguard.logs import LOGGER
from mlguard.settings import Settings


class KeyStore(Protocol):
    """Where API keys are kept: a file, or a Redis."""

    def news(self) -> KeyBook | None:
        """Read them where they have changed; an OSError or a ValueError says why not."""

    def change(self, edit: Callable[[KeyBook], KeyBook], /) -> None:
        """Replace them by what is made of them; an OSError or a ValueError says why not."""

    def close(self) -> None:
        """Let go of it."""


def key_store(settings: Settings) -> KeyStore | None:
    """Find where API keys are kept; None where nobody may call by one."""
    keys = settings.auth.api_keys if settings.auth else None
    if keys is None:
        return None
    if keys.store is None:
        return ApiKeyFile(keys.file)
    from mlguard.redis.api_keys import ApiKeyStore  # what no Redis needs is not loaded

    return ApiKeyStore(keys.store, settings.service.name)


class KeyReader:
    """Reads the API keys, and again where they have changed.

    What is known holds while they cannot be read; where nothing is known yet, keys get a 503.

    Args:
        store: Where they are kept.
        keys: Those that hold.
        on_trouble: Told whether they cannot be read.
    """

    def __init__(self, store: KeyStore, keys: ApiKeys, on_trouble: Callable[[bool], None]) -> None:
        self._store = store
        self._keys = keys
        self._on_trouble = on_trouble
        self._said = ""

    def start(self) -> None:
        """Read them, blocking for a moment; where there is no file yet, there are none.

        Raises:
            InvalidSettings: A file holds something else, or the user may not read it.
        """
        try:
            self._read()
        except FileNotFoundError as error:
            self._keys.put(KeyBook.new())
            self._say(f"{error}; `mlguard key create` makes it")
        except ConnectionError as error:
            self._say(str(error))
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"auth.api_keys: {error}") from None

    def look_after(self) -> None:
        """Read them where they have changed; blocks for a moment."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            self._say(str(error))
        else:
            self._say("")

    def close(self) -> None:
        """Read no more."""
        self._store.close()

    def _read(self) -> None:
        if (book := self._store.news()) is not None:
            self._keys.put(book)

    def _say(self, trouble: str) -> None:
        if trouble and not self._said:
            book = self._keys.book
            holds = f"the {len(book.keys)} known hold" if book else "keys get a 503 until they can"
            LOGGER.warning("the API keys cannot be read, and %s: %s", holds, trouble)
        elif self._said and not trouble:
            LOGGER.warning("the API keys can be read again")
        if bool(trouble) != bool(self._said):
            self._on_trouble(bool(trouble))
        self._said = trouble
