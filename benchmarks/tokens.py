"""What does it cost to know who sent a token, and what do others charge?

All but python-jose, which is here as it is documented, check the same: the Authorization header,
the signature, typ, exp, iss, aud, sub, iat and nbf with a leeway, and that a scope is granted.
Keys, and all else that can be, are built once; python-jose's documented call builds its key anew.
A token that it has seen mlguard knows by a digest; the others remember none, so that to them known
and unknown tokens are the same. They are given one key each, not a set to choose it from.
What a worker does for an unknown token beyond that, such as the pseudonym, is in mlguard's figure.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jose.jwt
import joserfc.errors
import joserfc.jwk
import joserfc.jws
import joserfc.jwt
import jwt as pyjwt
from jose.exceptions import JOSEError

from benchmarks.service import AUDIENCE, ISSUER
from benchmarks.turns import Turn, Unfit, say, take_turns
from mlguard.auth import Authenticator, InvalidToken, Keyring, KeySet, verify_jws
from mlguard.auth.bearer import Credential, Verification
from mlguard.messages import Deny, Principal
from mlguard.settings import Auth

KEYS: Mapping[str, Callable[[Any], Any]] = {
    "HS256": lambda told: joserfc.jwk.OctKey.generate_key(256, told),
    "RS256": lambda told: joserfc.jwk.RSAKey.generate_key(2048, told),
    "ES256": lambda told: joserfc.jwk.ECKey.generate_key("P-256", told),
}
TOKENS = 100  # in one contestant's turn
SECONDS = 4  # for one algorithm
LEEWAY = 10  # seconds
SUBJECT, SCOPE = "alice", "predict"
TYPES = ("at+jwt", "jwt")
REQUIRED = ("exp", "iss", "aud", "sub")

Check = Callable[[str], str | None]
"""Says who sent an Authorization header; None where it is refused."""

Open = Callable[[str], bytes]
"""Verifies a token's signature, and nothing else, and returns its payload."""


class Signed:
    """A key of one algorithm, and tokens that it signed.

    Attributes:
        algorithm: The JWA name.
        private: Signs.
        public: The same in JSON, as an issuer publishes it.
        text: The same as python-jose's documentation has it: PEM, or the secret.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.private = KEYS[algorithm]({"kid": "first", "use": "sig", "alg": algorithm})
        self.public: dict[str, Any] = self.private.as_dict(private=False)
        is_secret = algorithm == "HS256"
        self.text = self.private.raw_value if is_secret else self.private.as_pem(private=False)

    def token(self, typ: str = "at+jwt", **others: Any) -> str:
        """Sign a good token, but for other claims; None leaves one out."""
        now = int(time.time())
        usual: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "scope": f"openid {SCOPE}",
        }
        usual |= {"iat": now, "nbf": now, "exp": now + 3600, "jti": os.urandom(8).hex(), **others}
        claims = {name: value for name, value in usual.items() if value is not None}
        header = {"alg": self.algorithm, "typ": typ, "kid": self.public["kid"]}
        return joserfc.jwt.encode(header, claims, self.private, algorithms=[self.algorithm])

    def flawed(self) -> dict[str, str]:
        """Write Authorization headers, good but for one flaw each."""
        now = int(time.time())
        tokens = {
            "a bad signature": resigned(self.token()),
            "an exp that is past": self.token(exp=now - 60),
            "no exp": self.token(exp=None),
            "another aud": self.token(aud="another"),
            "no aud": self.token(aud=None),
            "another iss": self.token(iss="https://login.example.net/"),
            "no iss": self.token(iss=None),
            "no sub": self.token(sub=None),
            "an nbf in the future": self.token(nbf=now + 60),
            "an iat in the future": self.token(iat=now + 60),
            "another typ": self.token("logout+jwt"),
            "another scope": self.token(scope="openid"),
            "no scope": self.token(scope=None),
        }
        headers = {flaw: f"Bearer {token}" for flaw, token in tokens.items()}
        return headers | {"another scheme": f"Basic {self.token()}"}


def resigned(token: str) -> str:
    """Change one bit in the middle of the signature."""
    signed, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{signed}.{signature[:middle]}{other}{signature[middle + 1 :]}"


@dataclass(frozen=True)
class Contestant:
    """One way to authenticate.

    Attributes:
        name: In the table.
        fresh: Returns a check that remembers no token yet.
        open: Verifies signatures alone, None where that is not measured.
        remembers: Whether its check remembers tokens.
        passes: The flaws that its documented call lets pass.
    """

    name: str
    fresh: Callable[[], Check]
    open: Open | None = None
    remembers: bool = False
    passes: frozenset[str] = frozenset()


def credential(authorization: str) -> str | None:
    """Take the token out of the Authorization header, as it is done by hand."""
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" else None


def granted(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str | None:
    """Check by hand what the libraries leave to their users: the type, and the scope."""
    if str(header.get("typ")).lower() not in TYPES:
        return None
    scope = claims.get("scope")
    return claims["sub"] if isinstance(scope, str) and SCOPE in scope.split() else None


def mlguard(signed: Signed) -> Contestant:
    """The kit, as its guard asks it."""
    auth = Auth.model_validate(
        {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "algorithms": [signed.algorithm],
            "leeway": LEEWAY,
            "scopes": [SCOPE],
        }
        | ({"secret_env": "BENCHMARK_SECRET"} if signed.algorithm == "HS256" else {})
    )
    keys = KeySet([signed.public], algorithms=auth.issuers[0].algorithms)
    ring, needed, secret = Keyring(keys), frozenset(auth.scopes), os.urandom(32)

    def pseudonym(key: tuple[str, str, str]) -> str:
        return hmac.new(secret, json.dumps(key).encode(), hashlib.sha256).hexdigest()[:16]

    def fresh() -> Check:
        authenticator = Authenticator(auth, {ISSUER: ring}, pseudonym)

        def check(authorization: str) -> str | None:
            now = time.time()
            who = authenticator.recall((authorization,), now)
            if isinstance(who, Credential):
                who = ended(authenticator.verify(who, now))
            return who.subject if isinstance(who, Principal) and needed <= who.scopes else None

        return check

    return Contestant("mlguard", fresh, lambda token: verify_jws(token, keys), remembers=True)


def ended(steps: Verification) -> Principal | Deny:
    """Run a verification that has nothing to wait for."""
    try:
        next(steps)
    except StopIteration as decided:
        verdict: Principal | Deny = decided.value
        return verdict
    raise Unfit("mlguard waits for keys that it has")


def by_pyjwt(signed: Signed) -> Contestant:
    """PyJWT, with the header from the same decoding: a second one would cost it more."""
    key, algorithms = pyjwt.PyJWK(signed.public), [signed.algorithm]
    options: Any = {"require": list(REQUIRED)}
    signatures = pyjwt.PyJWS()

    def check(authorization: str) -> str | None:
        token = credential(authorization)
        if token is None:
            return None
        try:
            decoded = pyjwt.decode_complete(
                token,
                key,
                algorithms=algorithms,
                options=options,
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY,
            )
        except pyjwt.PyJWTError:
            return None
        return granted(decoded["header"], decoded["payload"])

    def opened(token: str) -> bytes:
        payload: bytes = signatures.decode(token, key, algorithms=algorithms)
        return payload

    return Contestant("PyJWT", lambda: check, opened)


def by_joserfc(signed: Signed) -> Contestant:
    """Joserfc, with both registries built once."""
    key = joserfc.jwk.import_key(signed.public)
    signatures = joserfc.jws.JWSRegistry(algorithms=[signed.algorithm])
    claims = joserfc.jwt.JWTClaimsRegistry(
        leeway=LEEWAY,
        exp={"essential": True},
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        sub={"essential": True},
    )

    def check(authorization: str) -> str | None:
        text = credential(authorization)
        if text is None:
            return None
        try:
            token = joserfc.jwt.decode(text, key, registry=signatures)
            claims.validate(token.claims)
        except joserfc.errors.JoseError:
            return None
        return granted(token.header, token.claims)

    def opened(token: str) -> bytes:
        return joserfc.jws.deserialize_compact(token, key, registry=signatures).payload or b""

    return Contestant("joserfc", lambda: check, opened)


def by_python_jose(signed: Signed) -> Contestant:
    """python-jose as its documentation has it, and nothing by hand."""

    def check(authorization: str) -> str | None:
        token = credential(authorization)
        if token is None:
            return None
        try:
            claims = jose.jwt.decode(
                token, signed.text, algorithms=signed.algorithm, audience=AUDIENCE, issuer=ISSUER
            )
        except JOSEError:
            return None
        # Not every token that it lets pass has a subject.
        return claims.get("sub") or "nobody"

    passes = frozenset(
        (
            "no exp",
            "no aud",
            "no sub",
            "an iat in the future",
            "another typ",
            "another scope",
            "no scope",
        )
    )
    return Contestant("python-jose alone", lambda: check, passes=passes)


def prove(contestant: Contestant, signed: Signed, flawed: Mapping[str, str]) -> None:
    """Make sure that a contestant accepts a good token and refuses every other, twice each.

    Raises:
        Unfit: Names what it does not do.
    """
    name = f"{contestant.name}, {signed.algorithm},"
    check = contestant.fresh()
    good = f"Bearer {signed.token()}"
    for _ in range(2):  # the second time, who remembers does
        if check(good) != SUBJECT:
            raise Unfit(f"{name} refuses a good token")
        passed = {flaw for flaw, header in flawed.items() if check(header) is not None}
        if passed != contestant.passes:
            unlike = ", ".join(sorted(passed ^ contestant.passes))
            raise Unfit(f"{name} does not do as it is said to with tokens that have {unlike}")
        if check(good) != SUBJECT:
            raise Unfit(f"{name} refuses a good token, having refused others")


def prove_signature(contestant: Contestant, opened: Open, signed: Signed) -> None:
    """Make sure that a contestant reads the payload of a good token, and of no other.

    Raises:
        Unfit: Names what it does not do.
    """
    token = signed.token()
    if json.loads(opened(token))["sub"] != SUBJECT:
        raise Unfit(f"{contestant.name}, {signed.algorithm}, does not return the payload")
    try:
        opened(resigned(token))
    except (InvalidToken, pyjwt.PyJWTError, joserfc.errors.JoseError):
        return
    raise Unfit(f"{contestant.name}, {signed.algorithm}, takes a bad signature")


def turn_of(fresh: Callable[[], Callable[[str], object]], texts: Sequence[str]) -> Turn:
    """Return what measures CPU seconds of this thread a token, each of these once.

    Args:
        fresh: Returns what takes them, outside of the measuring.
        texts: The tokens, or the headers with them.
    """

    def turn() -> float:
        take = fresh()
        began = time.thread_time()
        for text in texts:
            take(text)
        return (time.thread_time() - began) / len(texts)

    return turn


def turns_of(contestant: Contestant, tokens: Sequence[str]) -> dict[str, Turn]:
    """List what is measured of a contestant, each by "name: what"."""
    headers = [f"Bearer {token}" for token in tokens]
    turns = {f"{contestant.name}: unknown": turn_of(contestant.fresh, headers)}
    check = contestant.fresh()
    if None in map(check, headers):
        raise Unfit(f"{contestant.name} refuses a token that it is measured with")
    if contestant.remembers:  # by now all of them
        turns[f"{contestant.name}: known"] = turn_of(lambda: check, headers)
    opened = contestant.open
    if opened is not None:
        turns[f"{contestant.name}: signature"] = turn_of(lambda: opened, tokens)
    return turns


CONTESTANTS = (mlguard, by_pyjwt, by_joserfc, by_python_jose)


def compete(algorithm: str) -> tuple[list[Contestant], dict[str, float], int]:
    """Prove and measure all contestants with one algorithm; microseconds a token."""
    signed = Signed(algorithm)
    contestants = [make(signed) for make in CONTESTANTS]
    flawed = signed.flawed()
    for contestant in contestants:
        prove(contestant, signed, flawed)
        if contestant.open is not None:
            prove_signature(contestant, contestant.open, signed)
    tokens = [signed.token(sub=f"caller-{number}") for number in range(TOKENS)]
    turns: dict[str, Turn] = {}
    for contestant in contestants:
        turns |= turns_of(contestant, tokens)

    def progress(number: int) -> None:
        if number % 10 == 0:
            say(f"  {algorithm}: round {number + 1}")

    say(f"measuring tokens with {algorithm} for {SECONDS} seconds")
    seconds, rounds = take_turns(turns, seconds=SECONDS, progress=progress)
    micros = {name: value * 1e6 for name, value in seconds.items()}
    for contestant in contestants:
        micros.setdefault(f"{contestant.name}: known", micros[f"{contestant.name}: unknown"])
    return contestants, micros, rounds


def table(
    title: str, names: Sequence[str], whats: Sequence[str], measured: Mapping[str, dict[str, float]]
) -> str:
    """Write microseconds by contestant and column, and mlguard's as a multiple of each other's."""
    columns = [(algorithm, what) for algorithm in measured for what in whats]
    heads = [f"{algorithm} {what}" if len(whats) > 1 else algorithm for algorithm, what in columns]

    def line(label: str, figures: Sequence[str]) -> str:
        cells = zip(heads, figures, strict=True)
        return f"{label:28}" + "".join(f"{figure:>{len(head) + 2}}" for head, figure in cells)

    def micros(name: str) -> list[float]:
        return [measured[algorithm][f"{name}: {what}"] for algorithm, what in columns]

    lines = [title, "", line("µs/token", heads)]
    lines += [line(name, [f"{value:.1f}" for value in micros(name)]) for name in names]
    lines.append("")
    for name in names[1:]:
        ratios = zip(micros(names[0]), micros(name), strict=True)
        figures = [f"{ours / other:.2f}" for ours, other in ratios]
        lines.append(line(f"{names[0]} ÷ {name}", figures))
    return "\n".join(lines)


def main() -> None:
    """Measure each algorithm, and print a table of authentication and one of signatures."""
    # What the proofs make mlguard warn of is meant to happen.
    logging.getLogger("mlguard").addHandler(logging.NullHandler())
    measured: dict[str, dict[str, float]] = {}
    fewest = 0
    contestants: list[Contestant] = []
    for algorithm in KEYS:
        contestants, measured[algorithm], rounds = compete(algorithm)
        fewest = min(fewest or rounds, rounds)
    versions = ", ".join(f"{name} {version(name)}" for name in ("PyJWT", "joserfc", "python-jose"))
    counted = f"median of {fewest} rounds or more of {TOKENS}"
    title = f"\nCPU time to authenticate one token, {counted} ({versions})"
    print(table(title, [c.name for c in contestants], ("known", "unknown"), measured))
    print("\nOnly mlguard remembers tokens: to the others, known ones are as unknown ones.")
    for contestant in contestants:
        if contestant.passes:
            print(f"{contestant.name} lets pass: {', '.join(sorted(contestant.passes))}.")
    names = [contestant.name for contestant in contestants if contestant.open is not None]
    title = f"\nCPU time to verify the signature alone, {counted}"
    print(table(title, names, ("signature",), measured), flush=True)
