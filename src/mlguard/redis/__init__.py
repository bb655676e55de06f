"""How do several hosts count together? In Redis, 6.2 or later."""

from mlguard.redis.store import RedisStore

__all__ = ["RedisStore"]
