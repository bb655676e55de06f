"""Which API keys does a service have on all hosts? They meet in a Redis, 6.2 or later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlguard.auth.api_keys import KeyBook
from mlguard.chance import CHANCE
from mlguard.ledger import StoreUnavailable
from mlguard.redis.calls import RedisCall, Script, marked, slot_of, taken
from mlguard.redis.servers import Servers

_TIMEOUT = 0.5  # seconds
_TIMEOUT_OF_ALL = 5.0
_TRIES = 20
_PAUSE = 0.01  # seconds more for each try
_SCRIPT = Script("api_keys.lua")


class ApiKeyStore:
    """A document with all keys of a service, and a version that differs after each change.

    Args:
        url: Of the Redis; never shown, as it may hold a password.
        service: The service's name.
        timeout: Seconds that one round trip may take.

    Raises:
        ValueError: The URL has a problem.
    """

    def __init__(self, url: str, service: str, *, timeout: float = _TIMEOUT) -> None:
        self._servers = Servers(url, timeout)
        mark = marked(service)
        self._slot = slot_of(mark)
        self._keys = (f"mlguard:{{{mark}}}:api_keys", f"mlguard:{{{mark}}}:api_keys:version")
        self._seen: bytes | None = None
        self._has_read = False

    def news(self) -> KeyBook | None:
        """Read the keys where they are others than those that were read last, else return None.

        Raises:
            ConnectionError: Redis does not answer as it should.
            ValueError: It holds something else.
        """
        version = self._get(self._keys[1])
        if version == self._seen and self._has_read:
            return None
        book = self._book()
        # Read before the keys were: what came since then is seen next.
        self._seen, self._has_read = version, True
        return book

    def change(self, edit: Callable[[KeyBook], KeyBook]) -> None:
        """Replace the keys by what is made of them; one after another, whoever does.

        Raises:
            ConnectionError: Redis does not answer as it should.
            ValueError: It holds something else, or `edit` says so.
        """
        for number in range(_TRIES):
            version = (self._get(self._keys[1]) or b"").decode("utf-8", "replace")
            text = edit(self._book()).to_json()
            call = RedisCall(self._slot, (text,), _SCRIPT, self._keys, version)
            if self._ask(call)[0] != b"changed":
                return
            time.sleep(CHANCE.uniform(0, (number + 1) * _PAUSE))
        raise ConnectionError(f"{self._servers.shown}: too many others write at once")

    def close(self) -> None:
        """Let the connections go."""
        self._servers.close()

    def _book(self) -> KeyBook:
        text = self._get(self._keys[0])
        if text is None:
            return KeyBook.new()
        try:
            return KeyBook.from_json(text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._servers.shown}: its document of API keys {error}") from None

    def _get(self, key: str) -> bytes | None:
        found: bytes | None = self._ask(RedisCall(self._slot, ("GET", key)))
        return found

    def _ask(self, call: RedisCall) -> Any:
        try:
            with self._servers.in_plain_words():
                return taken(self._servers.run([call], _TIMEOUT_OF_ALL))[0].rest
        except StoreUnavailable as error:
            raise ConnectionError(str(error)) from None
