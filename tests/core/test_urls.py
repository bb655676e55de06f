"""Which URLs may be trusted, and what of a URL may be seen?"""

from __future__ import annotations

import pytest

from mlguard.urls import has_password, is_loopback, is_secure, redacted_url


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_this_machine(host: str | None, expected: bool) -> None:
    """Loopback addresses and localhost are this machine, and nothing else is."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://login.example.com/jwks?appid=5", True),
        ("HTTPS://login.example.com:8443/@realm", True),
        ("http://[::1]:8080/jwks", True),
        ("http://login.example.com", False),
        ("http://127.0.0.1@login.example.com", False),
        ("https://alice:hunter2@login.example.com", False),
        ("https://login.example.com:0", False),
        ("https://login.example.com:99999", False),
        ("https://login.example.com\\@evil.example.com", False),
        ("https://login.example.com/a b", False),
        ("https://[::1", False),
        ("https:///jwks", False),
        ("ftp://127.0.0.1", False),
    ],
)
def test_secure(url: str, expected: bool) -> None:
    """A URL is https, or of this machine, and holds no password."""
    assert is_secure(url) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://redis.example.com:6379/0", False),
        ("redis://redis.example.com?health_check_interval=5", False),
        ("redis://:hunter2@redis.example.com", True),
        ("redis://redis.example.com?db=1&password=hunter2", True),
        ("redis://redis.example.com?username=hunter2", True),
    ],
)
def test_password(url: str, expected: bool) -> None:
    """A password stands before an @, or among Redis's options."""
    assert has_password(url) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://login.example.com:8443/jwks", "https://login.example.com:8443/jwks"),
        ("https://login.example.com/jwks?key=secret", "https://login.example.com/jwks?..."),
        ("https://login.example.com/#secret", "https://login.example.com/#..."),
        ("https://secret:secret@login.example.com/x", "https://...@login.example.com/x"),
        ("redis://:se/secret@redis.example.com:6379/2", "redis://...@redis.example.com:6379/2"),
        ("redis://:se?secret@redis.example.com", "redis://..."),
        ("https://login.example.com/?mail=secret@secret", "https://..."),
        ("https:secret@login.example.com", "...@login.example.com"),
        ("secret\n@login", "...@login"),
        ("secret@https://login.example.com?secret", "...@https://login.example.com?..."),
        ("two words", "two words"),
        ("", ""),
    ],
)
def test_shown(url: str, expected: str) -> None:
    """Nothing of a URL is seen that may be secret."""
    assert redacted_url(url) == expected
