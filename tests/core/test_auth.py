"""Who is calling? By class of attack."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard import refusals
from mlguard.app.service import Service
from mlguard.auth import Authenticator, Keyring, KeySet
from mlguard.auth.bearer import Credential, bearer_token
from mlguard.auth.minting import make_key, mint, signer
from mlguard.auth.token_cache import REMEMBERED
from mlguard.messages import Deny, Principal
from mlguard.revocations import Revocation
from mlguard.settings import Auth, Settings

NOW = 1_800_000_000.0
SECRET = b"a secret of the tests that is long enough"
OTHER = b"another secret, of about the same length"
ISSUER = "https://login.example.com/"
AUDIENCE = "iris-api"
LEEWAY = 10
UNTRUSTED = (401, "token_untrusted")
MALFORMED = (401, "token_malformed")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    payload: bytes,
    header: bytes = b'{"alg":"HS256","typ":"JWT"}',
    *,
    secret: bytes = SECRET,
    digest: str = "sha256",
) -> str:
    """Sign any bytes: what no library would write."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), digest).digest())}"


def claims(**others: Any) -> dict[str, Any]:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 60} | others
    return {name: value for name, value in usual.items() if value is not None}


def token(header: dict[str, Any] | None = None, **others: Any) -> str:
    told = {"alg": "HS256", "typ": "JWT"} | (header or {})
    head = json.dumps({n: v for n, v in told.items() if v != "nothing"}).encode()
    return signed(json.dumps(claims(**others)).encode(), head)


def pickled(subject: Authenticator) -> bytes:
    """Write down all that it remembers."""
    return repr(vars(subject._cache)).encode()


def pseudonym(key: tuple[str, str, str]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


TABLE: dict[str, Any] = {
    "issuer": ISSUER, "audience": AUDIENCE, "secret_env": "SECRET", "algorithms": ["HS256"],
}  # fmt: skip


def authenticator(rings: Mapping[str, Keyring] | None = None, **others: Any) -> Authenticator:
    settings = Auth.model_validate(TABLE | others)
    if rings is None:
        keys = KeySet.from_secrets([SECRET])
        rings = {issuer.issuer: Keyring(keys) for issuer in settings.issuers}
    return Authenticator(settings, rings, pseudonym)


def authenticate(
    subject: Authenticator, authorization: tuple[str, ...], now: float
) -> Principal | Deny:
    """Decide as the guard does; nothing is waited for."""
    found = subject.recall(authorization, now)
    if not isinstance(found, Credential):
        return found
    steps = subject.verify(found, now)
    try:
        while True:
            next(steps)
    except StopIteration as decided:
        verdict: Principal | Deny = decided.value
        return verdict


def ask(text: str, now: float = NOW, **others: Any) -> Principal | Deny:
    return authenticate(authenticator(**others), (f"Bearer {text}",), now)


def outcome(text: str, now: float = NOW, **others: Any) -> tuple[int, str]:
    """Return what the client is told."""
    verdict = ask(text, now, **others)
    return (verdict.status, verdict.code) if isinstance(verdict, Deny) else (200, "ok")


def recalled(subject: Authenticator, authorization: tuple[str, ...]) -> Principal | Deny | None:
    """Tell what is remembered."""
    found = subject.recall(authorization, NOW)
    return None if isinstance(found, Credential) else found


class TestCredentials:
    """RFC 6750 section 2.1: the Authorization header, and no other way of sending a token."""

    @pytest.mark.parametrize(
        ("authorization", "code"),
        [
            pytest.param((), "token_missing", id="no header"),
            pytest.param(("",), "token_missing", id="empty"),
            pytest.param(("Basic YWxpY2U6eA==",), "token_missing", id="another scheme"),
            pytest.param(("Bearerx y",), "token_missing", id="longer scheme"),
            pytest.param(("Bearer\ttoken",), "token_missing", id="tab"),
            pytest.param(("Bearer",), "token_malformed", id="scheme alone"),
            pytest.param(("Bearer   ",), "token_malformed", id="blank token"),
            pytest.param(("Bearer a b",), "token_malformed", id="two words"),
            pytest.param(("Bearer a, Bearer b",), "token_malformed", id="joined headers"),
            pytest.param(("Bearer a\r\nX: y",), "token_malformed", id="line break"),
            pytest.param(("Bearer a\n",), "token_malformed", id="trailing line break"),
            pytest.param(("Bearer \xe9",), "token_malformed", id="latin-1"),
            pytest.param(("Bearer a", "Bearer b"), "token_malformed", id="two headers"),
            pytest.param(("Bearer a", "Basic b"), "token_malformed", id="two schemes"),
        ],
    )
    def test_no_token(self, authorization: tuple[str, ...], code: str) -> None:
        """What is not exactly one bearer token is a 401 that says which kind."""
        verdict = authenticate(authenticator(), authorization, NOW)

        assert isinstance(verdict, Deny)
        assert (verdict.status, verdict.code) == (401, code)

    @pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "  Bearer   "])
    def test_schemes_have_no_case(self, scheme: str) -> None:
        """RFC 9110 section 11.1: the scheme's case and the blanks after it do not matter."""
        assert bearer_token((f"{scheme}abc.def.ghi  ",)) == "abc.def.ghi"

    def test_two_good_tokens(self) -> None:
        """Two headers are ambiguous, even where both are good."""
        header = f"Bearer {token()}"

        verdict = authenticate(authenticator(), (header, header), NOW)

        assert isinstance(verdict, Deny)
        assert verdict.code == "token_malformed"


class TestPrincipals:
    """RFC 7519 section 4.1.2, RFC 8725 section 3.8: whom a token speaks for."""

    def test_a_good_token(self) -> None:
        """A token that holds names its caller."""
        principal = ask(token(scope="a b", roles=["x"]))

        assert isinstance(principal, Principal)
        assert principal.key == (ISSUER, "", "alice")
        assert principal.scopes == {"a", "b"}
        assert principal.claims["roles"] == ("x",)
        assert principal.pseudonym == pseudonym((ISSUER, "", "alice"))

    def test_claims_are_not_shown(self) -> None:
        """A principal that is printed shows none of the token's claims."""
        assert "hunter2" not in repr(ask(token(password="hunter2")))

    def test_two_tenants(self) -> None:
        """The same subject of two tenants is two principals."""
        one, other = (ask(token(tid=t), tenant_claim="tid") for t in ("a", "b"))

        assert isinstance(one, Principal)
        assert isinstance(other, Principal)
        assert one.key != other.key
        assert one.pseudonym != other.pseudonym

    @pytest.mark.parametrize("tenant", [None, "", 7, ["a"], {"a": 1}, True], ids=repr)
    def test_without_a_tenant(self, tenant: object) -> None:
        """Where tenants are told apart, a token without one is not trusted."""
        assert outcome(token(tid=tenant), tenant_claim="tid") == UNTRUSTED

    def test_a_handler_cannot_change_a_remembered_token(self) -> None:
        """What one handler does to the claims is not seen by the next request."""
        subject, text = authenticator(), f"Bearer {token(roles=['user'])}"
        first = authenticate(subject, (text,), NOW)
        assert isinstance(first, Principal)

        with suppress(TypeError):
            first.claims["sub"] = "root"  # type: ignore[index]
        with suppress(AttributeError):
            first.claims["roles"].append("admin")
        second = authenticate(subject, (text,), NOW)

        assert isinstance(second, Principal)
        assert second.claims["sub"] == "alice"
        assert tuple(second.claims["roles"]) == ("user",)


class TestHeaders:
    """RFC 8725 section 3.11: tokens of one kind must not pass for another."""

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"typ": "dpop+jwt"}, id="typ of a proof"),
            pytest.param({"typ": "logout+jwt"}, id="typ of a logout"),
            pytest.param({"typ": "nothing"}, id="no typ"),
            pytest.param({"typ": "none"}, id="typ of the settings' word for none"),
            pytest.param({"typ": "id+jwt"}, id="typ of an id token"),
            pytest.param({"typ": "application/"}, id="half a media type"),
            pytest.param({"typ": ""}, id="empty typ"),
            pytest.param({"typ": None}, id="null typ"),
            pytest.param({"typ": 5}, id="typ of a number"),
        ],
    )
    def test_demands(self, header: dict[str, Any]) -> None:
        """A header that demands what is not understood is refused, though the signature is good."""
        assert outcome(token(header)) == UNTRUSTED

    @pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
    def test_types_of_access_tokens(self, kind: str) -> None:
        """RFC 9068 and RFC 7519 name these types; media types have no case."""
        assert outcome(token({"typ": kind})) == (200, "ok")


class TestPayloads:
    """RFC 7519 sections 4 and 7.2: a set of claims, each once, each of its type."""

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"[]", id="list"),
            pytest.param(b"null", id="null"),
            pytest.param(b"5", id="number"),
            pytest.param(b'"alice"', id="text"),
            pytest.param(b"not json", id="junk"),
            pytest.param(b"\xff\xfe", id="not UTF-8"),
            pytest.param(b'{"sub":"alice","sub":"root"}', id="sub twice"),
            pytest.param(b'{"exp":' + b"9" * 5000 + b"}", id="more digits than Python reads"),
        ],
    )
    def test_no_object(self, payload: bytes) -> None:
        """A signed payload that is no JSON object with unique members is malformed."""
        assert outcome(signed(payload)) == MALFORMED

    def test_nested_deep(self) -> None:
        """Nesting is measured before it is parsed."""
        payload = b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"

        assert outcome(signed(payload)) == MALFORMED

    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize(
        "value",
        [
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "1e16",
            "1" + "0" * 400,
            "true",
            '"1800000060"',
            "[]",
            "{}",
        ],
    )
    def test_times_that_are_none(self, claim: str, value: str) -> None:
        """RFC 7519 section 2: a NumericDate is a number; NaN, a boolean and a text are none."""
        payload = json.dumps(claims(exp=None if claim == "exp" else NOW + 60))[:-1]

        expected = MALFORMED if value.lstrip("-") in ("NaN", "Infinity") else UNTRUSTED  # no JSON
        assert outcome(signed(f'{payload},"{claim}":{value}}}'.encode())) == expected

    def test_null_times(self) -> None:
        """A null is no time."""
        text = json.dumps(claims())[:-1]

        assert outcome(signed(f'{text},"nbf":null}}'.encode())) == UNTRUSTED

    @pytest.mark.parametrize("claim", ["iss", "aud", "sub", "exp"])
    def test_required(self, claim: str) -> None:
        """RFC 9068 section 2.2: issuer, audience, subject and expiry are required."""
        assert outcome(token(**{claim: None})) == UNTRUSTED

    @pytest.mark.parametrize(
        "others",
        [
            pytest.param({"iss": ISSUER.rstrip("/")}, id="issuer without its slash"),
            pytest.param({"iss": ISSUER.upper()}, id="issuer in another case"),
            pytest.param({"iss": [ISSUER]}, id="list of issuers"),
            pytest.param({"iss": {ISSUER: 1}}, id="issuer as an object"),
            pytest.param({"aud": "other"}, id="other audience"),
            pytest.param({"aud": "iris-api-2"}, id="audience that begins alike"),
            pytest.param({"aud": "iris-api other"}, id="audience as words"),
            pytest.param({"aud": []}, id="no audience"),
            pytest.param({"aud": [5, AUDIENCE]}, id="mixed audience"),
            pytest.param({"aud": [[AUDIENCE]]}, id="nested audience"),
            pytest.param({"aud": {AUDIENCE: 1}}, id="audience as an object"),
            pytest.param({"sub": ""}, id="empty subject"),
            pytest.param({"sub": 5}, id="subject of a number"),
            pytest.param({"sub": ["alice"]}, id="list of subjects"),
        ],
    )
    def test_other_than_ours(self, others: dict[str, Any]) -> None:
        """RFC 8725 section 3.8: a good signature over other words than ours is not trusted."""
        assert outcome(token(**others)) == UNTRUSTED

    @pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]], ids=repr)
    def test_audiences(self, audience: object) -> None:
        """RFC 7519 section 4.1.3, RFC 8725 section 3.9: we are the audience, or one of several."""
        assert outcome(token(aud=audience)) == (200, "ok")

    def test_several_audiences_of_ours(self) -> None:
        """A token for any of our audiences is for us."""
        assert outcome(token(aud="b"), audience=["a", "b"]) == (200, "ok")
        assert outcome(token(aud="c"), audience=["a", "b"]) == UNTRUSTED


def future() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


class TestFetching:
    """RFC 7517 section 4.5: a kid chooses among keys, during a rollover too."""

    def subject(self, ring: Keyring) -> Authenticator:
        return authenticator(
            {ISSUER: ring},
            secret_env=(),
            algorithms=["ES256"],
            jwks_url="https://login.example.com/keys",
        )

    @pytest.fixture(scope="class")
    @classmethod
    def keys(cls) -> dict[str, tuple[bytes, dict[str, Any]]]:
        return {name: make_key("ES256") for name in ("old", "new")}

    def token(self, key: tuple[bytes, dict[str, Any]], **header: Any) -> tuple[str]:
        sign = signer(key[0], "ES256")
        told = {"typ": "JWT", "kid": key[1]["kid"]} | header
        return (f"Bearer {mint(claims(), told.pop('alg', 'ES256'), sign, **told)}",)

    def test_a_new_key(self, keys: Any) -> None:
        """A kid that no key has is asked for, and verified once it is there."""
        ring = Keyring(KeySet([keys["old"][1]]))
        asked: list[int] = []

        def fetch() -> Future[None]:
            asked.append(1)
            ring.put(KeySet([keys["new"][1]]), 60)
            return future()

        ring.fetch = fetch
        verdict = authenticate(self.subject(ring), self.token(keys["new"]), NOW)

        assert isinstance(verdict, Principal)
        assert len(asked) == 1

    def test_the_first_keys(self, keys: Any) -> None:
        """Before the first keys have come, a token waits for them."""
        ring = Keyring()

        def fetch() -> Future[None]:
            ring.put(KeySet([keys["new"][1]]), 60)
            return future()

        ring.fetch = fetch

        assert isinstance(authenticate(self.subject(ring), self.token(keys["new"]), NOW), Principal)

    def test_a_flight_that_came_too_early(self, keys: Any) -> None:
        """Who joins a fetch that began before its key was there may ask once more, no more."""
        ring = Keyring(KeySet([keys["old"][1]]))
        asked: list[int] = []

        def fetch() -> Future[None]:
            asked.append(1)
            return future()

        ring.fetch = fetch
        verdict = authenticate(self.subject(ring), self.token(keys["new"]), NOW)

        assert verdict == refusals.token_untrusted()
        assert len(asked) == 2

    @pytest.mark.parametrize(
        ("header", "damaged"),
        [
            ({}, True),
            ({"alg": "RS256"}, False),
            ({"alg": "HS256", "kid": "unknown"}, False),
            ({"alg": "none", "kid": "unknown"}, False),
            ({"crit": ["x"], "kid": "unknown"}, False),
        ],
        ids=["a forged signature", "another algorithm", "HMAC", "none", "an extension"],
    )
    def test_nobody_is_asked(self, keys: Any, header: dict[str, Any], *, damaged: bool) -> None:
        """A token that no new key could verify makes nobody fetch."""
        ring = Keyring(KeySet([keys["old"][1]]))

        def fetch() -> Future[None]:
            raise AssertionError("asked for keys")

        ring.fetch = fetch
        (text,) = self.token(keys["old"], **header)
        (other,) = self.token(keys["new"])
        text = f"{text.rpartition('.')[0]}.{other.rpartition('.')[2]}" if damaged else text

        assert authenticate(self.subject(ring), (text,), NOW) == refusals.token_untrusted()

    def test_without_a_kid(self, keys: Any) -> None:
        """A token without a kid that no key verifies may be a new key's."""
        ring = Keyring(KeySet([keys["old"][1]]))

        def fetch() -> Future[None]:
            ring.put(KeySet([keys["new"][1]]), 60)
            return future()

        ring.fetch = fetch
        verdict = authenticate(self.subject(ring), self.token(keys["new"], kid=None), NOW)

        assert isinstance(verdict, Principal)

    def test_a_key_server_that_fails(self, keys: Any) -> None:
        """While keys cannot be fetched, known keys serve on; of others nothing can be said."""
        ring = Keyring(KeySet([keys["old"][1]]))
        ring.is_failing = True
        subject = self.subject(ring)

        assert isinstance(authenticate(subject, self.token(keys["old"]), NOW), Principal)
        assert authenticate(subject, self.token(keys["new"]), NOW) == refusals.keys_unavailable(10)


class TestIssuers:
    """RFC 7519 section 4.1, RFC 9068 section 4: what each issuer's tokens must say."""

    def test_claims_within_claims(self) -> None:
        """A name is a member's own first, and then a path; neither is taken for the other."""
        text = token(**{"a.b": "flat", "a": {"b": "deep"}, "c": {"d": "deep"}})

        flat, deep = (ask(text, tenant_claim=name) for name in ("a.b", "c.d"))

        assert isinstance(flat, Principal)
        assert isinstance(deep, Principal)
        assert (flat.tenant, deep.tenant) == ("flat", "deep")
        assert outcome(text, tenant_claim="a.b.c") == UNTRUSTED
        assert outcome(text, tenant_claim="c") == UNTRUSTED

    def test_a_claim_of_scopes(self) -> None:
        """Where the settings name a claim, nothing else grants."""
        principal = ask(token(scope="x", permissions=["a", "b"]), scope_claim="permissions")

        assert isinstance(principal, Principal)
        assert principal.scopes == {"a", "b"}

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ({"iat": NOW - 100, "exp": NOW + 9e9}, "ok"),
            ({"iat": NOW - 100 - LEEWAY, "exp": NOW + 9e9}, "token_expired"),
            ({"iat": None}, "token_untrusted"),
            ({"iat": True}, "token_untrusted"),
            ({"iat": NOW, "exp": NOW - LEEWAY}, "token_expired"),
        ],
        ids=str,
    )
    def test_age(self, others: dict[str, Any], expected: str) -> None:
        """RFC 7519 section 4.1.6: iat tells the age of a token, and max_age ends it early."""
        found = outcome(token(**({"iat": NOW} | others)), max_age=100)

        assert found[1] == expected

    def test_a_type_that_is_none(self) -> None:
        """Where the settings say so, a token must have no typ."""
        assert outcome(token({"typ": "nothing"}), typ="none") == (200, "ok")
        assert outcome(token(), typ="none") == UNTRUSTED
        assert outcome(token({"typ": "none"}), typ="none") == UNTRUSTED

    def test_issuers_are_compared_as_they_stand(self) -> None:
        """RFC 7519 section 4.1.1: iss is compared letter by letter."""
        for other in (ISSUER.rstrip("/"), ISSUER.upper(), f"{ISSUER} ", f"{ISSUER}x"):
            assert outcome(token(iss=other)) == UNTRUSTED

    @pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "\udc00\ud800"], ids=ascii)
    def test_names_that_are_no_text(self, value: str) -> None:
        """A subject that cannot be written in UTF-8 is nobody's name."""
        assert outcome(token(sub=value)) == UNTRUSTED


class TestTimes:
    """RFC 7519 sections 4.1.4 to 4.1.6: exp, nbf and iat, with a little leeway."""

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ({"exp": NOW - LEEWAY + 0.5}, "ok"),
            ({"exp": NOW - LEEWAY}, "token_expired"),
            ({"exp": NOW - LEEWAY - 0.5}, "token_expired"),
            ({"exp": 0}, "token_expired"),
            ({"exp": -1e15}, "token_expired"),
            ({"exp": 1e15}, "ok"),
            ({"nbf": NOW + LEEWAY}, "ok"),
            ({"nbf": NOW + LEEWAY + 0.5}, "token_not_yet_valid"),
            ({"iat": NOW + LEEWAY}, "ok"),
            ({"iat": NOW + LEEWAY + 0.5}, "token_not_yet_valid"),
            ({"iat": -5}, "ok"),
        ],
        ids=str,
    )
    def test_edges(self, others: dict[str, float], expected: str) -> None:
        """Clocks may differ by the leeway and by no more."""
        assert outcome(token(**others))[1] == expected

    def test_no_leeway(self) -> None:
        """Without leeway a token ends at its expiry."""
        text = token(exp=NOW + 60)

        assert outcome(text, NOW + 59.999, leeway=0) == (200, "ok")
        assert outcome(text, NOW + 60, leeway=0) == (401, "token_expired")

    def test_a_remembered_token_expires(self) -> None:
        """A token that was verified before ends at the very same instant."""
        subject, text = authenticator(), (f"Bearer {token(exp=NOW + 60)}",)

        verdicts = [
            authenticate(subject, text, NOW + seconds) for seconds in (0, 69.999, 70, 71, 69.999)
        ]

        codes = [v.code if isinstance(v, Deny) else "ok" for v in verdicts]
        assert codes == ["ok", "ok", "token_expired", "token_expired", "ok"]


class TestScopes:
    """RFC 8693 section 4.2: scope is a string of words; other servers write lists."""

    @pytest.mark.parametrize(
        ("granted", "expected"),
        [
            ({"scope": "predict explain"}, {"predict", "explain"}),
            ({"scope": "  predict\t explain "}, {"predict", "explain"}),
            ({"scope": ["predict", 5, None]}, {"predict"}),
            ({"scp": ["predict"]}, {"predict"}),
            ({"scp": "predict explain"}, {"predict", "explain"}),
            ({"scope": "", "scp": ["predict"]}, set()),
            ({"scope": 5}, set()),
            ({"scope": {"predict": True}}, set()),
            ({}, set()),
        ],
        ids=[
            "words",
            "words apart",
            "list with junk",
            "scp list",
            "scp words",
            "empty before scp",
            "number",
            "table",
            "nothing",
        ],
    )
    def test_read(self, granted: dict[str, Any], expected: set[str]) -> None:
        """Scopes are words in a string, or a list of strings; junk grants nothing."""
        principal = ask(token(**granted))

        assert isinstance(principal, Principal)
        assert principal.scopes == expected


class TestTokenCache:
    def test_bounded(self) -> None:
        """However many tokens an issuer signs, so many are remembered, the newest among them."""
        subject = authenticator()
        count = REMEMBERED + 100
        for number in range(count):
            authenticate(subject, (f"Bearer {token(jti=number)}",), NOW)

        known = [
            recalled(subject, (f"Bearer {token(jti=n)}",)) is not None for n in range(0, count, 50)
        ]
        assert sum(known) * 50 <= REMEMBERED
        assert known[-1]
        assert not known[0]

    def test_who_comes_again_stays(self) -> None:
        """A token that is seen again and again is not pushed out by many others."""
        subject, text = authenticator(), (f"Bearer {token()}",)
        authenticate(subject, text, NOW)
        for number in range(REMEMBERED + 100):
            authenticate(subject, (f"Bearer {token(jti=number)}",), NOW)
            if number % 1000 == 0:
                assert isinstance(recalled(subject, text), Principal)

    def test_once_however_it_is_spelt(self) -> None:
        """Who spells one header in many ways pushes nobody out: a token is remembered once."""
        subject, text = authenticator(), token()
        spelt = [f"Bearer {text}", f"bearer {text}", f"Bearer   {text}", f" BEARER {text}  "]
        for header in spelt:
            assert isinstance(authenticate(subject, (header,), NOW), Principal)

        assert len(subject._cache) == 1
        assert all(isinstance(recalled(subject, (header,)), Principal) for header in spelt)

    def test_a_lapsed_one_is_verified_anew(self) -> None:
        """A remembered token that its keys no longer vouch for is judged by itself, as spelt."""
        ring = Keyring(KeySet.from_secrets([SECRET]))
        subject, text = authenticator({ISSUER: ring}), (f"Bearer {token()}",)
        authenticate(subject, text, NOW)
        ring.put(KeySet.from_secrets([SECRET + b"!", SECRET]), 60)

        assert isinstance(authenticate(subject, text, NOW), Principal)

    def test_refusals_are_not_remembered(self) -> None:
        """A refused token is looked at again each time."""
        subject, text = authenticator(), (f"Bearer {token(iss='other')}",)
        authenticate(subject, text, NOW)

        assert recalled(subject, text) is None

    def test_tokens_are_not_kept(self) -> None:
        """The memory holds digests: a dump of it has no token to replay."""
        subject, text = authenticator(), token()
        authenticate(subject, (f"Bearer {text}",), NOW)

        assert text.encode() not in pickled(subject)
        assert text.rpartition(".")[2].encode() not in pickled(subject)

    def test_new_keys_forget(self) -> None:
        """What a key verified is not trusted once the key has left, and it is once it is back."""
        ring = Keyring(KeySet.from_secrets([SECRET]))
        subject, text = authenticator({ISSUER: ring}), (f"Bearer {token()}",)
        assert isinstance(authenticate(subject, text, NOW), Principal)

        ring.put(KeySet.from_secrets([OTHER]), 60)
        assert recalled(subject, text) is None
        assert authenticate(subject, text, NOW) == refusals.token_untrusted()
        ring.put(KeySet.from_secrets([SECRET, OTHER]), 60)
        assert isinstance(recalled(subject, text), Principal)

    def test_old_keys_forget(self) -> None:
        """What a key verified is not trusted once the keys have become too old."""
        now = 0.0
        ring = Keyring(timer=lambda: now)
        ring.put(KeySet.from_secrets([SECRET]), 60)
        subject, text = authenticator({ISSUER: ring}), (f"Bearer {token()}",)
        assert isinstance(authenticate(subject, text, NOW), Principal)

        now = 60.0

        assert recalled(subject, text) is None
        assert authenticate(subject, text, NOW) == refusals.keys_unavailable(10)

    def test_revocation_forgets(self) -> None:
        """A remembered token is refused as soon as it is revoked."""
        subject, text = authenticator(), (f"Bearer {token(jti='one')}",)
        assert isinstance(authenticate(subject, text, NOW), Principal)

        subject.revoked.learn([Revocation(ISSUER, jti="one")], NOW)

        assert recalled(subject, text) == refusals.token_revoked()
        assert isinstance(authenticate(subject, (f"Bearer {token(jti='two')}",), NOW), Principal)

    def test_a_flood_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each reason is logged at most once a minute, and the client never reads it."""
        subject = authenticator()
        with caplog.at_level(logging.WARNING, logger="mlguard"):
            verdicts = [
                authenticate(subject, (f"Bearer {token(iss=f'evil {n}')}",), NOW)
                for n in range(100)
            ]

        assert [r.getMessage() for r in caplog.records] == [
            "a token was refused: iss is not the issuer"
        ]
        assert all("iss" not in v.title.split() for v in verdicts if isinstance(v, Deny))


class TestChallenges:
    """RFC 6750 section 3: what a refusal tells the client, and what it does not."""

    @pytest.mark.parametrize(
        ("deny", "error"),
        [
            (refusals.token_missing(), None),
            (refusals.token_malformed(), "invalid_token"),
            (refusals.token_expired(), "invalid_token"),
            (refusals.token_not_yet_valid(), "invalid_token"),
            (refusals.token_untrusted(), "invalid_token"),
            (refusals.token_revoked(), "invalid_token"),
            (refusals.scope_missing(frozenset({"b", "a"})), "insufficient_scope"),
        ],
        ids=lambda value: getattr(value, "code", None),
    )
    def test_the_header(self, deny: Deny, error: str | None) -> None:
        """RFC 6750 section 3.1: an error where there was a token, none where there was none."""
        ((name, challenge),) = deny.headers
        told = dict(re.findall(r'(\w+)="([^"]*)"', challenge))

        assert name == "WWW-Authenticate"
        assert challenge.startswith("Bearer")
        assert told.get("error") == error
        # Section 3: error and error_description have no quote and no backslash.
        assert all(re.fullmatch(r"[\x20-\x21\x23-\x5B\x5D-\x7E]*", v) for v in told.values())
        assert told.get("scope", "a b") == "a b"
        assert deny.status == (403 if error == "insufficient_scope" else 401)

    def test_one_answer_for_all_that_is_not_trusted(self) -> None:
        """Signature, key, algorithm, issuer, audience, type: the client cannot tell them apart."""
        forged = f"{token().rpartition('.')[0]}.{token(sub='bob').rpartition('.')[2]}"
        texts = [
            forged, token(iss="x"), token(aud="x"), token({"alg": "none"}), token({"typ": "x"}),
            token({"alg": "HS512"}), token(sub=None), token({"kid": "x", "crit": []}),
        ]  # fmt: skip

        assert {str(ask(text)) for text in texts} == {str(refusals.token_untrusted())}


class TestServices:
    """With the real service around the authenticator."""

    AUTH: ClassVar[dict[str, Any]] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "secret_env": "SECRET",
        "algorithms": ["HS256"],
        "tenant_claim": "tid",
    }

    @pytest.fixture
    def subject(self, monkeypatch: pytest.MonkeyPatch) -> Authenticator:
        monkeypatch.setenv("SECRET", SECRET.decode())
        service = Service({"auth": self.AUTH, "service": {"host_file": False}})
        assert service.guard.parts.authenticator is not None
        return service.guard.parts.authenticator

    def test_settings_made_by_hand_do_not_open_the_door(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token signed with the empty secret is never trusted, however the settings were made."""
        monkeypatch.setenv("SECRET", SECRET.decode())
        made = Settings.model_validate({"auth": self.AUTH, "service": {"host_file": False}})
        forged = signed(json.dumps(claims(tid="t", sub="root")).encode(), secret=b"")

        service = Service(made)

        assert service.guard.parts.authenticator is not None
        verdict = authenticate(service.guard.parts.authenticator, (f"Bearer {forged}",), NOW)
        assert isinstance(verdict, Deny)

    @pytest.mark.parametrize("place", ["sub", "tid"])
    def test_half_a_surrogate_pair(self, subject: Authenticator, place: str) -> None:
        """JSON may carry half a surrogate pair: a name that holds one is no exception."""
        text = token(**({"tid": "t"} | {place: "\ud800"}))

        assert isinstance(authenticate(subject, (f"Bearer {text}",), NOW), Principal | Deny)

    def test_pseudonyms_tell_principals_apart(self, subject: Authenticator) -> None:
        """Two principals never share a pseudonym by the way their names are put together."""
        names = [{"tid": "a", "sub": "b\0c"}, {"tid": "a\0b", "sub": "c"}]
        one, other = (authenticate(subject, (f"Bearer {token(**n)}",), NOW) for n in names)

        assert isinstance(one, Principal)
        assert isinstance(other, Principal)
        assert one.pseudonym != other.pseudonym


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "scope", "scp", "tid"])


class TestFuzz:
    SUBJECT = authenticator(scopes=["predict"], tenant_claim="tid")

    def hold(self, verdict: object) -> None:
        assert isinstance(verdict, Principal | Deny)
        if isinstance(verdict, Deny):
            assert verdict.status in (401, 403)

    @examples(max_examples=100, deadline=None)
    @given(st.lists(st.text() | st.text().map("Bearer {}".format), max_size=3), st.floats())
    def test_headers(self, authorization: list[str], now: float) -> None:
        """Whatever stands in the headers is a refusal, never an exception."""
        verdict = authenticate(self.SUBJECT, tuple(authorization), now)

        assert isinstance(verdict, Deny)
        assert verdict.status == 401

    @examples(max_examples=100, deadline=None)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """A good token with any characters changed is refused, never an exception."""
        good = token(scope="predict", tid="t")
        place = data.draw(st.integers(0, len(good) - 1))
        length = data.draw(st.integers(0, 5))
        bad = good[:place] + data.draw(st.text(max_size=5)) + good[place + length :]

        verdict = authenticate(self.SUBJECT, (f"Bearer {bad}",), NOW)

        assert isinstance(verdict, Deny) or bad.strip() == good

    @examples(max_examples=100, deadline=None)
    @given(st.dictionaries(NAMES | st.text(), JSONS), st.sets(NAMES, max_size=2))
    def test_signed_claims(self, others: dict[str, Any], without: set[str]) -> None:
        """Whatever an issuer signs is a principal or a refusal."""
        said = claims(scope="predict", tid="t") | others
        payload = json.dumps({k: v for k, v in said.items() if k not in without})

        self.hold(authenticate(self.SUBJECT, (f"Bearer {signed(payload.encode())}",), NOW))

    @examples(max_examples=80, deadline=None)
    @given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x"]), JSONS))
    def test_signed_headers(self, others: dict[str, Any]) -> None:
        """Whatever stands in a header is a principal or a refusal."""
        payload = json.dumps(claims(scope="predict", tid="t")).encode()
        header = json.dumps({"alg": "HS256"} | others).encode()

        self.hold(authenticate(self.SUBJECT, (f"Bearer {signed(payload, header)}",), NOW))

    @examples(max_examples=80, deadline=None)
    @given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=40))
    def test_segments(self, header: bytes, payload: bytes, signature: bytes) -> None:
        """Any bytes in the segments are a refusal."""
        text = ".".join(map(b64, (header, payload, signature)))

        assert isinstance(authenticate(self.SUBJECT, (f"Bearer {text}",), NOW), Deny)
