"""Who may ask? Tokens as an identity provider would issue them."""

from __future__ import annotations

import secrets
import time

from jose import jwt

ISSUER = "https://login.example.com/"
AUDIENCE = "diabetes-api"


class Mint:
    """Issues tokens that the services trust, as it shares their secret."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(32)

    def token(self, subject: str, *, lasts: int = 3600) -> str:
        """Issue a token; it has expired where it lasts a negative number of seconds."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "scope": "predict",
            "iat": min(now, now + lasts - 60),
            "exp": now + lasts,
        }
        return jwt.encode(claims, self.secret, algorithm="HS256")
