"""Is this a point of Ed25519 that may verify signatures? Edwards curve (RFC 8032 section 5.1)."""

from __future__ import annotations

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

Point = tuple[int, int]


def is_sound(encoded: bytes) -> bool:
    """Say whether 32 bytes are a point on the curve whose order is not small.

    OpenSSL looks at the point at the first signature only, and takes one of small order, with
    which anybody signs anything.
    """
    point = _decoded(encoded)
    if point is None:
        return False
    for _ in range(3):  # the cofactor is 8
        point = _doubled(point)
    return point != (0, 1)


def _decoded(encoded: bytes) -> Point | None:
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if v * x * x % _P != u:
        return None
    return (x if x % 2 == sign else -x % _P, y)


def _doubled(point: Point) -> Point:
    x, y = point
    product = _D * x * x * y * y % _P
    return (
        2 * x * y * pow(1 + product, -1, _P) % _P,
        (y * y + x * x) * pow(1 - product, -1, _P) % _P,
    )
