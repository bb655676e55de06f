"""Where do calls of all hosts wait for their labels? In a Redis, 6.2 or later.

Of a service, in one slot: a hash of what models said and one of the truths, both by the call's
name; the names by the calls' times; and of each model, the names of what is labelled by the times
of their labels. Whatever is sent twice has the effect of once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlguard.call_ids import time_of
from mlguard.performance import KeptCall
from mlguard.performance.labels import Found, Labelled
from mlguard.redis.calls import RedisCall, marked, slot_of, taken
from mlguard.redis.resp import Command
from mlguard.redis.servers import Servers

_TIMEOUT = 0.5  # seconds
_TOGETHER = 500
_STEPS = 20  # of which each forgets some, at a time


class RedisCalls:
    """The calls of a service on all hosts; all raise StoreUnavailable where Redis fails.

    Args:
        url: Of the Redis; never shown, as it may hold a password.
        prefix: What all keys begin with.
        service: The service's name.
        most: Calls that are kept at most.
        retention: Seconds for which they are kept.
        timeout: Seconds that one round trip may take.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        service: str,
        *,
        most: int,
        retention: float,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._servers = Servers(url, timeout)
        self._most = most
        self._retention = retention
        mark = marked(service)
        self._slot = slot_of(mark)
        self._begin = f"{prefix}:{{{mark}}}:feedback:"
        self._calls, self._truths, self._times = map(self._key, ("calls", "truths", "times"))

    def keep(self, calls: Sequence[KeptCall]) -> None:
        """Write calls down."""
        for start in range(0, len(calls), _TOGETHER):
            some = calls[start : start + _TOGETHER]
            written: list[Any] = []
            times: list[Any] = []
            for call in some:
                told = [call.model, call.version, call.said]
                written += [call.id, json.dumps(told, separators=(",", ":"))]
                times += [f"{time_of(call.id) or 0:.3f}", call.id]
            self._run(
                ("HSET", self._calls, *written),
                ("ZADD", self._times, *times),
                *(("EXPIRE", key, int(2 * self._retention)) for key in (self._calls, self._times)),
            )

    def find(self, ids: Sequence[str]) -> dict[str, Found]:
        """Return what is kept of calls; nothing of those that are not."""
        if not ids:
            return {}
        told, truths = self._run(("HMGET", self._calls, *ids), ("HMGET", self._truths, *ids))
        return {
            call_id: Found(KeptCall(call_id, *json.loads(text)), truth is not None)
            for call_id, text, truth in zip(ids, told, truths, strict=True)
            if text is not None
        }

    def label(self, call: KeptCall, truths: Sequence[object], now: float) -> bool:
        """Write the truths of a call down; False where others were first."""
        labelled = self._labelled(call.model)
        is_new, *_ = self._run(
            ("HSETNX", self._truths, call.id, json.dumps(truths)),
            ("ZADD", labelled, "NX", f"{now:.3f}", call.id),
            *(("EXPIRE", key, int(2 * self._retention)) for key in (self._truths, labelled)),
        )
        return bool(is_new)

    def recent(self, model: str, most: int) -> list[Labelled]:
        """Return the calls of a model that were labelled last, the newest first."""
        (ids,) = self._run(("ZREVRANGE", self._labelled(model), 0, most - 1))
        if not ids:
            return []
        told, truths = self._run(("HMGET", self._calls, *ids), ("HMGET", self._truths, *ids))
        pairs = [(t, v) for t, v in zip(told, truths, strict=True) if None not in (t, v)]
        read = [(json.loads(told), json.loads(truth)) for told, truth in pairs]
        return [Labelled(version, said, truth) for (_, version, said), truth in read]

    def forget(self, now: float) -> bool:
        """Forget calls that are too old, then the oldest where there are too many, step by step.

        Returns:
            False where that would take long, and is to be gone on with.
        """
        for _ in range(_STEPS):
            ids = self._forgettable(now)
            if not ids:
                return True
            self._drop(ids)
        return False

    def _forgettable(self, now: float) -> list[bytes]:
        """Name some calls that are too old, else the oldest of too many."""
        oldest = ("ZRANGE", self._times, "-inf", f"({now - self._retention:.3f}", "BYSCORE")
        found, count = self._run((*oldest, "LIMIT", 0, _TOGETHER), ("ZCARD", self._times))
        surplus = min(count - self._most, _TOGETHER)
        if not found and surplus > 0:
            (found,) = self._run(("ZRANGE", self._times, 0, surplus - 1))
        return list(found)

    def close(self) -> None:
        """Let the connections go."""
        self._servers.close()

    def _drop(self, ids: Sequence[bytes]) -> None:
        (told,) = self._run(("HMGET", self._calls, *ids))
        models = {json.loads(text)[0] for text in told if text is not None}
        labelled: list[Command] = [("ZREM", self._labelled(model), *ids) for model in models]
        self._run(
            *labelled,
            ("HDEL", self._truths, *ids),
            ("HDEL", self._calls, *ids),
            ("ZREM", self._times, *ids),
        )

    def _labelled(self, model: str) -> str:
        return self._key(f"labelled:{model}")

    def _key(self, name: str) -> str:
        return self._begin + name

    def _run(self, *commands: Command) -> list[Any]:
        with self._servers.in_plain_words():
            calls = [RedisCall(self._slot, command) for command in commands]
            return [reply.rest for reply in taken(self._servers.run(calls))]
