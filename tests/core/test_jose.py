"""Is the signature good, and the key one to trust? By section of the RFCs."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jose.backends.base import Key as UnfinishedKey
from jose.constants import ALGORITHMS

from mlguard.auth import algorithms as jwa
from mlguard.auth.jws import InvalidToken, parse_jws, parse_object, verify_jws
from mlguard.auth.keys import KeySet, VerifyingKey
from mlguard.auth.points import is_sound
from tests.jose import (
    EVERY,
    MALFORMED,
    PAYLOAD,
    SECRET,
    UNTRUSTED,
    Jwk,
    b64,
    cube_root,
    digest,
    digest_info,
    ec_jwk,
    ec_key,
    ed_jwk,
    ed_key,
    jwk_for,
    number,
    oct_jwk,
    problem,
    refusal,
    rsa_jwk,
    rsa_key,
    signed,
    signer,
    token,
    unb64,
)

EXAMPLES = json.loads((Path(__file__).parents[1] / "data/jose_examples.json").read_bytes())
PUBLISHED = [
    pytest.param(e["key"], e["alg"], e["jws"], id=f"{e['section']}, {e['alg']}") for e in EXAMPLES
]


class TestPublishedExamples:
    @pytest.mark.parametrize(("entry", "algorithm", "text"), PUBLISHED)
    def test_verify(self, entry: Jwk, algorithm: str, text: str) -> None:
        """The examples that the RFCs publish with their keys verify, and give their payload."""
        keys = KeySet([entry], algorithms=(algorithm,))

        assert verify_jws(text, keys) == unb64(text.split(".")[1])

    @pytest.mark.parametrize(("entry", "algorithm", "text"), PUBLISHED)
    @pytest.mark.parametrize("place", [0, 1, 2], ids=["header", "payload", "signature"])
    def test_changed(self, entry: Jwk, algorithm: str, text: str, place: int) -> None:
        """With one bit changed in any segment they do not."""
        segments = [bytearray(unb64(s)) for s in text.split(".")]
        segments[place][-2] ^= 1
        changed = ".".join(b64(bytes(s)) for s in segments)

        assert refusal(changed, KeySet([entry], algorithms=(algorithm,)))


class TestCompactSerialization:
    """RFC 7515 sections 2, 3.1, 5.2 and 7.1."""

    @pytest.mark.parametrize("algorithm", EVERY)
    def test_round_trip(self, algorithm: str) -> None:
        """RFC 7515 section 5.2: each algorithm's own signature verifies, another key's does not."""
        keys = KeySet([jwk_for(algorithm)])

        assert verify_jws(token(algorithm), keys) == PAYLOAD
        assert refusal(token(algorithm)[:-8] + "AAAAAAAA", keys)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda t: t.rpartition(".")[0], id="two"),
            pytest.param(lambda t: t + ".x", id="four"),
            pytest.param(lambda t: t + ".", id="four, one empty"),
            pytest.param(lambda t: t + ".x.y", id="five, as an encrypted token"),
            pytest.param(lambda t: "." + t.partition(".")[2], id="no header"),
            pytest.param(lambda t: t.rpartition(".")[0] + ".", id="no signature"),
            pytest.param(lambda t: t + "=", id="padding"),
            pytest.param(lambda t: t.replace(".", "=.", 1), id="padding within"),
            pytest.param(lambda t: t + "+", id="standard alphabet"),
            pytest.param(lambda t: t[:-1] + "/", id="slash"),
            pytest.param(lambda t: t + "~", id="junk"),
            pytest.param(lambda t: t + "\n", id="line break"),
            pytest.param(lambda t: " " + t, id="blank"),
            pytest.param(lambda t: t + "\0", id="NUL"),
            pytest.param(lambda t: t[:-2], id="impossible length"),
            pytest.param(lambda t: t[:-1] + "\xe9", id="latin-1"),
            pytest.param(lambda t: t[:-1] + "\ud800", id="half a surrogate pair"),
            pytest.param(lambda t: t[:-1] + "\uff21", id="full-width letter"),
            pytest.param(lambda t: "", id="empty"),
            pytest.param(lambda t: "..", id="nothing"),
            pytest.param(lambda t: "." * 8000, id="dots"),
            pytest.param(lambda t: "a" * 8193, id="too long"),
            pytest.param(lambda t: None, id="None"),
            pytest.param(lambda t: t.encode(), id="bytes"),
            pytest.param(lambda t: 5, id="a number"),
            pytest.param(lambda t: t.split("."), id="a list"),
        ],
    )
    def test_odd_shapes(self, change: Any) -> None:
        """RFC 7515 section 7.1: a token is three segments of base64url without padding."""
        assert refusal(change(token())) == MALFORMED

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "RS256"])
    def test_stray_bits(self, algorithm: str) -> None:
        """RFC 4648 section 3.5: unused bits are zero, so that a token has one spelling."""
        good = token(algorithm)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        others = [good[:-1] + c for c in alphabet if c != good[-1]]
        same = [t for t in others if unb64(t.split(".")[2]) == unb64(good.split(".")[2])]

        assert [refusal(t, KeySet([jwk_for(algorithm)])) for t in same] == [MALFORMED] * len(same)
        assert len(same) == {"HS256": 3, "HS384": 0, "RS256": 15}[algorithm]

    @pytest.mark.parametrize("place", [0, 1, 2], ids=["header", "payload", "signature"])
    @pytest.mark.parametrize("blank", ["\n", " ", "\t", "\r\n"], ids=repr)
    def test_whitespace(self, place: int, blank: str) -> None:
        """RFC 7515 section 2: no line breaks, white space or other characters in a segment."""
        segments = token().split(".")
        segments[place] = segments[place][:3] + blank + segments[place][3:]

        assert refusal(".".join(segments)) == MALFORMED

    def test_the_longest(self) -> None:
        """A token of 8192 characters is read, one of more is not."""
        room = (8192 - len(signed({"alg": "HS256"}, b""))) * 3 // 4
        texts = [signed({"alg": "HS256"}, b"y" * n) for n in range(room - 4, room + 4)]

        assert {refusal(t) for t in texts if len(t) <= 8192} == {None}
        assert {refusal(t) for t in texts if len(t) > 8192} == {MALFORMED}

    @pytest.mark.parametrize("place", [0, 1, 2], ids=["header", "payload", "signature"])
    def test_swapped(self, place: int) -> None:
        """RFC 7515 section 5.2: a segment of another good token breaks the signature."""
        other = signed({"alg": "HS256", "x": 1}, b"bob").split(".")
        mixed = token().split(".")
        mixed[place] = other[place]

        assert refusal(".".join(mixed)) == UNTRUSTED

    def test_an_empty_payload(self) -> None:
        """RFC 7515 section 2: a payload is any octets, none among them; the claims refuse it."""
        text = signed({"alg": "HS256"}, b"")

        assert verify_jws(text, KeySet.from_secrets([SECRET])) == b""
        with pytest.raises(InvalidToken) as caught:
            parse_object(b"", "payload")
        assert caught.value.code == MALFORMED

    def test_parts(self) -> None:
        """What a token says can be read before a key vouches for it, and the key is told after."""
        keys = KeySet([oct_jwk(kid="one"), oct_jwk(b"x" * 32, kid="two")])
        unverified = parse_jws(token(kid="one", typ="at+jwt"))

        assert unverified.header == {"alg": "HS256", "kid": "one", "typ": "at+jwt"}
        assert (unverified.algorithm, unverified.kid) == ("HS256", "one")
        assert unverified.payload == PAYLOAD
        assert unverified.verify(keys).kid == "one"

    def test_reasons_repeat_nothing(self) -> None:
        """What is logged of a refusal is a sentence of ours: a token cannot write into the log."""
        marked = [
            token(kid="hunter2"),
            signed({"alg": "hunter2"}),
            signed({"alg": "HS256", "hunter2": {}, "crit": ["hunter2"]}),
            signed(b'{"alg":"HS256","hunter2":1,"hunter2":2}'),
            signed(b'{"alg":"hunter2'),
            "hunter2.hunter2.hunter2!",
        ]
        keys = KeySet.from_secrets([b"x" * 32])
        reasons = []
        for text in marked:
            with pytest.raises(InvalidToken) as caught:
                verify_jws(text, keys)
            reasons.append(f"{caught.value.reason}{caught.value}{caught.value.__cause__}")

        assert not [r for r in reasons if "hunter2" in r]


class TestHeader:
    """RFC 7515 section 4."""

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"crit": ["exp"]}, id="crit"),
            pytest.param({"crit": []}, id="empty crit"),
            pytest.param({"crit": None}, id="null crit"),
            pytest.param({"crit": ["b64"], "b64": False}, id="RFC 7797, unencoded payload"),
            pytest.param({"b64": False}, id="b64 false"),
            pytest.param({"b64": True}, id="b64 true"),
            pytest.param({"zip": "DEF"}, id="compressed"),
            pytest.param({"enc": "A128GCM"}, id="encrypted"),
        ],
    )
    def test_demands(self, header: dict[str, Any]) -> None:
        """RFC 7515 section 4.1.11: what is demanded and not understood is refused."""
        assert refusal(token(**header)) == UNTRUSTED

    @pytest.mark.parametrize("kid", [5, [], {}, True, 1.5, None], ids=repr)
    def test_odd_kid(self, kid: object) -> None:
        """RFC 7515 section 4.1.4: a kid is a string."""
        assert refusal(token(kid=kid)) == MALFORMED

    @pytest.mark.parametrize("algorithm", [None, 5, ["HS256"], {"HS256": 1}, True], ids=repr)
    def test_odd_algorithm(self, algorithm: object) -> None:
        """RFC 7515 section 4.1.1: an alg is there, and a string."""
        assert refusal(signed({"alg": algorithm})) == MALFORMED
        assert refusal(signed({})) == MALFORMED

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b'{"alg":"none","alg":"HS256"}', id="alg twice"),
            pytest.param(b'{"alg":"HS256","\\u0061lg":"HS256"}', id="twice, once escaped"),
            pytest.param(b'{"alg":"HS256","x":{"a":1,"a":2}}', id="twice, within"),
            pytest.param(b'{"alg":"HS256","x":[{"a":1,"a":1}]}', id="twice, within a list"),
            pytest.param(b'["HS256"]', id="list"),
            pytest.param(b'"HS256"', id="text"),
            pytest.param(b"null", id="null"),
            pytest.param(b"{}", id="empty"),
            pytest.param(b"{", id="cut off"),
            pytest.param(b'{"alg":"HS256"} x', id="more behind"),
            pytest.param(b'{"alg":"HS256"}{}', id="another behind"),
            pytest.param(b'{"alg":"HS256",}', id="trailing comma"),
            pytest.param(b"{'alg':'HS256'}", id="single quotes"),
            pytest.param(b'{"alg":"HS256","x":NaN}', id="NaN"),
            pytest.param(b'{"alg":"HS256","x":-Infinity}', id="infinity"),
            pytest.param(b'{"alg":"HS256","x":"\n"}', id="control character"),
            pytest.param(b'\xef\xbb\xbf{"alg":"HS256"}', id="byte order mark"),
            pytest.param('{"alg":"HS256"}'.encode("utf-16"), id="UTF-16"),
            pytest.param(b'{"alg":"HS256","x":"\xff"}', id="not UTF-8"),
            pytest.param(b'{"alg":"HS256","x":"\xc0\xaf"}', id="overlong UTF-8"),
            pytest.param(b'{"alg":"HS256","x":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
            pytest.param(b'{"alg":"HS256","x":' + b"[" * 900 + b"]" * 900 + b"}", id="nested"),
            pytest.param(b'{"alg":"HS256","x":' + b"[" * 8 + b"]" * 8 + b"}", id="nested by one"),
            pytest.param(b"[" * 2048, id="brackets"),
            pytest.param(b'{"x":' + b"9" * 2040 + b',"alg":"HS256"}', id="a huge number"),
            pytest.param(b'{"alg":"HS256","x":"' + b"y" * 2048 + b'"}', id="too long"),
        ],
    )
    def test_odd_json(self, header: bytes) -> None:
        """RFC 7515 section 4: a small JSON object in UTF-8 in which no member stands twice."""
        assert refusal(signed(header)) == MALFORMED

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param(b' {\t"alg" :\r\n"HS256" } ', id="blanks between"),
            pytest.param(b'{"\\u0061lg":"HS\\u003256"}', id="escapes"),
            pytest.param(b'{"alg":"HS256","x":"' + b"[{" * 500 + b'"}', id="brackets in text"),
            pytest.param(b'{"alg":"HS256","x":"\\"[[[[[[[[[["}', id="after an escaped quote"),
            pytest.param(b'{"alg":"HS256","x":' + b"[" * 7 + b"]" * 7 + b"}", id="nested"),
            pytest.param(b'{"alg":"HS256","x":[' + b"{}," * 99 + b"{}]}", id="side by side"),
            pytest.param(b'{"alg":"HS256","typ":5,"cty":null,"x":1e999}', id="members ignored"),
        ],
    )
    def test_good_json(self, header: bytes) -> None:
        """RFC 8259: blanks, escapes and brackets within texts are JSON."""
        assert refusal(signed(header)) is None

    @pytest.mark.parametrize("count", [2000, 6000])
    def test_quotes_cost_no_time(self, count: int) -> None:
        """A payload of quotes and brackets is measured in one pass."""
        raw = b"[" * 40 + b'"\\' * count

        with pytest.raises(InvalidToken):
            parse_object(raw, "payload")

    @pytest.mark.parametrize("depth", [31, 32])
    def test_nested_payloads(self, depth: int) -> None:
        """Objects and arrays stand in a payload 32 deep, and no deeper."""
        raw = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        if depth < 32:
            assert "a" in parse_object(raw, "payload")
        else:
            with pytest.raises(InvalidToken, match="payload is nested too deep"):
                parse_object(raw, "payload")


class TestKeys:
    """RFC 7517 section 4."""

    @pytest.mark.parametrize(
        "others",
        [
            pytest.param({"use": "enc"}, id="4.2, for encryption"),
            pytest.param({"use": "SIG"}, id="4.2, in another case"),
            pytest.param({"use": 5}, id="4.2, a number"),
            pytest.param({"use": None}, id="4.2, null"),
            pytest.param({"use": ["sig"]}, id="4.2, a list"),
            pytest.param({"key_ops": ["sign"]}, id="4.3, for signing"),
            pytest.param({"key_ops": []}, id="4.3, for nothing"),
            pytest.param({"key_ops": "verify"}, id="4.3, a text"),
            pytest.param({"key_ops": ["sign, verify"]}, id="4.3, joined"),
            pytest.param({"key_ops": ["verify", "verify"]}, id="4.3, twice"),
            pytest.param({"key_ops": ["verify", 5]}, id="4.3, a number"),
            pytest.param({"key_ops": ["verify", ["verify"]]}, id="4.3, a list in a list"),
            pytest.param({"key_ops": None}, id="4.3, null"),
            pytest.param({"use": "enc", "key_ops": ["verify"]}, id="4.3, contradicts use"),
            pytest.param({"alg": "RSA-OAEP"}, id="4.4, for encryption"),
            pytest.param({"alg": "RS512"}, id="4.4, not listed"),
            pytest.param({"alg": "none"}, id="4.4, none"),
            pytest.param({"alg": "rs256"}, id="4.4, in another case"),
            pytest.param({"alg": ""}, id="4.4, empty"),
        ],
    )
    def test_for_something_else(self, others: dict[str, Any]) -> None:
        """A key whose use, operations or algorithm is not verifying ours is passed over."""
        told: list[str] = []

        keys = KeySet([rsa_jwk(**others)], algorithms=("RS256",), passed_over=told.append)

        assert (len(keys), told) == (0, [])

    @pytest.mark.parametrize(
        "others",
        [
            {"use": "sig"},
            {"key_ops": ["verify"]},
            {"key_ops": ["encrypt", "verify"]},
            {"use": "sig", "key_ops": ["verify"], "alg": "RS256"},
            {"x5t": "?", "x5u": "http://127.0.0.1:9/", "x5c": [5], "new-in-2030": []},
        ],
        ids=repr,
    )
    def test_for_verifying(self, others: dict[str, Any]) -> None:
        """Use and operations that allow verifying do, and unknown members are ignored."""
        assert refusal(token("RS256"), KeySet([rsa_jwk(**others)])) is None

    @pytest.mark.parametrize("kid", [5, None, ["a"], {}], ids=repr)
    def test_odd_kid(self, kid: object) -> None:
        """RFC 7517 section 4.5: a kid is a string."""
        assert problem(rsa_jwk(kid=kid)) == "key 0 has a kid that is no string"

    @pytest.mark.parametrize("algorithm", [5, None, ["RS256"]], ids=repr)
    def test_odd_algorithm(self, algorithm: object) -> None:
        """RFC 7517 section 4.4: an alg is a string."""
        assert problem(rsa_jwk(alg=algorithm)) == "key 0 has an alg that is no string"

    @pytest.mark.parametrize(
        ("entry", "algorithm"),
        [
            (rsa_jwk, "ES256"),
            (rsa_jwk, "HS256"),
            (rsa_jwk, "EdDSA"),
            (ec_jwk, "ES384"),
            (ec_jwk, "RS256"),
            (ed_jwk, "ES256"),
            (oct_jwk, "RS256"),
        ],
    )
    def test_contradictions(self, entry: Callable[..., Jwk], algorithm: str) -> None:
        """RFC 8725 section 3.1: an alg that the key's type or curve cannot serve is a mistake."""
        expected = f"key 'k' names {algorithm}, which a key of its type cannot serve"

        assert problem(entry(alg=algorithm, kid="k")) == expected

    def test_by_kid(self) -> None:
        """RFC 7517 section 4.5: a token that names a key is verified by that key only."""
        one, other = rsa_key(), rsa_key(number=1)
        keys = KeySet([rsa_jwk(one, kid="one"), rsa_jwk(other, kid="other")])

        assert refusal(token("RS256", one, kid="one"), keys) is None
        assert refusal(token("RS256", other, kid="other"), keys) is None
        assert refusal(token("RS256", one, kid="other"), keys) == UNTRUSTED
        assert refusal(token("RS256", one, kid="third"), keys) == UNTRUSTED
        assert refusal(token("RS256", one, kid="ONE"), keys) == UNTRUSTED
        assert refusal(token("RS256", one, kid=""), keys) == UNTRUSTED

    def test_without_kid(self) -> None:
        """A token that names no key is tried with all, and a key without a name serves any."""
        one, other = rsa_key(), rsa_key(number=1)
        keys = KeySet([rsa_jwk(one, kid="one"), rsa_jwk(other)])

        assert refusal(token("RS256", one), keys) is None
        assert refusal(token("RS256", other), keys) is None
        assert refusal(token("RS256", other, kid="whatever"), keys) is None
        assert refusal(token("RS256", other, kid="one"), keys) is None
        assert refusal(token("RS256", one, kid="whatever"), keys) == UNTRUSTED

    def test_two_of_a_name(self) -> None:
        """RFC 7517 section 4.5: keys of different types may share a kid, and each does its own."""
        keys = KeySet([rsa_jwk(kid="k"), ec_jwk(kid="k"), rsa_jwk(rsa_key(number=1), kid="k")])

        assert refusal(token("ES256", kid="k"), keys) is None
        assert refusal(token("RS256", kid="k"), keys) is None
        assert refusal(token("RS256", rsa_key(number=1), kid="k"), keys) is None
        assert [c.kid for c in keys.candidates("RS256", "k")] == ["k", "k"]

    def test_identities(self) -> None:
        """A key has the same identity in each set that holds it, and in no other way."""
        one = KeySet([rsa_jwk(kid="a"), ec_jwk()])
        others = [
            KeySet([ec_jwk(), rsa_jwk(kid="a", use="sig", alg="RS256")]),
            KeySet([rsa_jwk(kid="b")]),
            KeySet([rsa_jwk()]),
            KeySet([rsa_jwk(rsa_key(number=1), kid="a")]),
            KeySet([rsa_jwk(kid="a", alg="RS512")]),
        ]

        assert len(one.ids) == 2
        assert [len(one.ids & other.ids) for other in others] == [2, 0, 0, 0, 0]
        assert one.candidates("ES256", None)[0].id in one.ids
        assert KeySet.from_secrets([SECRET]).ids == KeySet([oct_jwk()]).ids

    def test_keys_are_not_shown(self) -> None:
        """A key that is printed shows neither its material nor its identity."""
        key = KeySet.from_secrets([SECRET]).candidates("HS256", None)[0]

        assert repr(key) == "VerifyingKey(algorithm='HS256', kid=None)"


class TestKeySets:
    """RFC 7517 section 5."""

    def test_other_types_are_passed_over(self) -> None:
        """Keys that verify nothing of ours stand in real key sets: they do no harm."""
        document = {
            "keys": [
                {"kty": "new-in-2030"},
                {"kty": ["RSA"]},
                {"kty": None},
                {},
                {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
                {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
                {"kty": "OKP", "crv": "Ed448", "x": "AAAA"},
                {"kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"},
                {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES", "x": 5},
                rsa_jwk(use="enc"),
                rsa_jwk(alg="RSA1_5"),
                rsa_jwk(kid="ours"),
                ec_jwk(),
                ed_jwk(),
            ],
            "more": {},
        }
        told: list[str] = []

        keys = KeySet.from_document(json.dumps(document), passed_over=told.append)

        assert (len(keys), told) == (3, [])
        for algorithm in ("RS256", "ES256", "EdDSA"):
            assert refusal(token(algorithm), keys) is None

    def test_algorithms_are_a_list_of_the_allowed(self) -> None:
        """A key for another algorithm than those listed is passed over, whatever it says."""
        entries = [rsa_jwk(alg="PS256"), rsa_jwk(), ec_jwk(), ed_jwk()]

        keys = KeySet(entries, algorithms=("ES256", "RS384"))

        assert {a for a in EVERY if keys.candidates(a, None)} == {"ES256", "RS384"}

    def test_defaults(self) -> None:
        """Where nothing is listed, an RSA key is for RS256 and a secret for HS256."""
        assert [a for a in EVERY if KeySet([rsa_jwk()]).candidates(a, None)] == ["RS256"]
        assert [a for a in EVERY if KeySet([oct_jwk()]).candidates(a, None)] == ["HS256"]

    def test_ambiguous_keys(self) -> None:
        """RFC 8725 section 3.1: a key serves one algorithm, so which one must be said."""
        expected = (
            "key 'k' names no alg, and RS256 and PS256 are listed: "
            "list the one it is for, or write it into the key as alg"
        )

        assert problem(rsa_jwk(kid="k"), algorithms=("PS256", "ES256", "RS256")) == expected
        assert "HS256 and HS512" in problem(oct_jwk(), algorithms=("HS256", "HS512"))
        assert len(KeySet([rsa_jwk(alg="PS256")], algorithms=("PS256", "RS256"))) == 1

    @pytest.mark.parametrize("algorithms", [("none",), ("rs256",), ("RS256", "ES521"), "RS256"])
    def test_unknown_algorithms(self, algorithms: Any) -> None:
        """A misspelt algorithm is a mistake of whoever writes the settings."""
        assert "is no algorithm" in problem(rsa_jwk(), algorithms=algorithms)

    @pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"])
    @pytest.mark.parametrize("use", ["sig", "enc"])
    def test_private_keys(self, member: str, use: str) -> None:
        """RFC 7517 section 9.2: a set with a private key is a leak, refused and not repeated."""
        private = rsa_jwk(kid="ours", use=use) | {member: "c2VjcmV0IGV4cG9uZW50"}
        told: list[str] = []

        said = problem(ec_jwk(), private, passed_over=told.append)

        assert said == "key 'ours' is a private key: a verifier needs the public one only"
        assert not told

    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param(oct_jwk(), id="a secret"),
            pytest.param(oct_jwk(use="enc"), id="for encryption"),
            pytest.param(oct_jwk(alg="A128KW"), id="for another algorithm"),
            pytest.param({"kty": "oct"}, id="an empty one"),
            pytest.param({"kty": "new", "k": "AAAA"}, id="of another type"),
        ],
    )
    @pytest.mark.parametrize("public", [rsa_jwk, ec_jwk, ed_jwk, partial(rsa_jwk, use="enc")])
    def test_mixed_sets(self, secret: Jwk, public: Callable[..., Jwk]) -> None:
        """RFC 8725 section 2.1: a secret among public keys is published: nothing is trusted."""
        said = problem(public(), secret, passed_over=print)

        assert said == "mixes secrets with public keys: whoever reads it can sign"

    def test_symmetric_sets(self) -> None:
        """A set says whether whoever holds it can sign."""
        assert KeySet([oct_jwk()]).is_symmetric
        assert KeySet.from_secrets([SECRET]).is_symmetric
        assert not KeySet([rsa_jwk(), ec_jwk()]).is_symmetric
        assert not KeySet([]).is_symmetric

    def test_weak_keys_can_be_left_out(self) -> None:
        """A fetched set's weak key is told, and the others stay good."""
        told: list[str] = []
        weak = [rsa_jwk(rsa_key(1024), kid="old"), ec_jwk() | {"x": "AAAA"}]

        keys = KeySet([*weak, rsa_jwk()], passed_over=told.append)

        assert len(keys) == 1
        assert told == [
            "key 'old' has 1024 bits; RFC 7518 demands 2048",
            "key 1 has a member x that is not 32 bytes",
        ]

    def test_names_are_cut(self) -> None:
        """A name that the issuer chose is cut and quoted before it is told."""
        said = problem(rsa_jwk(rsa_key(1024), kid="\n\x1b" + "x" * 9999))

        assert said.startswith("key '\\n\\x1bxxx")
        assert len(said) < 150

    @pytest.mark.parametrize("entry", [None, 5, "text", ["kty"]], ids=repr)
    def test_entries_that_are_no_objects(self, entry: Any) -> None:
        """Each key is a JSON object."""
        assert problem(rsa_jwk(), entry) == "key 1 is no JSON object"

    def test_bounded(self) -> None:
        """A set has at most 100 keys, whatever they are for."""
        assert len(KeySet([ec_jwk()] * 100)) == 100
        assert problem(*[{}] * 101) == "has more than 100 keys"

    @pytest.mark.parametrize(
        "document",
        [
            *(b"", b"{", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"keys":[]} x'),
            *(b'{"keys":{}}', b'{"keys":[null]}', b'{"keys":["text"]}', b'{"keys":null}'),
            *(b'{"keys":[]}', b'{"keys":[{}]}', b'{"keys":[],"keys":[{}]}', "\ud800", "{"),
            *(b'{"keys":[{"kty":"RSA","kty":"oct"}]}', b'{"keys":[' + b"{}," * 90_000 + b"{}]}"),
            *(b'{"keys":[' + b"[" * 20 + b"]" * 20 + b"]}", b'\xef\xbb\xbf{"keys":[]}'),
        ],
        ids=lambda d: repr(d[:24]),
    )
    def test_unreadable_documents(self, document: bytes | str) -> None:
        """A document that is no key set, or ambiguous, deep or huge, is told as a ValueError."""
        with pytest.raises(ValueError, match=r"JSON|object|no key that verifies|nested|longer"):
            KeySet.from_document(document)

    def test_which_key_was_missing(self) -> None:
        """A document without a key for the algorithms listed names them."""
        document = json.dumps({"keys": [rsa_jwk()]})

        with pytest.raises(ValueError, match="has no key that verifies ES256, EdDSA"):
            KeySet.from_document(document, algorithms=("ES256", "EdDSA"))


class TestAlgorithms:
    """RFC 7518 sections 3 and 6."""

    @pytest.mark.parametrize("algorithm", jwa.HMAC)
    def test_short_secrets(self, algorithm: str) -> None:
        """RFC 7518 section 3.2: a secret is as long as the hash, or longer."""
        least = int(algorithm[2:]) // 8
        expected = f"must be a secret of at least {least} bytes for {algorithm}"

        assert problem(oct_jwk(b"x" * (least - 1), alg=algorithm)) == f"key 0 {expected}"
        assert problem(oct_jwk(b"", alg=algorithm)) == f"key 0 {expected}"
        assert len(KeySet([oct_jwk(b"x" * least, alg=algorithm)])) == 1
        with pytest.raises(ValueError, match=f"secret 1 {expected}"):
            KeySet.from_secrets([b"x" * least, b"x" * (least - 1)], algorithm=algorithm)

    @pytest.mark.parametrize("algorithm", ["RS256", "PS256", None])
    def test_small_moduli(self, algorithm: str | None) -> None:
        """RFC 7518 sections 3.3 and 3.5: an RSA key has 2048 bits or more."""
        named = {"alg": algorithm} if algorithm else {}
        said = problem(rsa_jwk(rsa_key(1024), **named))

        assert said == "key 0 has 1024 bits; RFC 7518 demands 2048"

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            pytest.param({"n": number(2**2047 - 1)}, "has 2047 bits", id="2047 bits"),
            pytest.param({"n": number(2**16384 + 1)}, "has 16385 bits", id="16385 bits"),
            pytest.param({"n": number(2**2048 - 2)}, "even modulus", id="even modulus"),
            pytest.param({"e": "AQ"}, "exponent", id="exponent of 1"),
            pytest.param({"e": "Ag"}, "exponent", id="exponent of 2"),
            pytest.param({"e": "AQAA"}, "exponent", id="even exponent"),
            pytest.param({"e": number(2**256 + 1)}, "or above 256 bits", id="exponent of 257 bits"),
            pytest.param({"e": ""}, "empty", id="empty exponent"),
            pytest.param({"e": "AA"}, "zeros", id="exponent of 0"),
            pytest.param({"e": "AAEAAQ"}, "zeros", id="leading zeros in e"),
            pytest.param({"n": ""}, "empty", id="empty modulus"),
            pytest.param({"n": None}, "no member n", id="null"),
            pytest.param({"n": 5}, "no member n", id="a number"),
            pytest.param({"n": []}, "no member n", id="a list"),
            pytest.param({"n": "\xe9"}, "not base64url", id="latin-1"),
            pytest.param({"n": "\ud800"}, "not base64url", id="half a surrogate pair"),
            pytest.param({"e": "AQAB="}, "not base64url", id="padding"),
            pytest.param({"e": "AQAB\n"}, "not base64url", id="line break"),
            pytest.param({"e": "AQ AB"}, "not base64url", id="blank"),
            pytest.param({"e": "Aw+/"}, "not base64url", id="standard alphabet"),
            pytest.param({"e": "AR"}, "not base64url", id="stray bits"),
            pytest.param({"e": "AQABA"}, "not base64url", id="impossible length"),
        ],
    )
    def test_odd_rsa_keys(self, entry: Jwk, said: str) -> None:
        """RFC 7518 section 6.3.1: a modulus and an exponent of a sound size in one spelling."""
        assert said in problem(rsa_jwk() | entry)

    def test_leading_zeros(self) -> None:
        """RFC 7518 section 2: a Base64urlUInt has the fewest octets."""
        padded = b64(b"\0" + unb64(rsa_jwk()["n"]))

        assert "begins with zeros" in problem(rsa_jwk() | {"n": padded})

    @pytest.mark.parametrize("missing", ["n", "e"])
    def test_missing_rsa_members(self, missing: str) -> None:
        """RFC 7518 section 6.3.1: both are required."""
        entry = {m: v for m, v in rsa_jwk().items() if m != missing}

        assert problem(entry) == f"key 0 has no member {missing} that is a string"

    @pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
    @pytest.mark.parametrize("change", ["off", "zero", "infinite", "short", "long", "other curve"])
    def test_odd_points(self, algorithm: str, change: str) -> None:
        """RFC 7518 section 6.2.1: both coordinates, full length, of a point on the curve."""
        entry = ec_jwk(algorithm)
        octets = len(unb64(entry["x"]))
        prime = {32: 2**256 - 2**224 + 2**192 + 2**96 - 1, 48: 2**384 - 1, 66: 2**521 - 1}[octets]
        changes = {
            "off": {"y": entry["x"]},
            "zero": {"x": number(0, octets), "y": number(0, octets)},
            "infinite": {"x": number(prime, octets)},
            "short": {"x": b64(unb64(entry["x"])[1:])},
            "long": {"x": b64(b"\0" + unb64(entry["x"]))},
            "other curve": {"crv": "P-384" if algorithm != "ES384" else "P-256"},
        }

        assert problem(entry | changes[change]) in (
            "key 0 is no point of its curve",
            f"key 0 has a member x that is not {octets} bytes",
            "key 0 has a member x that is not 32 bytes",
            "key 0 has a member x that is not 48 bytes",
        )

    @pytest.mark.parametrize("missing", ["x", "y", "crv"])
    def test_missing_ec_members(self, missing: str) -> None:
        """RFC 7518 section 6.2.1: each is required."""
        entry = {m: v for m, v in ec_jwk().items() if m != missing}

        assert problem(entry).startswith(f"key 0 has no {'crv' if missing == 'crv' else 'member'}")

    @pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
    def test_der_signatures(self, algorithm: str) -> None:
        """RFC 7518 section 3.4: a signature is two numbers side by side, never DER."""
        sign = partial(ec_key(algorithm).sign, signature_algorithm=ec.ECDSA(digest(algorithm)))

        text = signed({"alg": algorithm}, sign=sign)

        assert refusal(text, KeySet([ec_jwk(algorithm)])) == UNTRUSTED

    @pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
    def test_shortened_signatures(self, algorithm: str) -> None:
        """RFC 8017 section 8: a signature that begins with a zero is not one without it."""
        texts = (
            signed({"alg": algorithm}, str(n).encode(), signer(algorithm)) for n in range(9999)
        )
        text = next(t for t in texts if unb64(t.split(".")[2])[0] == 0)
        head, _, signature = text.rpartition(".")
        keys = KeySet([rsa_jwk(alg=algorithm)])

        assert refusal(text, keys) is None
        assert refusal(f"{head}.{b64(unb64(signature)[1:])}", keys) == UNTRUSTED
        assert refusal(f"{head}.{b64(bytes(1) + unb64(signature))}", keys) == UNTRUSTED

    @pytest.mark.parametrize("own", EVERY)
    def test_own_algorithm_only(self, own: str) -> None:
        """RFC 8725 section 3.1: a key verifies the one algorithm it is for, and no other."""
        keys = KeySet([jwk_for(own)])
        kind = {"H": jwa.HMAC, "R": jwa.RSA, "P": jwa.RSA}.get(own[0], (own,))
        claimed = [refusal(signed({"alg": a}, sign=signer(own)), keys) for a in EVERY if a != own]
        family = [refusal(token(a), keys) for a in kind if a != own]

        assert set(claimed) == {UNTRUSTED}
        assert set(family) <= {UNTRUSTED}

    def test_keys_that_break(self) -> None:
        """A key whose verification raises has verified nothing."""
        keys = KeySet([])
        keys._hold([VerifyingKey("HS256", None, UnfinishedKey(None, None), b"")])

        assert refusal(token(), keys) == UNTRUSTED

    def test_the_registry_is_left_alone(self) -> None:
        """Algorithms that python-jose lacks are not registered with it: a process has one list."""
        assert KeySet([rsa_jwk(alg="PS256"), ed_jwk()])

        assert ALGORITHMS.KEYS == {}
        assert not {"PS256", "EdDSA"} & ALGORITHMS.SUPPORTED

    def test_a_foreign_registry_is_not_obeyed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key class that something else registered verifies none of our tokens."""
        monkeypatch.setitem(ALGORITHMS.KEYS, "RS256", object)

        assert refusal(token("RS256"), KeySet([rsa_jwk()])) is None

    @pytest.mark.parametrize("algorithm", ["PS256", "EdDSA"])
    def test_keys_are_bound(self, algorithm: str) -> None:
        """Our keys for python-jose refuse an algorithm that is not theirs."""
        key = KeySet([jwk_for(algorithm)]).candidates(algorithm, None)[0].key

        with pytest.raises(Exception, match="is no"):
            type(key)(key.prepared_key, "RS256")


class TestEdwards:
    """RFC 8037 and RFC 8032 section 5.1."""

    P = 2**255 - 19
    SMALL = (
        pytest.param("01" + "00" * 31, id="order 1"),
        pytest.param("ec" + "ff" * 30 + "7f", id="order 2"),
        pytest.param("00" * 32, id="order 4"),
        pytest.param("00" * 31 + "80", id="order 4, negative"),
        pytest.param(
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", id="order 8"
        ),
        pytest.param(
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", id="order 8, other"
        ),
        pytest.param("ed" + "ff" * 30 + "7f", id="zero, not reduced"),
        pytest.param("ee" + "ff" * 30 + "7f", id="one, not reduced"),
        pytest.param("01" + "00" * 30 + "80", id="negative zero"),
        pytest.param("02" + "00" * 31, id="off the curve"),
    )

    @pytest.mark.parametrize("encoded", SMALL)
    def test_points(self, encoded: str) -> None:
        """RFC 8725 section 3.4: a point of small order, or none, is no key."""
        said = problem(ed_jwk() | {"x": b64(bytes.fromhex(encoded))})

        assert said == "key 0 is no point of its curve, or one of small order"

    def test_points_are_reduced(self) -> None:
        """RFC 8032 section 5.1.3: a coordinate is below the prime, so that a key has one name."""
        small = [y for y in range(2, 19) if is_sound(y.to_bytes(32, "little"))]

        assert small
        assert not any(is_sound((y + self.P).to_bytes(32, "little")) for y in small)

    def test_sound_points(self) -> None:
        """Each real key is a sound point."""
        keys = [ed25519.Ed25519PrivateKey.generate().public_key() for _ in range(50)]

        assert all(is_sound(k.public_bytes(Encoding.Raw, PublicFormat.Raw)) for k in keys)

    def test_a_small_point_would_sign_anything(self) -> None:
        """Why they are refused: with the point of order 1 one signature fits every message."""
        one = bytes([1]) + bytes(31)
        key = ed25519.Ed25519PublicKey.from_public_bytes(one)

        key.verify(one + bytes(32), b"anything")

    @pytest.mark.parametrize("octets", [0, 31, 33, 57, 64])
    def test_lengths(self, octets: int) -> None:
        """RFC 8037 section 2: x is the whole public key."""
        entry = ed_jwk() | {"x": b64(b"\x05" * octets)}

        assert problem(entry) == "key 0 has a member x that is not 32 bytes"

    def test_s_is_reduced(self) -> None:
        """RFC 8032 section 5.1.7: S is below the order, so that a token has one spelling."""
        head, _, text = token("EdDSA").rpartition(".")
        raw = unb64(text)
        order = 2**252 + 27742317777372353535851937790883648493
        more = (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")

        assert refusal(f"{head}.{text}", KeySet([ed_jwk()])) is None
        assert refusal(f"{head}.{b64(raw[:32] + more)}", KeySet([ed_jwk()])) == UNTRUSTED

    @pytest.mark.parametrize("octets", [1, 63, 65, 114])
    def test_signature_lengths(self, octets: int) -> None:
        """RFC 8037 section 3.1: a signature of Ed25519 has 64 bytes."""
        text = signed({"alg": "EdDSA"}, sign=lambda m: (ed_key().sign(m) * 2)[:octets])

        assert refusal(text, KeySet([ed_jwk()])) == UNTRUSTED

    def test_ed448(self) -> None:
        """EdDSA stands for two curves; a key of Ed448 is passed over."""
        raw = ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw()

        assert len(KeySet([{"kty": "OKP", "crv": "Ed448", "x": b64(raw), "alg": "EdDSA"}])) == 0


class TestBestPractices:
    """RFC 8725 sections 2 and 3."""

    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "dir", "A128KW"]
    )
    @pytest.mark.parametrize("signature", [b"", b"\0", SECRET])
    def test_none(self, algorithm: str, signature: bytes) -> None:
        """RFC 8725 section 3.2: none never verifies, however it is spelt and whatever is behind."""
        text = signed({"alg": algorithm}, sign=lambda _: signature)

        assert refusal(text, KeySet([])) in (MALFORMED, UNTRUSTED)
        assert refusal(text) == (UNTRUSTED if signature else MALFORMED)

    @pytest.mark.parametrize("algorithm", jwa.HMAC)
    @pytest.mark.parametrize("own", ["RS256", "PS256", "ES256", "EdDSA"])
    def test_a_public_key_is_no_secret(self, algorithm: str, own: str) -> None:
        """RFC 8725 section 2.1: HMAC with a public key, in any spelling of it, as the secret."""
        entry = jwk_for(own, kid="k")
        key: Any = {"E": ec_key("ES256"), "R": rsa_key(), "P": rsa_key()}[own[0]]
        key = (ed_key() if own == "EdDSA" else key).public_key()
        pem, der = (
            key.public_bytes(e, PublicFormat.SubjectPublicKeyInfo)
            for e in (Encoding.PEM, Encoding.DER)
        )
        spellings = [pem, pem.strip(), der, json.dumps(entry).encode(), b"", bytes(32)]
        spellings += [unb64(entry[m]) for m in ("n", "x") if m in entry]

        forged = [token(algorithm, s, kid="k") for s in spellings]

        assert {refusal(t, KeySet([entry])) for t in forged} == {UNTRUSTED}

    @pytest.mark.parametrize(
        "brought",
        [
            pytest.param({"jwk": rsa_jwk}, id="jwk"),
            pytest.param({"jku": "http://127.0.0.1:9/keys.json"}, id="jku"),
            pytest.param({"x5u": "http://127.0.0.1:9/cert.pem"}, id="x5u"),
            pytest.param({"x5c": ["AAAA"], "x5t": "AAAA", "x5t#S256": 5}, id="x5c"),
        ],
    )
    def test_keys_in_the_header(self, brought: dict[str, Any]) -> None:
        """RFC 8725 section 3.10: keys that a token brings or points to are ignored."""
        key = rsa_key(number=1)
        header = {m: rsa_jwk(key) if callable(v) else v for m, v in brought.items()}

        assert refusal(token("RS256", key, **header), KeySet([rsa_jwk()])) == UNTRUSTED
        assert refusal(token("RS256", **header), KeySet([rsa_jwk()])) is None

    @pytest.mark.parametrize(
        "kid", ["", "../../dev/null", "' OR 1=1 --", "x" * 1000, "\x00", "\ud800"], ids=ascii
    )
    def test_hostile_kid(self, kid: str) -> None:
        """RFC 8725 section 3.10: a kid only chooses among keys; a secret without one serves any."""
        assert refusal(token(kid=kid)) is None

    @pytest.mark.parametrize("secret", [b"", b"\0", b"secret", b"x" * 64])
    def test_guessable_secrets(self, secret: bytes) -> None:
        """RFC 8725 section 3.5: a signature of another secret is refused, the empty one's too."""
        text = signed({"alg": "HS256"}, sign=lambda m: hmac.digest(secret, m, "sha256"))

        assert refusal(text) == UNTRUSTED

    def test_a_cube_root_is_no_signature(self) -> None:
        """RFC 8725 section 3.3: with an exponent of 3, padding not checked to its end is forged."""
        key = rsa_key(exponent=3)
        message = signed({"alg": "RS256"}).rpartition(".")[0].encode()
        info = digest_info(hashlib.sha256(message).digest())
        wanted = int.from_bytes(b"\0\1" + b"\xff" * 8 + b"\0" + info + b"\xff" * 194)
        root = cube_root(wanted)
        assert (root**3).to_bytes(256).startswith(b"\0\1" + b"\xff" * 8 + b"\0" + info)

        keys = KeySet([rsa_jwk(key)])

        assert refusal(token("RS256", key), keys) is None
        assert refusal(f"{message.decode()}.{number(root, 256)}", keys) == UNTRUSTED


class TestSecrets:
    def test_rotation(self) -> None:
        """Secrets are given from oldest to newest, and the newest is tried first."""
        old, new = b"o" * 32, b"n" * 32
        keys = KeySet.from_secrets([old, new])
        newest = KeySet.from_secrets([new])

        assert refusal(token("HS256", old), keys) is None
        assert refusal(token("HS256", new), keys) is None
        assert keys.candidates("HS256", "any")[0].id in newest.ids
        assert len(keys) == 2

    @pytest.mark.parametrize("algorithm", ["none", "RS256", "", "hs256", "EdDSA"])
    def test_other_algorithms(self, algorithm: str) -> None:
        """Only HMAC takes a secret."""
        with pytest.raises(ValueError, match=f"is a secret, which {algorithm} does not take"):
            KeySet.from_secrets([SECRET], algorithm=algorithm)

    def test_none(self) -> None:
        """A set of no secrets is a mistake."""
        with pytest.raises(ValueError, match="must be 1 to 100 secrets"):
            KeySet.from_secrets([])

    @pytest.mark.parametrize(
        "kind", ["PEM", "PEM, indented", "old PEM", "certificate", "DER", "SSH", "JWK", "JWK Set"]
    )
    def test_key_files(self, kind: str) -> None:
        """RFC 8725 section 2.1: a public key that is taken for a secret is recognized."""
        public = rsa_key().public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files = {
            "PEM": pem,
            "PEM, indented": b"\n  " + pem,
            "old PEM": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
            "certificate": certificate(rsa_key()),
            "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "SSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "JWK": json.dumps(rsa_jwk(), indent=1).encode(),
            "JWK Set": b" " + json.dumps({"keys": [oct_jwk()]}).encode(),
        }

        with pytest.raises(ValueError, match="secret 0 is a key file, not a secret"):
            KeySet.from_secrets([files[kind]])
        assert problem(oct_jwk(files[kind])) == "key 0 is a key file, not a secret"

    def test_secrets_are_not_repeated(self) -> None:
        """What is told of a refused secret does not hold it."""
        assert "hunter2" not in problem(oct_jwk(b"hunter2"))
        assert b64(b"hunter2") not in problem(oct_jwk(b"hunter2"))


@cache
def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    then = datetime.datetime(2020, 1, 1)  # noqa: DTZ001
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, then, then)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pem_of(key: Any, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, form))


class TestPem:
    """RFC 7468."""

    def test_several(self) -> None:
        """Public keys of each type and a certificate stand in one file, with words between."""
        pem = b"# the issuer's keys\n".join(
            [
                b"",
                pem_of(rsa_key(number=1), PublicFormat.PKCS1),
                certificate(rsa_key()),
                *(pem_of(ec_key(a)) for a in ("ES256", "ES384", "ES512")),
                pem_of(ed_key()),
            ]
        )

        keys = KeySet.from_pem(pem.decode())

        assert len(keys) == 6
        for algorithm in ("RS256", "ES256", "ES384", "ES512", "EdDSA"):
            assert refusal(token(algorithm, kid="any"), keys) is None
        assert refusal(token("RS256", rsa_key(number=1)), keys) is None

    def test_one_key_in_two_files(self) -> None:
        """A key is the same key in PEM, in a certificate and in a JWK Set."""
        sets = [
            KeySet.from_pem(pem_of(rsa_key())),
            KeySet.from_pem(certificate(rsa_key())),
            KeySet([rsa_jwk()]),
        ]

        assert len({s.ids for s in sets}) == 1

    def test_algorithms(self) -> None:
        """What is listed decides what an RSA key is for."""
        keys = KeySet.from_pem(pem_of(rsa_key()), algorithms=("PS512", "ES256"))

        assert refusal(token("PS512"), keys) is None
        assert refusal(token("RS256"), keys) == UNTRUSTED

    @pytest.mark.parametrize(
        ("pem", "said"),
        [
            pytest.param(lambda: b"", "must hold blocks", id="empty"),
            pytest.param(lambda: b"junk", "must hold blocks", id="junk"),
            pytest.param(lambda: pem_of(rsa_key())[:-30], "must hold blocks", id="cut off"),
            pytest.param(
                lambda: pem_of(rsa_key()) + pem_of(ec_key("ES256"))[:-20],
                "must hold blocks",
                id="half",
            ),
            pytest.param(
                lambda: pem_of(rsa_key()).replace(b"END PUBLIC", b"END RSA PUBLIC"),
                "must hold blocks",
                id="two labels",
            ),
            pytest.param(
                lambda: pem_of(rsa_key()).replace(b"PUBLIC KEY", b"CRL"), "CRL", id="other label"
            ),
            pytest.param(
                lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "key 0 cannot be read as a PUBLIC KEY",
                id="no DER",
            ),
            pytest.param(
                lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "key 0 cannot be read as a CERTIFICATE",
                id="no certificate",
            ),
            pytest.param(lambda: pem_of(rsa_key(1024)), "key 0 has 1024 bits", id="small"),
            pytest.param(
                lambda: pem_of(dsa.generate_private_key(1024)), "key 0 is of a type", id="DSA"
            ),
            pytest.param(
                lambda: pem_of(x25519.X25519PrivateKey.generate()),
                "key 0 is of a type",
                id="X25519",
            ),
            pytest.param(
                lambda: pem_of(ec.generate_private_key(ec.SECP256K1())),
                "key 0 is of a type or curve",
                id="another curve",
            ),
            pytest.param(lambda: b"x" * 300_000, "is longer", id="huge"),
        ],
    )
    def test_refused(self, pem: Callable[[], bytes], said: str) -> None:
        """What is no list of public keys is told."""
        with pytest.raises(ValueError, match=said):
            KeySet.from_pem(pem())

    @pytest.mark.parametrize(
        "form",
        [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH],
        ids=["PKCS #8", "PKCS #1", "OpenSSH"],
    )
    def test_private_keys(self, form: PrivateFormat) -> None:
        """A private key in a verifier's file is a leak, also behind a public one."""
        private = rsa_key().private_bytes(Encoding.PEM, form, NoEncryption())

        with pytest.raises(ValueError, match="holds a private key: a verifier needs the public"):
            KeySet.from_pem(pem_of(ec_key("ES256")) + private, passed_over=print)

    def test_left_out(self) -> None:
        """A weak key in a list is told, and left out where the caller listens."""
        told: list[str] = []
        pem = (
            pem_of(dsa.generate_private_key(1024)) + pem_of(rsa_key(1024)) + pem_of(ec_key("ES256"))
        )

        keys = KeySet.from_pem(pem, passed_over=told.append)

        assert len(keys) == 1
        assert [t[:9] for t in told] == ["key 0 is ", "key 1 has"]

    def test_none_usable(self) -> None:
        """A file without a key for the algorithms listed says so."""
        with pytest.raises(ValueError, match="has no key that verifies EdDSA"):
            KeySet.from_pem(pem_of(rsa_key()), algorithms=("EdDSA",))


@cache
def good(algorithm: str) -> tuple[str, KeySet]:
    return token(algorithm, kid="k"), KeySet([jwk_for(algorithm, kid="k")])


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(["kty", "alg", "use", "key_ops", "kid", "n", "e", "crv", "x", "y", "k"])


class TestAnything:
    @pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "ES256", "EdDSA"])
    @examples(max_examples=150, deadline=None)
    @given(st.data())
    def test_one_character(self, algorithm: str, data: st.DataObject) -> None:
        """A token with any one character changed, left out or put in never verifies."""
        text, keys = good(algorithm)
        place = data.draw(st.integers(0, len(text) - 1))
        alphabet = st.sampled_from("ABCDwxyz0189-_.=+/ \n") | st.characters()
        instead = data.draw(st.one_of(alphabet, st.just(""), alphabet.map(text[place].__add__)))
        changed = text[:place] + instead + text[place + 1 :]

        assert changed == text or refusal(changed, keys) in (MALFORMED, UNTRUSTED)

    @examples(max_examples=150, deadline=None)
    @given(st.text() | st.from_regex(r"[\w.=-]*", fullmatch=True) | st.binary() | st.none())
    def test_any_text(self, text: Any) -> None:
        """Whatever is given, it is refused as an InvalidToken."""
        assert refusal(text) == MALFORMED

    @examples(max_examples=150, deadline=None)
    @given(st.binary(max_size=60) | JSONS.map(lambda j: json.dumps(j).encode()), st.binary())
    def test_any_segments(self, header: bytes, signature: bytes) -> None:
        """Whatever stands in the segments, it is refused as an InvalidToken."""
        text = signed(header, sign=lambda _: signature)

        assert refusal(text) in (MALFORMED, UNTRUSTED)

    @examples(max_examples=150, deadline=None)
    @given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "zip", "x"]), JSONS))
    def test_any_signed_header(self, header: dict[str, Any]) -> None:
        """Whatever stands in a header, its token is trusted or refused."""
        assert refusal(signed({"alg": "HS256"} | header)) in (MALFORMED, UNTRUSTED, None)

    @examples(max_examples=200, deadline=None)
    @given(
        st.sampled_from([rsa_jwk, ec_jwk, ed_jwk, oct_jwk, dict]),
        st.dictionaries(MEMBERS | st.text(), JSONS | st.text("AQgw-_", max_size=8), max_size=3),
    )
    def test_any_key(self, make: Callable[[], Jwk], others: dict[str, Any]) -> None:
        """Whatever stands in a key, it is held, passed over or refused as a ValueError."""
        try:
            keys = KeySet([make() | others])
        except ValueError:
            return
        assert len(keys) <= 1

    @examples(max_examples=100, deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=200) | JSONS.map(json.dumps))
    def test_any_document(self, document: str | bytes) -> None:
        """Whatever stands in a document, it is refused as a ValueError."""
        for read in (KeySet.from_document, KeySet.from_pem):
            with pytest.raises(ValueError):
                read(document)
