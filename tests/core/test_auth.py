"""Who is calling? By class of attack."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import math
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jose import jwk, jwt

from mlguard.auth import Authenticator, InvalidToken, KeySet, verify_jws
from mlguard.auth.bearer import REMEMBERED, bearer_token
from mlguard.messages import Deny, Principal
from mlguard.runtime.service import Service
from mlguard.settings import Auth, Settings

NOW = 1_800_000_000.0
SECRET = b"a secret of the tests that is long enough"
ISSUER = "https://login.example.com/"
AUDIENCE = "iris-api"
LEEWAY = 10
UNTRUSTED = (401, "token_untrusted")
MALFORMED = (401, "token_malformed")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    payload: bytes,
    header: bytes = b'{"alg":"HS256"}',
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
    head = json.dumps({"alg": "HS256"} | (header or {})).encode()
    return signed(json.dumps(claims(**others)).encode(), head)


def pseudonym(key: tuple[str, str, str]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def authenticator(keys: KeySet | None = None, **others: Any) -> Authenticator:
    table: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "secret_env": "SECRET",
        "algorithms": ["HS256"],
    }
    return Authenticator(
        Auth.model_validate(table | others),
        keys or KeySet.from_secret(SECRET, algorithms=("HS256",)),
        pseudonym,
    )


def ask(text: str, now: float = NOW, **others: Any) -> Principal | Deny:
    return authenticator(**others).authenticate((f"Bearer {text}",), now)


def outcome(text: str, now: float = NOW, **others: Any) -> tuple[int, str]:
    """Return what the client is told."""
    verdict = ask(text, now, **others)
    return (verdict.status, verdict.code) if isinstance(verdict, Deny) else (200, "ok")


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def public_jwk(key: rsa.RSAPrivateKey, **others: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    n = numbers.n.to_bytes((key.key_size + 7) // 8, "big")
    return {"kty": "RSA", "n": b64(n), "e": "AQAB", **others}


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def rs_token(key: rsa.RSAPrivateKey, algorithm: str = "RS256", **header: Any) -> str:
    return str(jwt.encode(claims(exp=int(NOW) + 60), key, algorithm, headers=header))


class TestCredentials:
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
        verdict = authenticator().authenticate(authorization, NOW)

        assert isinstance(verdict, Deny)
        assert (verdict.status, verdict.code) == (401, code)

    @pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "  Bearer   "])
    def test_schemes_have_no_case(self, scheme: str) -> None:
        """RFC 9110 section 11.1: the scheme's case and the blanks after it do not matter."""
        assert bearer_token((f"{scheme}abc.def.ghi  ",)) == "abc.def.ghi"

    def test_two_good_tokens(self) -> None:
        """Two headers are ambiguous, even where both are good."""
        header = f"Bearer {token()}"

        verdict = authenticator().authenticate((header, header), NOW)

        assert isinstance(verdict, Deny)
        assert verdict.code == "token_malformed"


class TestPrincipals:
    def test_a_good_token(self) -> None:
        """A token that holds names its caller."""
        principal = ask(token(scope="a b", roles=["x"]))

        assert isinstance(principal, Principal)
        assert principal.key == (ISSUER, "", "alice")
        assert principal.scopes == {"a", "b"}
        assert principal.claims["roles"] == ["x"]
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
        subject, text = authenticator(), f"Bearer {token()}"
        first = subject.authenticate((text,), NOW)
        assert isinstance(first, Principal)

        with suppress(TypeError):
            first.claims["sub"] = "root"  # type: ignore[index]
        second = subject.authenticate((text,), NOW)

        assert isinstance(second, Principal)
        assert second.claims["sub"] == "alice"


class TestAlgorithms:
    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    def test_a_public_key_is_no_secret(self, digest: str) -> None:
        """HMAC with the RSA public key's PEM as its secret: keys serve their own algorithm only."""
        key = rsa_key()
        keys = KeySet([public_jwk(key)], algorithms=("RS256",))
        header = json.dumps({"alg": digest.replace("sha", "HS")}).encode()
        forged = signed(
            json.dumps(claims()).encode(), header, secret=public_pem(key), digest=digest
        )

        with pytest.raises(InvalidToken) as caught:
            verify_jws(forged, keys)

        assert caught.value.code == "token_untrusted"

    @pytest.mark.parametrize(
        "algorithm",
        ["none", "None", "NONE", "nOnE", "", "hs256", "HS512", "RS256", "ES256", "PS256", "dir"],
    )
    def test_unlisted(self, algorithm: str) -> None:
        """An algorithm that the settings do not list verifies nothing, whatever the signature."""
        assert outcome(token({"alg": algorithm})) == UNTRUSTED

    @pytest.mark.parametrize("signature", ["", "AA"])
    def test_none_without_a_signature(self, signature: str) -> None:
        """A token that says it needs no signature is refused."""
        head, body, _ = token({"alg": "none"}).split(".")

        assert outcome(f"{head}.{body}.{signature}")[0] == 401

    @pytest.mark.parametrize("algorithm", [None, 5, ["HS256"], {"HS256": 1}, True], ids=repr)
    def test_no_text(self, algorithm: object) -> None:
        """An algorithm is a string."""
        assert outcome(token({"alg": algorithm})) == MALFORMED

    def test_listed_ones_each_work(self) -> None:
        """A secret serves each algorithm that is listed."""
        secret = b"s" * 64
        keys = KeySet.from_secret(secret, algorithms=("HS256", "HS512"))

        outcomes = {
            algorithm: outcome(str(jwt.encode(claims(), secret, algorithm)), keys=keys)
            for algorithm in ("HS256", "HS384", "HS512")
        }

        assert outcomes == {"HS256": (200, "ok"), "HS384": UNTRUSTED, "HS512": (200, "ok")}

    def test_an_rsa_key_bound_to_another(self) -> None:
        """A key whose `alg` is RS512 verifies no RS256, even where both are listed."""
        key = rsa_key()
        keys = KeySet([public_jwk(key, alg="RS512")], algorithms=("RS256", "RS512"))

        assert verify_jws(rs_token(key, "RS512"), keys)
        with pytest.raises(InvalidToken):
            verify_jws(rs_token(key, "RS256"), keys)


class TestHeaders:
    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"crit": ["exp"]}, id="crit"),
            pytest.param({"crit": []}, id="empty crit"),
            pytest.param({"crit": None}, id="null crit"),
            pytest.param({"b64": False}, id="b64 false"),
            pytest.param({"b64": True}, id="b64 true"),
            pytest.param({"typ": "dpop+jwt"}, id="typ of a proof"),
            pytest.param({"typ": "logout+jwt"}, id="typ of a logout"),
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

    @pytest.mark.parametrize("kid", [5, [], {}, True, 1.5], ids=repr)
    def test_odd_kid(self, kid: object) -> None:
        """A kid is a string."""
        assert outcome(token({"kid": kid})) == MALFORMED

    @pytest.mark.parametrize(
        "kid", ["", "../../dev/null", "' OR 1=1 --", "x" * 1000, "\x00", "\ud800"], ids=ascii
    )
    def test_hostile_kid(self, kid: str) -> None:
        """A kid only chooses among keys: a secret without one serves any."""
        assert outcome(token({"kid": kid})) == (200, "ok")

    def test_keys_in_the_header(self) -> None:
        """Keys that a token brings or points to are ignored."""
        key = rsa_key(number=1)
        brought = {
            "jwk": public_jwk(key),
            "jku": "http://127.0.0.1:9/keys.json",
            "x5u": "http://127.0.0.1:9/cert.pem",
            "x5c": ["AAAA"],
        }
        keys = KeySet([public_jwk(rsa_key())], algorithms=("RS256",))

        with pytest.raises(InvalidToken):
            verify_jws(rs_token(key, **brought), keys)

    def test_members_are_ignored_otherwise(self) -> None:
        """Members that are not understood change nothing."""
        header = {"jku": "http://127.0.0.1:9/", "x5c": ["AAAA"], "zip": "DEF", "cty": "JWT"}

        assert outcome(token(header)) == (200, "ok")

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b'{"alg":"none","alg":"HS256"}', id="alg twice"),
            pytest.param(b'{"alg":"HS256","x":{"a":1,"a":2}}', id="twice, within"),
            pytest.param(b'["HS256"]', id="list"),
            pytest.param(b'"HS256"', id="text"),
            pytest.param(b"null", id="null"),
            pytest.param(b"{}", id="empty"),
            pytest.param(b"{", id="cut off"),
            pytest.param(b'{"alg":"HS256"} x', id="more behind"),
            pytest.param(b'\xef\xbb\xbf{"alg":"HS256"}', id="byte order mark"),
            pytest.param('{"alg":"HS256"}'.encode("utf-16"), id="UTF-16"),
            pytest.param(b'{"alg":"HS256","x":"\xff"}', id="not UTF-8"),
            pytest.param(b'{"alg":"HS256","x":' + b"[" * 1000 + b"]" * 1000 + b"}", id="nested"),
            pytest.param(b'{"x":' + b"9" * 2040 + b',"alg":"HS256"}', id="a huge number"),
            pytest.param(b'{"alg":"HS256","x":"' + b"y" * 2048 + b'"}', id="too long"),
        ],
    )
    def test_odd_json(self, header: bytes) -> None:
        """A header is a small JSON object in UTF-8 in which no member stands twice."""
        odd = signed(json.dumps(claims()).encode(), header)

        if b"[[[" in header:
            assert outcome(odd)[0] in (200, 401)
        else:
            assert outcome(odd) == MALFORMED


class TestSegments:
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda t: t.rpartition(".")[0], id="two"),
            pytest.param(lambda t: t + ".x", id="four"),
            pytest.param(lambda t: t + ".x.y", id="five, as an encrypted token"),
            pytest.param(lambda t: "." + t.partition(".")[2], id="no header"),
            pytest.param(lambda t: t.split(".")[0] + ".." + t.split(".")[2], id="no payload"),
            pytest.param(lambda t: t.rpartition(".")[0] + ".", id="no signature"),
            pytest.param(lambda t: t + "=", id="padding"),
            pytest.param(lambda t: t.replace(".", "=.", 1), id="padding within"),
            pytest.param(lambda t: t + "+", id="standard alphabet"),
            pytest.param(lambda t: t[:-1] + "/", id="slash"),
            pytest.param(lambda t: t + "~", id="junk"),
            pytest.param(lambda t: t[:-2], id="impossible length"),
            pytest.param(lambda t: "..", id="nothing"),
            pytest.param(lambda t: "." * 8000, id="dots"),
            pytest.param(lambda t: "a" * 8193, id="too long"),
        ],
    )
    def test_odd_shapes(self, change: Any) -> None:
        """A token is three segments of base64url without padding."""
        assert outcome(change(token())) == MALFORMED

    def test_stray_bits(self) -> None:
        """The unused bits of a segment's last character are zero: a token has one spelling."""
        good = token()  # the signature's 32 bytes leave 2 unused bits
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = alphabet.index(good[-1])

        others = [good[:-1] + alphabet[last + stray] for stray in (1, 2, 3)]

        assert [outcome(other) for other in others] == [MALFORMED] * 3

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_whitespace(self, place: int) -> None:
        """Whitespace in a segment is refused by the header's grammar and by the signature's."""
        segments = token().split(".")
        segments[place] = segments[place][:3] + "\n" + segments[place][3:]

        with pytest.raises(InvalidToken) as caught:
            verify_jws(".".join(segments), KeySet.from_secret(SECRET))

        assert caught.value.code == "token_malformed"

    def test_the_longest(self) -> None:
        """A token of 8192 characters is read, one of more is not."""
        room = (8192 - len(token(x=""))) * 3 // 4
        sizes = {len(t): outcome(t) for t in (token(x="y" * n) for n in range(room - 4, room + 4))}

        assert {n: o for n, o in sizes.items() if n <= 8192}
        assert all(o == ((200, "ok") if n <= 8192 else MALFORMED) for n, o in sizes.items())

    @pytest.mark.parametrize("place", [0, 1, 2], ids=["header", "payload", "signature"])
    def test_swapped(self, place: int) -> None:
        """A segment of another good token breaks the signature."""
        segments, others = token(), token({"kid": "other"}, sub="bob")
        mixed = segments.split(".")
        mixed[place] = others.split(".")[place]

        assert outcome(".".join(mixed)) == UNTRUSTED

    def test_another_secret(self) -> None:
        """A signature of another secret is refused."""
        assert outcome(signed(json.dumps(claims()).encode(), secret=b"x" * 40)) == UNTRUSTED

    @pytest.mark.parametrize("secret", [b"", b"\0", b"secret"])
    def test_guessable_secrets(self, secret: bytes) -> None:
        """A signature of the empty secret is refused."""
        assert outcome(signed(json.dumps(claims()).encode(), secret=secret)) == UNTRUSTED


class TestPayloads:
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
        """Nesting is too deep for some versions of Python, and useless on all."""
        payload = b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"

        assert outcome(signed(payload)) in (MALFORMED, UNTRUSTED)

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
        """A time is a finite number; Python's NaN, a boolean and a text are not."""
        payload = json.dumps(claims(exp=None if claim == "exp" else NOW + 60))[:-1]

        assert outcome(signed(f'{payload},"{claim}":{value}}}'.encode())) == UNTRUSTED

    def test_null_times(self) -> None:
        """A null is no time."""
        text = json.dumps(claims())[:-1]

        assert outcome(signed(f'{text},"nbf":null}}'.encode())) == UNTRUSTED

    @pytest.mark.parametrize("claim", ["iss", "aud", "sub", "exp"])
    def test_required(self, claim: str) -> None:
        """Issuer, audience, subject and expiry are required."""
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
        """A good signature over other words than ours is not trusted."""
        assert outcome(token(**others)) == UNTRUSTED

    @pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]], ids=repr)
    def test_audiences(self, audience: object) -> None:
        """The audience is ours, or we are among several."""
        assert outcome(token(aud=audience)) == (200, "ok")

    def test_several_audiences_of_ours(self) -> None:
        """A token for any of our audiences is for us."""
        assert outcome(token(aud="b"), audience=["a", "b"]) == (200, "ok")
        assert outcome(token(aud="c"), audience=["a", "b"]) == UNTRUSTED


class TestTimes:
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
            subject.authenticate(text, NOW + seconds) for seconds in (0, 69.999, 70, 71, 69.999)
        ]

        codes = [v.code if isinstance(v, Deny) else "ok" for v in verdicts]
        assert codes == ["ok", "ok", "token_expired", "token_expired", "ok"]


class TestScopes:
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
        ids=repr,
    )
    def test_read(self, granted: dict[str, Any], expected: set[str]) -> None:
        """Scopes are words in a string, or a list of strings; junk grants nothing."""
        principal = ask(token(**granted))

        assert isinstance(principal, Principal)
        assert principal.scopes == expected

    @pytest.mark.parametrize(
        "scope",
        ["", "predict", "explain", "predictexplain", "PREDICT EXPLAIN", "predict:x explain"],
    )
    def test_all_are_needed(self, scope: str) -> None:
        """A token that lacks one of the scopes is told all that are needed, as a 403."""
        verdict = ask(token(scope=scope), scopes=["predict", "explain"])

        assert isinstance(verdict, Deny)
        assert (verdict.status, verdict.code) == (403, "scope_missing")
        challenge = 'Bearer error="insufficient_scope", scope="explain predict"'
        assert verdict.headers == (("WWW-Authenticate", challenge),)

    def test_more_are_welcome(self) -> None:
        """A token may grant more than is needed."""
        assert outcome(token(scope="a predict b"), scopes=["predict"]) == (200, "ok")

    def test_remembered_tokens_too(self) -> None:
        """A token without the scope is refused every time."""
        subject = authenticator(scopes=["predict"])
        verdicts = [subject.authenticate((f"Bearer {token()}",), NOW) for _ in range(2)]

        assert [v.code for v in verdicts if isinstance(v, Deny)] == ["scope_missing"] * 2


class TestMemory:
    def test_bounded(self) -> None:
        """However many tokens an issuer signs, so many are remembered."""
        subject = authenticator()
        for number in range(REMEMBERED + 5):
            subject._verified[str(number).encode()] = (Principal("", ""), math.inf)
            subject.authenticate(
                (f"Bearer {token(jti=number)}",), NOW
            ) if number % 997 == 0 else None
        subject.authenticate((f"Bearer {token(jti='last')}",), NOW)

        assert len(subject._verified) <= REMEMBERED

    def test_refusals_are_not_remembered(self) -> None:
        """Junk cannot fill the memory."""
        subject = authenticator()
        for number in range(50):
            subject.authenticate((f"Bearer {token(jti=number, iss='other')}",), NOW)

        assert not subject._verified

    def test_tokens_are_not_kept(self) -> None:
        """The memory holds digests: a dump of it has no token to replay."""
        subject, text = authenticator(), token()
        subject.authenticate((f"Bearer {text}",), NOW)

        assert text.encode() not in b"".join(subject._verified)

    def test_new_keys_forget(self) -> None:
        """What old keys verified is not trusted after they left."""
        subject, text = authenticator(), (f"Bearer {token()}",)
        assert isinstance(subject.authenticate(text, NOW), Principal)

        subject.trust(KeySet.from_secret(b"another secret, of the same length"))

        verdict = subject.authenticate(text, NOW)
        assert isinstance(verdict, Deny)
        assert verdict.code == "token_untrusted"

    def test_a_flood_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each reason is logged at most once a minute, and the client never reads it."""
        subject = authenticator()
        with caplog.at_level(logging.WARNING, logger="mlguard"):
            verdicts = [
                subject.authenticate((f"Bearer {token(iss=f'evil {n}')}",), NOW) for n in range(100)
            ]

        assert [r.getMessage() for r in caplog.records] == [
            "a token was refused: iss is not the issuer"
        ]
        assert all("iss" not in v.title.split() for v in verdicts if isinstance(v, Deny))


class TestKeySets:
    def test_by_kid(self) -> None:
        """A token that names a key is verified by that key only."""
        one, other = rsa_key(), rsa_key(number=1)
        keys = KeySet([public_jwk(one, kid="one"), public_jwk(other, kid="other")])

        assert verify_jws(rs_token(one, kid="one"), keys)
        assert verify_jws(rs_token(other, kid="other"), keys)
        for mislabelled in (rs_token(one, kid="other"), rs_token(one, kid="third")):
            with pytest.raises(InvalidToken):
                verify_jws(mislabelled, keys)

    def test_without_kid(self) -> None:
        """A token that names no key is tried with all, and a key without a name serves any."""
        one, other = rsa_key(), rsa_key(number=1)
        keys = KeySet([public_jwk(one, kid="one"), public_jwk(other)])

        assert verify_jws(rs_token(one), keys)
        assert verify_jws(rs_token(other), keys)
        assert verify_jws(rs_token(other, kid="whatever"), keys)

    def test_other_types_are_passed_over(self) -> None:
        """Keys that verify nothing of ours stand in real key sets: they do no harm."""
        curve = ec.generate_private_key(ec.SECP256R1())
        stranger = jwk.construct(curve.public_key(), "ES256").to_dict()
        document = {
            "keys": [
                {k: v.decode() if isinstance(v, bytes) else v for k, v in stranger.items()},
                {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
                {"kty": "oct", "k": b64(SECRET)},
                {"kty": "new-in-2030"},
                {},
                public_jwk(rsa_key(), use="enc"),
                public_jwk(rsa_key(), kid="ours"),
            ]
        }

        assert len(KeySet.from_document(json.dumps(document))) == 1

    def test_a_published_secret_verifies_nothing(self) -> None:
        """A symmetric key in a public document is no key."""
        published = {"kty": "oct", "k": b64(SECRET), "alg": "HS256"}
        document = json.dumps({"keys": [published, public_jwk(rsa_key())]})

        keys = KeySet.from_document(document, algorithms=("HS256", "RS256"))

        with pytest.raises(InvalidToken):
            verify_jws(token(), keys)

    @pytest.mark.parametrize(
        "others",
        [
            {"use": "enc"},
            {"use": 5},
            {"key_ops": ["sign"]},
            {"key_ops": []},
            {"key_ops": "verify"},
            {"alg": "RS512"},
            {"alg": "RSA-OAEP"},
            {"alg": ["RS256"]},
            {"alg": "HS256"},
        ],
        ids=repr,
    )
    def test_not_for_verifying(self, others: dict[str, Any]) -> None:
        """RFC 7517 sections 4.2 to 4.4: a key's use, operations and algorithm are obeyed."""
        assert len(KeySet([public_jwk(rsa_key(), **others)], algorithms=("RS256",))) == 0

    def test_for_verifying(self) -> None:
        """Use and operations that allow verifying do."""
        entry = public_jwk(rsa_key(), use="sig", key_ops=["verify"], alg="RS256")

        assert len(KeySet([entry])) == 1

    def test_private_keys_are_refused(self) -> None:
        """A private key in a verifier's file is a leak: it is refused and not repeated."""
        entry = public_jwk(rsa_key(), d="c2VjcmV0IGV4cG9uZW50", kid="ours")

        with pytest.raises(ValueError, match="key 'ours' is a private key") as caught:
            KeySet([entry])

        assert "c2Vjc" not in str(caught.value)

    def test_small_keys_are_refused(self) -> None:
        """RFC 7518 section 3.3: an RSA key has 2048 bits or more."""
        with pytest.raises(ValueError, match="key 0 has 1024 bits; RFC 7518 demands 2048"):
            KeySet([public_jwk(rsa_key(1024))])

    @pytest.mark.parametrize(
        "entry",
        [
            pytest.param({"kty": "RSA"}, id="no numbers"),
            pytest.param({"kty": "RSA", "n": "AQAB"}, id="no exponent"),
            pytest.param({"kty": "RSA", "n": 5, "e": "AQAB"}, id="numbers that are numbers"),
            pytest.param({"kty": "RSA", "n": "\xe9", "e": "AQAB"}, id="not ASCII"),
            pytest.param({"kty": "RSA", "n": "", "e": ""}, id="empty"),
            pytest.param({"kty": "RSA", "n": "_" * 342, "e": "AQ"}, id="exponent of 1"),
            pytest.param({"kty": "RSA", "n": None, "e": None}, id="nulls"),
            pytest.param({"kty": "RSA", "n": [], "e": {}}, id="containers"),
        ],
    )
    def test_unreadable_keys(self, entry: Any) -> None:
        """A key that cannot be read is told as a ValueError that says which."""
        with pytest.raises(ValueError, match="key 0 "):
            KeySet([entry])

    @pytest.mark.parametrize(
        "document",
        [
            *(b"", b"{", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000),
            *(
                b'{"keys":{}}',
                b'{"keys":[null]}',
                b'{"keys":["text"]}',
                b'{"keys":[]}',
                b'{"keys":[{}]}',
            ),
        ],
        ids=lambda d: repr(d[:16]),
    )
    def test_unreadable_documents(self, document: bytes) -> None:
        """A document that is no key set is told as a ValueError."""
        with pytest.raises(ValueError, match=r"JSON|no key that verifies RS256"):
            KeySet.from_document(document)

    @pytest.mark.parametrize("secret", [b"", b"short"])
    def test_short_secrets(self, secret: bytes) -> None:
        """RFC 7518 section 3.2: a key set of a guessable secret is never made."""
        with pytest.raises(ValueError, match="secret"):
            KeySet.from_secret(secret)

    @pytest.mark.parametrize(
        ("secret", "algorithm"),
        [
            pytest.param(public_pem(rsa_key()), "HS256", id="public key"),
            pytest.param(SECRET, "none", id="none"),
            pytest.param(SECRET, "RS256", id="RSA"),
        ],
    )
    def test_secrets_that_cannot_serve(self, secret: bytes, algorithm: str) -> None:
        """What cannot be an HMAC secret is told as a ValueError, as documented."""
        with pytest.raises(ValueError, match="secret"):
            KeySet.from_secret(secret, algorithms=(algorithm,))


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
        service = Service({"auth": self.AUTH, "service": {"companion": False}})
        assert service.guard.authenticator is not None
        return service.guard.authenticator

    def test_settings_made_by_hand_do_not_open_the_door(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token signed with the empty secret is never trusted, however the settings were made."""
        monkeypatch.setenv("SECRET", SECRET.decode())
        made = Settings.model_validate({"auth": self.AUTH, "service": {"companion": False}})
        forged = signed(json.dumps(claims(tid="t", sub="root")).encode(), secret=b"")

        service = Service(made)

        assert service.guard.authenticator is not None
        verdict = service.guard.authenticator.authenticate((f"Bearer {forged}",), NOW)
        assert isinstance(verdict, Deny)

    @pytest.mark.parametrize("place", ["sub", "tid"])
    def test_half_a_surrogate_pair(self, subject: Authenticator, place: str) -> None:
        """JSON may carry half a surrogate pair: a name that holds one is no exception."""
        text = token(**({"tid": "t"} | {place: "\ud800"}))

        assert isinstance(subject.authenticate((f"Bearer {text}",), NOW), Principal | Deny)

    def test_pseudonyms_tell_principals_apart(self, subject: Authenticator) -> None:
        """Two principals never share a pseudonym by the way their names are put together."""
        names = [{"tid": "a", "sub": "b\0c"}, {"tid": "a\0b", "sub": "c"}]
        one, other = (subject.authenticate((f"Bearer {token(**n)}",), NOW) for n in names)

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
        verdict = self.SUBJECT.authenticate(tuple(authorization), now)

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

        verdict = self.SUBJECT.authenticate((f"Bearer {bad}",), NOW)

        assert isinstance(verdict, Deny) or bad.strip() == good

    @examples(max_examples=100, deadline=None)
    @given(st.dictionaries(NAMES | st.text(), JSONS), st.sets(NAMES, max_size=2))
    def test_signed_claims(self, others: dict[str, Any], without: set[str]) -> None:
        """Whatever an issuer signs is a principal or a refusal."""
        said = claims(scope="predict", tid="t") | others
        payload = json.dumps({k: v for k, v in said.items() if k not in without})

        self.hold(self.SUBJECT.authenticate((f"Bearer {signed(payload.encode())}",), NOW))

    @examples(max_examples=80, deadline=None)
    @given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x"]), JSONS))
    def test_signed_headers(self, others: dict[str, Any]) -> None:
        """Whatever stands in a header is a principal or a refusal."""
        payload = json.dumps(claims(scope="predict", tid="t")).encode()
        header = json.dumps({"alg": "HS256"} | others).encode()

        self.hold(self.SUBJECT.authenticate((f"Bearer {signed(payload, header)}",), NOW))

    @examples(max_examples=80, deadline=None)
    @given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=40))
    def test_segments(self, header: bytes, payload: bytes, signature: bytes) -> None:
        """Any bytes in the segments are a refusal."""
        text = ".".join(map(b64, (header, payload, signature)))

        assert isinstance(self.SUBJECT.authenticate((f"Bearer {text}",), NOW), Deny)
