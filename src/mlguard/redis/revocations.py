"""How do the hosts of a service know what one of them revoked? They meet in Redis, 6.2 or later."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from mlguard.chance import CHANCE
from mlguard.ledger import StoreUnavailable
from mlguard.logs import RateLimitedLog
from mlguard.redis.calls import RedisCall, Reply, Script, marked, slot_of, taken
from mlguard.redis.servers import Servers
from mlguard.revocations import Key, Revocation

_TIMEOUT = 0.5  # seconds
_TIMEOUT_OF_ALL = 5.0
_TRIES = 20
_PAUSE = 0.01  # seconds more for each try
_DAY = 86_400.0
_TOGETHER = 1000  # revocations written at once
_NEVER = "never"
_REVOKE = Script("revoke.lua")


class Book(Protocol):
    """What is revoked, as one host knows it.

    Attributes:
        revision: Changes with every entry.
    """

    @property
    def revision(self) -> int: ...  # noqa: D102 - see above

    def learn(self, revocations: Iterable[Revocation], /) -> int:
        """Take in what is not past; return how many there was no room for."""

    def missing_from(self, stored: Mapping[Key, Revocation], /) -> list[Revocation]:
        """Return the entries that are not stored, or stored otherwise."""


class RevocationStore:
    """A hash with all revocations of a service, and a version that differs after each change.

    Args:
        url: Of the Redis; never shown, as it may hold a password.
        service: The service's name.
        timeout: Seconds that one round trip may take.

    Raises:
        ValueError: The URL has a problem.
    """

    def __init__(self, url: str, service: str, *, timeout: float = _TIMEOUT) -> None:
        self._servers = Servers(url, timeout)
        self._keys = (f"mlguard:{{{service}}}:revoked", f"mlguard:{{{service}}}:revoked:version")
        self._slot = slot_of(marked(service))
        self._log = RateLimitedLog()
        self._stored: dict[Key, Revocation] = {}
        self._seen = _NEVER
        self._revision: int | None = None

    def complaint(self) -> str | None:
        """Say what makes the store unfit; a ConnectionError where it does not answer."""
        with self._in_plain_words():
            return self._servers.complaint(keeps=True)

    def exchange(self, book: Book) -> None:
        """Let the book learn what other hosts wrote, and write what they did not.

        Raises:
            ConnectionError: Redis does not answer as it should; everything is compared anew next.
        """
        with self._in_plain_words():
            self._exchange(book)

    def read(self) -> list[Revocation]:
        """Return all that is revoked; a ConnectionError where Redis does not answer."""
        with self._in_plain_words():
            return list(self._read().values())

    def publish(self, revocations: Iterable[Revocation]) -> None:
        """Write revocations; a ConnectionError where Redis does not take them."""
        with self._in_plain_words():
            self._write(list(revocations))

    def close(self) -> None:
        """Let the connections go."""
        self._servers.close()

    def _exchange(self, book: Book) -> None:
        revision = book.revision
        version = _text(self._ask(RedisCall(self._slot, ("GET", self._keys[1]))).rest)
        if version == self._seen and revision == self._revision:
            return
        past: list[Key] = []
        if version != self._seen:
            self._stored = self._read()
            book.learn(self._stored.values())
            now = time.time()
            past = [key for key, r in self._stored.items() if _is_long_past(r, now)]
            # Read before the entries were: what came since then is seen next.
            self._seen = version
        if (ours := book.missing_from(self._stored)) or past:
            self._write(ours, past)
        self._revision = revision

    def _read(self) -> dict[Key, Revocation]:
        look = RedisCall(self._slot, ("HGETALL", self._keys[0]))
        found = taken(self._servers.run([look], _TIMEOUT_OF_ALL))[0].rest
        written = dict(zip(map(_text, found[::2]), found[1::2], strict=True))
        parsed = map(self._parse, written.values())
        return {r.key: r for r in parsed if r is not None and _field(r.key) in written}

    def _write(self, ours: Sequence[Revocation], past: Sequence[Key] = ()) -> None:
        for start in range(0, len(ours), _TOGETHER):
            self._replace({r.key: r for r in ours[start : start + _TOGETHER]}, [])
        for start in range(0, len(past), _TOGETHER):
            self._replace({}, past[start : start + _TOGETHER])

    def _replace(self, ours: dict[Key, Revocation], past: Sequence[Key]) -> None:
        joined, over, version = ours, list(past), _NEVER
        for number in range(_TRIES):
            reply = self._ask(self._writing(joined, over, version))
            if len(reply.rest) == 1:
                self._wrote(joined, over, version, _text(reply.rest[0]))
                return
            version = _text(reply.rest[0])
            stored = dict(zip((*joined, *over), map(self._parse, reply.rest[1]), strict=True))
            now = time.time()
            joined = {key: r.joined(stored[key]) for key, r in ours.items()}
            over = [k for k in past if (r := stored.get(k)) is not None and _is_long_past(r, now)]
            if not joined and not over:
                return
            if number:  # who wrote at once must not try again at once
                time.sleep(CHANCE.uniform(0, number * _PAUSE))
        raise StoreUnavailable("too many others write at once")

    def _writing(self, joined: dict[Key, Revocation], over: list[Key], version: str) -> RedisCall:
        fields = [_field(key) for key in (*joined, *over)]
        texts = [json.dumps(r.as_dict()) for r in joined.values()]
        return RedisCall(self._slot, (len(texts), *fields, *texts), _REVOKE, self._keys, version)

    def _wrote(
        self, joined: dict[Key, Revocation], over: list[Key], before: str, version: str
    ) -> None:
        self._stored.update(joined)
        for key in over:
            self._stored.pop(key, None)
        if before == self._seen:
            self._seen = version

    def _ask(self, call: RedisCall) -> Reply:
        return taken(self._servers.run([call]))[0]

    def _parse(self, text: bytes | None) -> Revocation | None:
        try:
            return None if text is None else Revocation.from_dict(json.loads(text))
        except (ValueError, RecursionError):
            self._log.warning("junk", "%s holds what is no revocation", self._servers.shown)
            return None

    @contextlib.contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            with self._servers.in_plain_words():
                yield
        except StoreUnavailable as error:
            self._seen = _NEVER
            raise ConnectionError(str(error)) from None


def publish(url: str, service: str, revocations: Iterable[Revocation]) -> None:
    """Write revocations to the store where the service's hosts meet.

    Raises:
        ConnectionError: It does not take them; the message holds no password.
    """
    with contextlib.closing(RevocationStore(url, service)) as store:
        store.publish(revocations)


def _is_long_past(revocation: Revocation, now: float) -> bool:
    """Say whether all hosts may forget it, one whose clock goes ahead being no judge of that."""
    return revocation.is_past(now - _DAY)


def _field(key: Key) -> str:
    return json.dumps(key)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")
