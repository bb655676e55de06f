"""Which keys may verify a token, and for which algorithm each?"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from mlguard.auth import jwk
from mlguard.auth.algorithms import ALL
from mlguard.auth.jwk import VerifyingKey
from mlguard.auth.pem import blocks, to_jwk
from mlguard.auth.strict import json_object
from mlguard.settings import HMAC

__all__ = ["KeySet", "VerifyingKey"]

MOST_KEYS = 100
LONGEST_DOCUMENT = 256 * 1024  # bytes
_DEEPEST = 16  # objects and arrays within each other

Group = TypeVar("Group", bound=Hashable)


class KeySet:
    """Public keys, or HMAC secrets, each built once and usable for its one algorithm only.

    A key serves its own `alg`, else what its type and curve say; keys that are for something
    else are passed over (RFC 7517 section 5).

    Args:
        jwks: JSON Web Keys (RFC 7517), the ones to try first in front.
        algorithms: The algorithms that keys may serve, and what an RSA key or a secret without an
            `alg` is for; empty for every algorithm, RS256 and HS256.
        passed_over: Is told of each malformed or weak key, which is then left out.

    Attributes:
        is_symmetric: Whether it holds HMAC secrets.
        ids: The identities of its keys.

    Raises:
        ValueError: Says which key cannot be used, and why; never its secret parts. A set with a
            private key, or with secrets among public keys, is refused as a whole.
    """

    def __init__(
        self,
        jwks: Iterable[Mapping[str, Any]],
        *,
        algorithms: Sequence[str] = (),
        passed_over: Callable[[str], None] | None = None,
    ) -> None:
        entries = list(islice(jwks, MOST_KEYS + 1))
        _check_algorithms(algorithms)
        _check_entries(entries)
        self._hold(_read(entries, algorithms, passed_over))

    @classmethod
    def from_document(
        cls,
        text: str | bytes,
        *,
        algorithms: Sequence[str] = (),
        passed_over: Callable[[str], None] | None = None,
    ) -> KeySet:
        """Read a JSON Web Key Set document: {"keys": [...]}."""
        jwks = json_object(_bounded(text), _DEEPEST).get("keys")
        if not isinstance(jwks, list):
            raise ValueError('must be a JSON Web Key Set: {"keys": [{...}, ...]}')  # noqa: TRY004
        return cls(jwks, algorithms=algorithms, passed_over=passed_over)._usable(algorithms)

    @classmethod
    def from_pem(
        cls,
        pem: str | bytes,
        *,
        algorithms: Sequence[str] = (),
        passed_over: Callable[[str], None] | None = None,
    ) -> KeySet:
        """Read PEM: one or several public keys or certificates, which name no kid and no alg.

        A certificate is a wrapping of its key: its dates, names and signature are not looked at.
        """
        jwks = []
        for position, (label, block) in enumerate(blocks(_bounded(pem))):
            try:
                jwks.append(to_jwk(label, block))
            except ValueError as error:
                _pass_over(f"key {position} {error}", passed_over)
                jwks.append({})
        return cls(jwks, algorithms=algorithms, passed_over=passed_over)._usable(algorithms)

    @classmethod
    def from_secrets(cls, secrets: Sequence[bytes], *, algorithm: str = "HS256") -> KeySet:
        """Hold HMAC secrets, oldest to newest, each at least as long as the algorithm's hash."""
        if not secrets or len(secrets) > MOST_KEYS:
            raise ValueError(f"must be 1 to {MOST_KEYS} secrets")
        found = []
        for position, secret in enumerate(secrets):
            try:
                found.append(jwk.from_secret(secret, algorithm))
            except ValueError as error:
                raise ValueError(f"secret {position} {error}") from None
        keys = cls(())
        keys._hold(found[::-1])
        return keys

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey]:
        """List the keys that may verify a token with this header, likeliest first.

        These are the keys of that name, or all where the token names none; and those without one.
        """
        if kid is None:
            return self._all.get(algorithm, ())
        return self._named.get((algorithm, kid), ()) + self._nameless.get(algorithm, ())

    def _hold(self, keys: Sequence[VerifyingKey]) -> None:
        self._keys = tuple(keys)
        self.ids = frozenset(k.id for k in keys)
        self.is_symmetric = any(k.algorithm in HMAC for k in keys)
        self._all = _grouped((k.algorithm, k) for k in keys)
        self._nameless = _grouped((k.algorithm, k) for k in keys if k.kid is None)
        self._named = _grouped(((k.algorithm, k.kid), k) for k in keys if k.kid is not None)

    def _usable(self, algorithms: Sequence[str]) -> KeySet:
        if not self._keys:
            raise ValueError(f"has no key that verifies {', '.join(algorithms) or 'a token'}")
        return self


def _grouped(
    pairs: Iterable[tuple[Group, VerifyingKey]],
) -> dict[Group, tuple[VerifyingKey, ...]]:
    groups: dict[Group, tuple[VerifyingKey, ...]] = {}
    for group, key in pairs:
        groups[group] = (*groups.get(group, ()), key)
    return groups


def _read(
    entries: Sequence[Mapping[str, Any]],
    algorithms: Sequence[str],
    passed_over: Callable[[str], None] | None,
) -> list[VerifyingKey]:
    found = []
    for position, entry in enumerate(entries):
        try:
            key = jwk.read(entry, algorithms)
        except ValueError as error:
            _pass_over(f"{_name(position, entry)} {error}", passed_over)
        else:
            found += [key] if key else []
    return found


def _pass_over(problem: str, passed_over: Callable[[str], None] | None) -> None:
    if passed_over is None:
        raise ValueError(problem)
    passed_over(problem)


def _check_algorithms(algorithms: Sequence[str]) -> None:
    for algorithm in algorithms:
        if algorithm not in ALL:
            raise ValueError(
                f"{algorithm!r} is no algorithm: list some of {', '.join(sorted(ALL))}"
            )


def _check_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what no key set may hold, in keys that would be passed over too."""
    if len(entries) > MOST_KEYS:
        raise ValueError(f"has more than {MOST_KEYS} keys")
    for position, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(f"key {position} is no JSON object")  # noqa: TRY004
        if jwk.is_private(entry):
            name = _name(position, entry)
            raise ValueError(f"{name} is a private key: a verifier needs the public one only")
    if any(map(jwk.is_secret, entries)) and any(map(jwk.is_public, entries)):
        raise ValueError("mixes secrets with public keys: whoever reads it can sign")


def _name(position: int, entry: Mapping[str, Any]) -> str:
    kid = entry.get("kid")
    return f"key {kid[:64]!r}" if isinstance(kid, str) else f"key {position}"


def _bounded(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(raw) > LONGEST_DOCUMENT:
        raise ValueError(f"is longer than {LONGEST_DOCUMENT} bytes")
    return raw
