"""How do the hosts of a service know what one of them revoked? They meet in Redis, 6.2 or later."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from mlguard.chance import CHANCE
from mlguard.errors import MissingExtra
from mlguard.logs import Seldom
from mlguard.revocations import Key, Revocation
from mlguard.urls import shown

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

_TIMEOUT = 0.5  # seconds
_TRIES = 20
_PAUSE = 0.01  # seconds more for each try
_DAY = 86_400.0
_TOGETHER = 1000  # revocations written at once
_NEVER = "never"


class Book(Protocol):
    """What a host knows to be revoked."""

    @property
    def revision(self) -> int:
        """Changes with every entry."""

    def learn(self, revocations: Iterable[Revocation]) -> int:
        """Take in what is not past; return how many there was no room for."""

    def missing_from(self, stored: Mapping[Key, Revocation]) -> list[Revocation]:
        """Return the entries that are not stored, or stored otherwise."""


class Store:
    """A hash with all revocations of a service, and a version that differs after each change.

    The version is the time in milliseconds, or one more than the last: one that begins at 1 again
    in a Redis that lost everything could be one that was seen.

    Args:
        url: Of the Redis; never shown, as it may hold a password.
        service: The service's name.
    """

    def __init__(self, url: str, service: str) -> None:
        self._url = url
        self._hash = f"mlguard:{{{service}}}:revoked"
        self._version = f"{self._hash}:version"
        self._client: Redis | None = None
        self._log = Seldom()
        self._stored: dict[Key, Revocation] = {}
        self._seen: str | None = _NEVER
        self._revision: int | None = None

    def exchange(self, book: Book) -> None:
        """Let the book learn what other hosts wrote, and write what they did not.

        Raises:
            ConnectionError: Redis does not answer as it should; everything is compared anew next.
        """
        with self._in_plain_words():
            self._exchange(self._connected(), book)

    def publish(self, revocations: Iterable[Revocation]) -> None:
        """Write revocations; a ConnectionError where Redis does not take them."""
        with self._in_plain_words():
            self._write(self._connected(), list(revocations))

    def close(self) -> None:
        """Let the connections go."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _exchange(self, client: Redis, book: Book) -> None:
        revision, version = book.revision, _text(client.get(self._version))
        if version == self._seen and revision == self._revision:
            return
        past: list[Key] = []
        if version != self._seen:
            self._stored = self._read(client)
            book.learn(self._stored.values())
            now = time.time()
            past = [key for key, r in self._stored.items() if _is_long_past(r, now)]
            # Read before the entries were: what came since then is seen next.
            self._seen = version
        if (ours := book.missing_from(self._stored)) or past:
            self._write(client, ours, past)
        self._revision = revision

    def _read(self, client: Redis) -> dict[Key, Revocation]:
        written: dict[str, str] = client.hgetall(self._hash)  # type: ignore[assignment]
        found = (self._parse(text) for text in written.values())
        return {r.key: r for r in found if r is not None and _field(r.key) in written}

    def _write(self, client: Redis, ours: Sequence[Revocation], past: Sequence[Key] = ()) -> None:
        for start in range(0, len(ours), _TOGETHER):
            self._replace(client, ours[start : start + _TOGETHER], [])
        for start in range(0, len(past), _TOGETHER):
            self._replace(client, [], past[start : start + _TOGETHER])

    def _replace(self, client: Redis, ours: Sequence[Revocation], past: Sequence[Key]) -> None:
        from redis import WatchError

        for number in range(_TRIES):
            try:
                with client.pipeline() as pipe:
                    return self._try(pipe, {r.key: r for r in ours}, past)
            except WatchError:
                # Who wrote at once must not try again at once.
                time.sleep(CHANCE.uniform(0, number * _PAUSE))
        raise ConnectionError("too many others write at once")

    def _try(self, pipe: Pipeline, ours: dict[Key, Revocation], past: Sequence[Key]) -> None:
        pipe.watch(self._version)  # type: ignore[no-untyped-call]
        seen = _text(pipe.get(self._version))
        keys = [*ours, *past]
        texts: list[str | None] = pipe.hmget(self._hash, [_field(key) for key in keys])  # type: ignore[assignment]
        stored = {key: self._parse(text) for key, text in zip(keys, texts, strict=True) if text}
        now = time.time()
        joined = {key: r.joined(stored.get(key)) for key, r in ours.items()}
        over = [key for key in past if (r := stored.get(key)) is not None and _is_long_past(r, now)]
        version = str(max(_number(seen) + 1, int(now * 1000)))
        pipe.multi()
        if joined:
            pipe.hset(self._hash, mapping={_field(k): _write_down(r) for k, r in joined.items()})
        if over:
            pipe.hdel(self._hash, *[_field(key) for key in over])
        pipe.set(self._version, version)
        pipe.execute()
        self._stored.update(joined)
        for key in over:
            self._stored.pop(key, None)
        if seen == self._seen:
            self._seen = version

    def _parse(self, text: str) -> Revocation | None:
        try:
            return Revocation.from_dict(json.loads(text))
        except (ValueError, RecursionError):
            self._log.warning("junk", "%s holds what is no revocation", shown(self._url))
            return None

    def _connected(self) -> Redis:
        if self._client is None:
            try:
                from redis import Redis
                from redis.backoff import NoBackoff
                from redis.retry import Retry
            except ImportError as error:
                raise MissingExtra("revocations over hosts need the package redis") from error
            self._client = Redis.from_url(
                self._url,
                decode_responses=True,
                encoding_errors="replace",
                max_connections=2,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
        return self._client

    @contextlib.contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            yield
        except MissingExtra:
            raise
        except Exception as error:  # noqa: BLE001 - what it is made of is raised, without secrets
            self._seen = _NEVER
            raise ConnectionError(f"{shown(self._url)}: {self._plain(error)}") from None

    def _plain(self, error: Exception) -> str:
        """Say what went wrong, in no more than a name where the text could hold a secret."""
        import redis

        name, text = type(error).__name__, str(error)
        # An answer of Redis may quote what it was sent.
        is_ours = isinstance(error, OSError | redis.ConnectionError | redis.TimeoutError)
        return f"{name}: {text}" if is_ours and not _is_secret(text, self._url) else name


def publish(url: str, service: str, revocations: Iterable[Revocation]) -> None:
    """Write revocations to the store where the service's hosts meet.

    Raises:
        ConnectionError: It does not take them; the message holds no password.
        MissingExtra: The package that it needs is not installed.
    """
    with contextlib.closing(Store(url, service)) as store:
        store.publish(revocations)


def _is_long_past(revocation: Revocation, now: float) -> bool:
    """Say whether all hosts may forget it, one whose clock goes ahead being no judge of that."""
    return revocation.is_past(now - _DAY)


def _is_secret(text: str, url: str) -> bool:
    """Say whether a text holds a part of what stands before the host or after the path."""
    _, _, rest = url.partition("://")
    user, _, host = rest.rpartition("@")
    options = [option.rpartition("=")[2] for option in host.partition("?")[2].split("&")]
    secrets = [unquote(part) for part in (*user.split(":"), *options) if part]
    return any(secret in text for secret in secrets) or (bool(user) and user in text)


def _field(key: Key) -> str:
    return json.dumps(key)


def _write_down(revocation: Revocation) -> str:
    return json.dumps(revocation.as_dict())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(version: str | None) -> int:
    return int(version) if version and version.isdecimal() and len(version) < 20 else 0
