"""Are the classes of Google's Wycheproof vectors for JSON web signatures told apart?

The vectors are made here, with keys of our own; each has the name of its class there.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from mlguard.auth import algorithms as jwa
from mlguard.auth.jws import verify_jws
from mlguard.auth.keys import KeySet
from tests.jose import (
    EVERY,
    MALFORMED,
    UNTRUSTED,
    Change,
    Jwk,
    Signer,
    b64,
    digest_info,
    ec_jwk,
    ec_key,
    jwk_for,
    oct_jwk,
    raw_ecdsa,
    raw_rsa,
    refusal,
    rsa_jwk,
    rsa_key,
    signed,
    signer,
    tlv,
    token,
    unb64,
)


def length_of(*length: int) -> Change:
    """Write other bytes where an element has its length."""
    return lambda e: e[:1] + bytes(length) + e[2:]


def value_of(change: Change) -> Change:
    return lambda e: tlv(e[0], change(e[2:]))


GARBAGE = bytes.fromhex("498177")
UNDEFINED = bytes.fromhex("aa00bb00cd00")
CHANGES: dict[str, Change] = {
    "lengthUsesLongFormEncoding": lambda e: e[:1] + bytes([0x81, e[1]]) + e[2:],
    "lengthContainsALeading0": lambda e: e[:1] + bytes([0x82, 0, e[1]]) + e[2:],
    "lengthUsesOneMore": lambda e: e[:1] + bytes([e[1] + 1]) + e[2:],
    "lengthUsesOneLess": lambda e: e[:1] + bytes([(e[1] - 1) % 256]) + e[2:],
    "uint32OverflowInLength": lambda e: e[:1] + bytes([0x85, 1, 0, 0, 0, e[1]]) + e[2:],
    "uint64OverflowInLength": lambda e: e[:1] + bytes([0x89, 1, *[0] * 7, e[1]]) + e[2:],
    "lengthIs2to31sub1": length_of(0x84, 0x7F, 0xFF, 0xFF, 0xFF),
    "lengthIs2to31": length_of(0x84, 0x80, 0, 0, 0),
    "lengthIs2to32sub1": length_of(0x84, *[0xFF] * 4),
    "lengthIs2to40sub1": length_of(0x85, *[0xFF] * 5),
    "lengthIs2to64sub1": length_of(0x88, *[0xFF] * 8),
    "incorrectLength": length_of(0xFF),
    "truncatedLength": length_of(0x81),
    "replacedByAnIndefiniteLengthTagWithoutTermination": length_of(0x80),
    "removing": lambda e: b"",
    "lonelyTag": lambda e: e[:1],
    "appending0s": value_of(lambda v: v + bytes(2)),
    "prepending0s": value_of(lambda v: bytes(2) + v),
    "appendingUnused0s": lambda e: e + bytes(2),
    "appendingNullValue": value_of(lambda v: v + b"\5\0"),
    "prependingGarbage": value_of(lambda v: GARBAGE + v),
    "prependingGarbageWithoutLength": lambda e: GARBAGE + e,
    "appendingGarbage": value_of(lambda v: v + GARBAGE),
    "includingUndefinedTags": lambda e: UNDEFINED + e,
    "includingUndefinedTagsWithin": value_of(lambda v: UNDEFINED + v),
    "usingCompositionWithIndefiniteLength": lambda e: bytes([e[0] | 0x20, 0x80]) + e + bytes(2),
    "usingCompositionWithWrongTag": lambda e: bytes([e[0] | 0x20, len(e)]) + b"\0" + e[1:],
    "usingComposition": lambda e: tlv(e[0] | 0x20, tlv(e[0], e[2:3]) + tlv(e[0], e[3:])),
    "replacingWithNull": lambda e: b"\5\0",
    "changingTagValue1": lambda e: bytes([e[0] ^ 1]) + e[1:],
    "changingTagValue2": lambda e: bytes([e[0] ^ 8]) + e[1:],
    "changingTagValue3": lambda e: bytes([e[0] ^ 0x40]) + e[1:],
    "changingTagValue4": lambda e: bytes([e[0] ^ 0x80]) + e[1:],
    "changingTagValue5": lambda e: b"\xff" + e[1:],
    "droppingValue": value_of(lambda v: b""),
    "truncated": value_of(lambda v: v[:-1]),
    "truncatedAtTheFront": value_of(lambda v: v[1:]),
    "modifyingFirstByte": value_of(lambda v: bytes(b ^ (i == 0) for i, b in enumerate(v))),
    "modifyingLastByte": value_of(lambda v: bytes(b ^ (i == len(v) - 1) for i, b in enumerate(v))),
    "indefiniteLength": lambda e: e[:1] + b"\x80" + e[2:] + bytes(2),
    "indefiniteLengthWithTruncatedDelimiter": lambda e: e[:1] + b"\x80" + e[2:] + b"\0",
    "indefiniteLengthWithAdditionalElement": lambda e: e[:1] + b"\x80" + e[2:] + b"\5\0\0\0",
    "indefiniteLengthWithTruncatedElement": lambda e: e[:1] + b"\x80" + e[2:] + b"\6\x81\0\0",
    "indefiniteLengthWithGarbage": lambda e: e[:1] + b"\x80" + e[2:] + bytes(2) + b"\x80",
    "indefiniteLengthWithNonemptyEOC": lambda e: e[:1] + b"\x80" + e[2:] + b"\0\1\2",
    "prependEmptySequence": lambda e: b"\x30\0" + e,
    "appendEmptySequence": lambda e: e + b"\x30\0",
    "appendZero": lambda e: e + b"\0",
    "appendGarbageWithHighTagNumber": lambda e: e + bytes.fromhex("bf7f00"),
    "appendNullWithExplicitTag": lambda e: e + bytes.fromhex("a0020500"),
    "appendNullWithImplicitTag": lambda e: e + bytes.fromhex("a000"),
    "sequenceOf": lambda e: tlv(0x30, e),
    "repeatingElement": lambda e: e + e,
}
OIDS = {
    "wrongOidOfSha1": "2b0e03021a",
    "wrongOidOfSha512": "608648016503040203",
    "longerOid": "60864801650304020101",
    "shorterOid": "6086480165030402",
    "oidWithModifiedNode": "608648016503040211",
    "largeIntegerInOid": "6086480165030482808080808080808001",
    "oidWithInvalidNode": "6086480165030402e1",
    "oidWithLeading80": "60864801650304028001",
}
CHANGED_INFO = {
    f"{name}Of{element}": (element, change)
    for element, (name, change) in product(
        ("Sequence", "Algorithm", "Oid", "Null", "OctetString"), CHANGES.items()
    )
    if digest_info(bytes(range(32)), element, change) != digest_info(bytes(range(32)))
} | {n: ("Oid", lambda e, o=o: tlv(6, bytes.fromhex(o))) for n, o in OIDS.items()}


def pkcs1_block(message: bytes, element: str, change: Change) -> bytes:
    info = digest_info(hashlib.sha256(message).digest(), element, change)
    return b"\0\1" + b"\xff" * (253 - len(info)) + b"\0" + info


def odd_padding(name: str) -> Signer:
    """Sign with PKCS #1's padding changed around a sound DigestInfo."""

    def sign(message: bytes) -> bytes:
        info = digest_info(hashlib.sha256(message).digest())
        fill = b"\xff" * (253 - len(info))
        blocks = {
            "shortPaddingAndGarbageBehind": b"\0\1" + fill[:8] + b"\0" + info + b"\xff" * 194,
            "blockType0": b"\0\0" + bytes(len(fill)) + b"\0" + info,
            "blockType2": b"\0\2" + fill + b"\0" + info,
            "firstByteIsNotZero": b"\1\1" + fill + b"\0" + info,
            "separatorIsNotZero": b"\0\1" + fill + b"\1" + info,
            "paddingHasAZero": b"\0\1" + fill[:9] + b"\0" + fill[10:] + b"\0" + info,
            "noDigestInfo": b"\0\1" + b"\xff" * 221 + b"\0" + hashlib.sha256(message).digest(),
            "wrongHash": pkcs1_block(message + b"!", "", bytes),
        }
        return raw_rsa(blocks[name])

    return sign


ODD_PADDINGS = (
    "shortPaddingAndGarbageBehind",
    "blockType0",
    "blockType2",
    "firstByteIsNotZero",
    "separatorIsNotZero",
    "paddingHasAZero",
    "noDigestInfo",
    "wrongHash",
)


def mgf1(seed: bytes, octets: int, name: str = "sha256") -> bytes:
    blocks = (hashlib.new(name, seed + i.to_bytes(4)).digest() for i in range(octets // 20 + 1))
    return b"".join(blocks)[:octets]


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def flip(place: int, bit: int = 1) -> Change:
    return lambda raw: bytes(b ^ (bit if i == place % len(raw) else 0) for i, b in enumerate(raw))


def pss(salt: bytes | None = None, mask: str = "sha256", **changes: Change) -> Signer:
    """Sign with RSASSA-PSS (RFC 8017 section 9.1.1), with steps changed."""

    def step(name: str, value: bytes) -> bytes:
        return changes.get(name, bytes)(value)

    def sign(message: bytes) -> bytes:
        used = secrets.token_bytes(32) if salt is None else salt
        hashed = step("mhash", hashlib.sha256(message).digest())
        inner = hashlib.sha256(step("zeros", bytes(8)) + hashed + used).digest()
        hidden = step("hash", inner)
        data = step("fill", bytes(222 - len(used))) + step("one", b"\1") + step("salt", used)
        masked = xor(data, mgf1(inner, 223, mask))
        block = step("masked", bytes([masked[0] & 0x7F]) + masked[1:]) + hidden + b"\xbc"
        return raw_rsa(step("block", block))

    return sign


def fixed(signature: Callable[[], bytes]) -> Signer:
    return lambda _: signature()


def changed_pss(change: Change) -> Signer:
    return lambda message: change(pss()(message))


def modulus() -> int:
    return rsa_key().public_key().public_numbers().n


def unreduced(message: bytes) -> bytes:
    while (value := int.from_bytes(pss()(message)) + modulus()) >= 2**2048:
        pass
    return value.to_bytes(256)


ODD_PSS: dict[str, Signer] = {
    **{f"MhashModified{p}": pss(mhash=flip(p)) for p in (0, 7, 15, 31)},
    "lastByteOfMhashModified": pss(mhash=flip(-1, 0x80)),
    **{f"SaltLenChanged{n}": pss(bytes(n)) for n in (0, 8, 20, 31, 33, 48, 64, 222)},
    "ZeroPaddingModifiedFirst": pss(zeros=flip(0)),
    "ZeroPaddingModifiedLast": pss(zeros=flip(-1)),
    "ZeroPaddingModifiedAll": pss(zeros=lambda z: b"\xff" * 8),
    **{f"ModifiedHash{p}": pss(hash=flip(p)) for p in (0, 1, 7, 8, 16, 24, 30, 31)},
    **{f"PSModified{p}": pss(fill=flip(p)) for p in (0, 1, 7, 100, 188, 189)},
    "PSModifiedSeparator": pss(one=flip(0)),
    "SaltModifiedFirst": pss(masked=flip(-32)),
    "SaltModifiedLast": pss(masked=flip(-1)),
    "MaskedDbChanged": pss(masked=flip(0)),
    "EmModifiedFirstBit": pss(block=flip(0, 0x80)),
    "EmModifiedTrailer": pss(block=flip(-1)),
    "EmModifiedTrailerOfX931": pss(block=lambda b: b[:-1] + b"\xcc"),
    "MaskOfSha1": pss(mask="sha1"),
    "SignatureIs0": fixed(lambda: bytes(256)),
    "SignatureIs1": fixed(lambda: bytes(255) + b"\1"),
    "SignatureIsNsub1": fixed(lambda: (modulus() - 1).to_bytes(256)),
    "SignatureIsN": fixed(lambda: modulus().to_bytes(256)),
    "SignatureIsNotReduced": unreduced,
    "prependingZerosToSignature": changed_pss(lambda s: bytes(2) + s),
    "appendingZerosToSignature": changed_pss(lambda s: s + bytes(2)),
    "truncatingSignature": changed_pss(lambda s: s[:-1]),
    "emptySignature": changed_pss(lambda s: b""),
}
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
EDGES = {"Zero": 0, "One": 1, "Nminus1": ORDER - 1, "N": ORDER}


def side_by_side(*numbers: int, octets: int = 32) -> bytes:
    return b"".join(n.to_bytes(octets) for n in numbers)


def ecdsa(change: Callable[[int, int], bytes]) -> Signer:
    def sign(message: bytes) -> bytes:
        raw = raw_ecdsa(ec_key("ES256"), "ES256", message)
        return change(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))

    return sign


ODD_ECDSA: dict[str, Signer] = {
    "SignatureTooLong": ecdsa(lambda r, s: side_by_side(r, s, octets=33)),
    "TrailingZeros": ecdsa(lambda r, s: side_by_side(r, s) + bytes(2)),
    "SplitByZeros": ecdsa(lambda r, s: r.to_bytes(32) + b"\0" + s.to_bytes(32) + b"\0"),
    "RisTooBig": ecdsa(lambda r, s: side_by_side(r + ORDER, s, octets=33)),
    "SisTooBig": ecdsa(lambda r, s: side_by_side(r, s + ORDER, octets=33)),
    "IntegerOverflowOfR": ecdsa(lambda r, s: side_by_side(r + 2**256, s, octets=33)),
    "IntegerOverflowOfS": ecdsa(lambda r, s: side_by_side(r, s + 2**256, octets=33)),
    "BufferOverflow": ecdsa(lambda r, s: side_by_side(r, s, octets=512)),
    "Der": ecdsa(encode_dss_signature),
    "Negated": ecdsa(lambda r, s: side_by_side(ORDER - r, s)),
    "Swapped": ecdsa(lambda r, s: side_by_side(s, r)),
    "HalfOnly": ecdsa(lambda r, s: r.to_bytes(32)),
    "Truncated": ecdsa(lambda r, s: side_by_side(r, s)[:-1]),
    **{
        f"rIs{r}_sIs{s}": fixed(partial(side_by_side, EDGES[r], EDGES[s]))
        for r, s in product(EDGES, EDGES)
    },
}


def segments(change: Callable[[str, str, str], str], algorithm: str = "HS256") -> str:
    head, body, signature = signed({"alg": algorithm, "kid": "k"}, sign=signer(algorithm)).split(
        "."
    )
    return change(head, body, signature)


def respelt(place: int, change: Callable[[str], str]) -> str:
    """Change the spelling of a segment, and sign what is spelt so."""
    parts = [b64(b'{"alg":"HS256","kid":"k"}'), b64(b"Test!")]
    parts[place] = change(parts[place])
    text = ".".join(parts)
    return f"{text}.{b64(signer('HS256')(text.encode()))}"


def renamed(head: str) -> str:
    """Name another key in a header."""
    return b64(unb64(head).replace(b'"k"', b'"K"'))


SHAPES: dict[str, Callable[[str, str, str], str]] = {
    "rejectsModifiedSignature": lambda h, p, s: f"{h}.{p}.{'B' if s[0] == 'A' else 'A'}{s[1:]}",
    "rejectsMissingSignature": lambda h, p, s: f"{h}.{p}.",
    "rejectsMissingSignatureAndSeparator": lambda h, p, s: f"{h}.{p}",
    "rejectsModifiedPayload": lambda h, p, s: f"{h}.f{p[1:]}.{s}",
    "rejectsMissingPayload": lambda h, p, s: f"{h}..{s}",
    "rejectsMissingPayloadAndSeparator": lambda h, p, s: f"{h}.{s}",
    "rejectsModifiedHeader": lambda h, p, s: f"{renamed(h)}.{p}.{s}",
    "rejectsMissingHeader": lambda h, p, s: f".{p}.{s}",
    "rejectsMissingHeaderAndSeparator": lambda h, p, s: f"{p}.{s}",
    "rejectsMissingHeaderAndSignature": lambda h, p, s: f".{p}.",
    "rejectsMissingHeaderSignatureAndSeparators": lambda h, p, s: p,
    "rejectsEmptyString": lambda h, p, s: "",
    "rejectsExtraEmptyComponent": lambda h, p, s: f"{h}.{p}.{s}.",
    "rejectsExtraComponent": lambda h, p, s: f"{h}.{p}.{s}.foo",
    "rejectsValidJsonSerialization": lambda h, p, s: json.dumps(
        {"payload": p, "signatures": [{"protected": h, "signature": s}]}
    ),
    "rejectsFlattenedJsonSerialization": lambda h, p, s: json.dumps(
        {"payload": p, "protected": h, "signature": s}
    ),
    "rejectsSpacesInMac": lambda h, p, s: f"{h}.{p}.    {s}",
    "rejectsInvalidCharacterInsertedInMacFirst": lambda h, p, s: f"{h}.{p}.?{s}",
    "rejectsInvalidCharacterInsertedInMacLast": lambda h, p, s: f"{h}.{p}.{s}?",
    "rejects0ReplacedByInvalidCharacter": lambda h, p, s: f"{h}.{p}.?{s[1:]}",
    "rejectsInvalidCharacters": lambda h, p, s: f"{h}.{p}.????{s[4:]}",
    "InvalidCharacterInsertedInHeader": lambda h, p, s: f"{h}?.{p}.{s}",
    "InvalidCharacterInsertedInPayload": lambda h, p, s: f"{h}.{p}?.{s}",
    "invalidBase64PaddingOfMac": lambda h, p, s: f"{h}.{p}.{s}=",
    "invalidBase64PaddingOfPayload": lambda h, p, s: f"{h}.{p}=.{s}",
}
SPELLINGS: dict[str, tuple[int, Callable[[str], str]]] = {
    "spacesInHeader": (0, lambda t: t + "    "),
    "invalidCharactersInHeader": (0, lambda t: t + "####"),
    "invalidCharacterInHeader": (0, lambda t: t[:5] + "?" + t[5:]),
    "invalidBase64Padding": (0, lambda t: t + "=" * (-len(t) % 4 or 4)),
    "spacesInPayload": (1, lambda t: "    " + t),
    "invalidCharactersInPayload": (1, lambda t: "####" + t),
    "InvalidCharacterInPayload": (1, lambda t: "?" + t),
    "invalidBase64PaddingInPayload": (1, lambda t: t + "="),
    "ModifiedUnusedBitsInPayload": (1, lambda t: "AB"),
    "ImpossibleLengthOfPayload": (1, lambda t: "A"),
    "StandardAlphabetInPayload": (1, lambda t: "ab+/"),
}
Vector = tuple[str, Jwk]
Make = Callable[[], Vector]


def wrong_primitives() -> Iterator[tuple[str, Make]]:
    """Sign with the same key by another algorithm, and say so or not."""
    for other in (a for a in (*jwa.RSA,) if a != "PS512"):
        for said in ("PS512", other):
            yield (
                f"using{other}SaidToBe{said}",
                lambda o=other, s=said: (
                    signed({"alg": s, "kid": "k"}, sign=signer(o)),
                    rsa_jwk(alg="PS512", use="sig", kid="k"),
                ),
            )


def nones() -> Iterator[tuple[str, Make]]:
    for name, header in {
        "algIsNone": {"alg": "none"},
        "algIsNONE": {"alg": "NONE"},
        "algIsNoneAndKidIsNone": {"alg": "none", "kid": "none"},
        "algIsNoneAndKidIsTheKeys": {"alg": "none", "kid": "k"},
    }.items():
        yield name, lambda h=header: (signed(h, sign=lambda _: b""), rsa_jwk(alg="PS512", kid="k"))
        yield f"{name}WithMac", lambda h=header: (signed(h), oct_jwk(alg="HS256", kid="k"))


def for_others() -> Iterator[tuple[str, Make]]:
    for algorithm, (member, value) in product(
        ("RS256", "ES256", "HS256", "EdDSA"),
        (("use", "enc"), ("key_ops", ["encrypt"]), ("key_ops", ["sign"])),
    ):
        entry = {m: v for m, v in jwk_for(algorithm).items() if m != "alg"} | {member: value}
        name = f"rejectWrong{'Use' if member == 'use' else 'KeyOps'}_{algorithm}_{value}"
        yield name, lambda a=algorithm, e=entry: (token(a, kid="k"), e | {"kid": "k"})


def confusions() -> Iterator[tuple[str, Make]]:
    for algorithm in ("ES256", "RS256", "EdDSA"):
        entry = jwk_for(algorithm, kid="k")
        yield (
            f"rejectsSymmetryConfusionAttacks_{algorithm}",
            lambda e=entry: (token("HS256", unb64(e.get("n", e.get("x"))), kid="k"), e),
        )
    yield (
        "rejectsAttackerProvidedEmbeddedJwk",
        lambda: (
            token("RS256", rsa_key(number=1), kid="k", jwk=rsa_jwk(rsa_key(number=1))),
            rsa_jwk(alg="RS256", kid="k"),
        ),
    )


def invalid_vectors() -> dict[str, Make]:
    made: dict[str, Make] = dict([*wrong_primitives(), *nones(), *for_others(), *confusions()])
    for algorithm in ("HS256", "ES256", "RS256", "PS256", "EdDSA"):
        for name, shape in SHAPES.items():
            made[f"{algorithm}_{name}"] = lambda a=algorithm, s=shape: (
                segments(s, a),
                jwk_for(a, kid="k", use="sig"),
            )
    for name, (place, spell) in SPELLINGS.items():
        made[name] = lambda p=place, s=spell: (respelt(p, s), oct_jwk(alg="HS256", kid="k"))
    made["MacOfIncorrectlyEncodedMessage"] = lambda: (
        respelt(1, lambda _: "AA").replace(".AA.", ".AB."),
        oct_jwk(alg="HS256", kid="k"),
    )
    for name, (element, change) in CHANGED_INFO.items():
        made[name] = lambda e=element, c=change: (
            signed({"alg": "RS256", "kid": "k"}, sign=lambda m: raw_rsa(pkcs1_block(m, e, c))),
            rsa_jwk(alg="RS256", kid="k"),
        )
    for name in ODD_PADDINGS:
        made[name] = lambda n=name: (
            signed({"alg": "RS256"}, sign=odd_padding(n)),
            rsa_jwk(alg="RS256"),
        )
    for name, sign in ODD_PSS.items():
        made[name] = lambda s=sign: (signed({"alg": "PS256"}, sign=s), rsa_jwk(alg="PS256"))
    for name, sign in ODD_ECDSA.items():
        made[name] = lambda s=sign: (signed({"alg": "ES256"}, sign=s), ec_jwk(alg="ES256"))
    return made


PAYLOADS = {
    "emptyPayload": b"",
    "allZeroPayload": bytes(20),
    "oneBytePayload": b"a",
    "normalPayload": bytes(range(0xE0, 0x100)),
}


def valid_vectors() -> dict[str, Make]:
    made: dict[str, Make] = {
        "saltIsAll0": lambda: (signed({"alg": "PS256"}, sign=pss(bytes(32))), rsa_jwk(alg="PS256")),
        "saltIsAll1": lambda: (
            signed({"alg": "PS256"}, sign=pss(b"\xff" * 32)),
            rsa_jwk(alg="PS256"),
        ),
        "pkcs1Unchanged": lambda: (
            signed({"alg": "RS256"}, sign=lambda m: raw_rsa(pkcs1_block(m, "", bytes))),
            rsa_jwk(alg="RS256"),
        ),
        "otherS": lambda: (
            signed({"alg": "ES256"}, sign=ecdsa(lambda r, s: side_by_side(r, ORDER - s))),
            ec_jwk(alg="ES256"),
        ),
        "ValidSpacesInJsonHeader": lambda: (
            signed(b'{ "kid" : "k", "alg" : "HS256" }'),
            oct_jwk(alg="HS256", kid="k"),
        ),
        "ValidWhiteSpaceInJsonHeader": lambda: (
            signed(b'{"kid":"k",\n\t"alg":"HS256"}'),
            oct_jwk(alg="HS256", kid="k"),
        ),
        "ValidEdgeCaseMacFirst": lambda: (edge_case(b"\0\0"), oct_jwk(alg="HS256")),
        "ValidEdgeCaseMacLast": lambda: (edge_case(b"\xff\xff"), oct_jwk(alg="HS256")),
    }
    for algorithm, (name, payload) in product(EVERY, PAYLOADS.items()):
        made[f"{algorithm}_{name}"] = lambda a=algorithm, p=payload: (
            signed({"alg": a, "kid": "k"}, p, signer(a)),
            jwk_for(a, kid="k", use="sig", key_ops=["verify"]),
        )
    return made


def edge_case(start: bytes) -> str:
    """Search a payload whose signature begins so."""
    texts = (signed({"alg": "HS256"}, str(n).encode()) for n in range(10**7))
    return next(t for t in texts if unb64(t.rpartition(".")[2]).startswith(start))


INVALID, VALID = invalid_vectors(), valid_vectors()


class TestWycheproof:
    """The classes of Google's Wycheproof vectors for JSON web signatures, with keys of our own."""

    @pytest.mark.parametrize("name", INVALID)
    def test_invalid(self, name: str) -> None:
        """A signature of this class is refused, and nothing but a refusal is raised."""
        text, entry = INVALID[name]()

        assert refusal(text, KeySet([entry])) in (MALFORMED, UNTRUSTED)

    @pytest.mark.parametrize("name", VALID)
    def test_valid(self, name: str) -> None:
        """A signature of this class is trusted."""
        text, entry = VALID[name]()

        assert verify_jws(text, KeySet([entry])) == unb64(text.split(".")[1])
