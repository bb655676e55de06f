"""What does an issuer publish? One fetch, within bounds that no server can stretch."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, Self

import httpx2

from mlguard import __version__
from mlguard.auth.keys import KeySet
from mlguard.auth.strict import json_object
from mlguard.keys.freshness import freshness
from mlguard.keys.supply import Fetched, FetchFailed
from mlguard.logs import quiet
from mlguard.settings import Issuer
from mlguard.urls import is_loopback, is_secure, redacted_url

MOST_BYTES = 256 * 1024
MOST_REDIRECTS = 3
_WELL_KNOWN = "/.well-known/openid-configuration"
_DEEPEST = 16  # objects and arrays within each other, in a discovery document
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LONGEST_REASON = 200  # characters of what the network says
_HEADERS = {
    "User-Agent": f"mlguard/{__version__}",
    "Accept": "application/jwk-set+json, application/json",
    "Accept-Encoding": "identity",
}


class Downloaded(NamedTuple):
    """What a server answered.

    Attributes:
        body: The bytes.
        headers: The headers, their names in any case.
    """

    body: bytes
    headers: Mapping[str, str]


class Download:
    """Fetches key sets, with connections that live no longer than a fetch.

    Args:
        seconds: What one fetch may take, with discovery and redirects.
        most_fresh: Seconds for which keys are fresh at most.
    """

    def __init__(self, seconds: float, most_fresh: int) -> None:
        self._seconds = seconds
        self._most_fresh = most_fresh

    async def __call__(self, issuer: Issuer, address: str | None) -> Fetched:
        """Fetch the keys of an issuer from an address; None has it discovered.

        Raises:
            FetchFailed: Says how it failed and what to do.
        """
        place = address or _discovery(issuer)
        if place.startswith("https:"):
            _ = self._trust  # reading the certificates takes time, which is not the server's
        try:
            async with asyncio.timeout(self._seconds):
                found = address or await self._discovered(issuer)
                return self._read(issuer, found, await self._get(found))
        except TimeoutError:
            raise FetchFailed(
                "timeout",
                f"no whole answer from {_shown(place)} within {self._seconds:g} s: check that this "
                "host may reach it, or raise auth.jwks_timeout",
            ) from None

    async def _discovered(self, issuer: Issuer) -> str:
        """Find where the keys are (OpenID Connect Discovery 1.0 section 4)."""
        place = _discovery(issuer)
        answer = await self._get(place)
        try:
            document = json_object(answer.body, _DEEPEST)
        except ValueError as error:
            raise _invalid(place, f"{error}; set auth.jwks_url to where the keys are") from None
        if document.get("issuer") != issuer.issuer:
            said = repr(document.get("issuer"))[:_LONGEST_REASON]
            raise _invalid(place, f"speaks for the issuer {said}: set auth.issuer exactly so")
        address = document.get("jwks_uri")
        if not isinstance(address, str):
            raise _invalid(place, "names no jwks_uri: set auth.jwks_url to where the keys are")
        return address

    def _read(self, issuer: Issuer, address: str, answer: Downloaded) -> Fetched:
        problems: list[str] = []
        try:
            keys = KeySet.from_document(
                answer.body, algorithms=issuer.algorithms, passed_over=problems.append
            )
        except ValueError as error:
            why = "; ".join([str(error), *problems[:1]])
            raise _invalid(address, f"{why}; it must be the issuer's public keys") from None
        if keys.is_symmetric:
            raise _invalid(address, "holds secrets: whoever reads them can sign; fetch public keys")
        fresh = freshness(answer.headers, self._most_fresh, time.time())
        return Fetched(keys, fresh, address, tuple(problems))

    async def _get(self, address: str) -> Downloaded:
        """Ask a server, following it within itself only."""
        url = _checked(address)
        with quiet("httpx2"):  # it logs whole URLs, and a query may be secret
            return await self._ask(url, address)

    async def _ask(self, url: httpx2.URL, address: str) -> Downloaded:
        async with (
            _Connections() as connections,
            httpx2.AsyncClient(
                verify=self._trust if url.scheme == "https" else _NO_TRUST,
                trust_env=not is_loopback(url.host),
                follow_redirects=False,
                timeout=None,  # one bound stands around the whole fetch
                headers=_HEADERS,
            ) as client,
        ):
            try:
                for _ in range(MOST_REDIRECTS + 1):
                    async with client.stream("GET", url, extensions=connections.noted) as response:
                        if response.status_code not in _REDIRECTS:
                            return await _answer(response)
                        url = _next(url, response)
            except httpx2.TransportError as error:
                reason = str(error)[:_LONGEST_REASON] or type(error).__name__
                raise FetchFailed(
                    "unreachable",
                    f"{_shown(address)} cannot be asked ({reason}): check the address, its "
                    "certificate, and this host's way to it",
                ) from error
        raise FetchFailed(
            "redirect",
            f"{_shown(address)} redirects more than {MOST_REDIRECTS} times: set auth.jwks_url to "
            "where the keys are",
        )

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """What the system trusts, and SSL_CERT_FILE or SSL_CERT_DIR."""
        return httpx2.create_ssl_context()


class _Connections:
    """Closes what the client has opened: it forgets a connection that is cut off within TLS."""

    def __init__(self) -> None:
        self._opened: list[Any] = []
        self.noted = {"trace": self._trace}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._opened:
            await connection.aclose()

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            self._opened.append(info["return_value"])


# Nothing in clear text is verified; should it come to TLS, this trusts nobody.
_NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _discovery(issuer: Issuer) -> str:
    return issuer.issuer.removesuffix("/") + _WELL_KNOWN


async def _answer(response: httpx2.Response) -> Downloaded:
    """Read an answer, which must be small, plain and good."""
    place = _shown(response.url)
    if response.status_code != 200:
        raise FetchFailed(
            "status",
            f"{place} answers {response.status_code}: check the address, or ask its owner",
        )
    # Nothing is unpacked: a few coded bytes may be a gigabyte.
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _invalid(place, "is compressed, which was not asked for: switch that off there")
    body = bytearray()
    too_large = int(response.headers.get("content-length", "0")) > MOST_BYTES
    if not too_large:
        async for piece in response.aiter_raw():
            body += piece
            if too_large := len(body) > MOST_BYTES:
                break
    if too_large:
        raise FetchFailed(
            "too_large",
            f"{place} answers more than {MOST_BYTES // 1024} KiB: check that a key set is there",
        )
    return Downloaded(bytes(body), response.headers)


def _next(url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
    """Return where the server redirects to, if that is itself."""
    try:
        target = url.join(response.headers.get("location", ""))
    except httpx2.InvalidURL:
        target = None
    if target is None or _origin(target) != _origin(url) or target.userinfo:
        where = "nowhere" if target is None else _shown(target)
        raise FetchFailed(
            "redirect",
            f"{_shown(url)} redirects to {where}, and only its own host is followed: if the keys "
            "are there, set auth.jwks_url to it",
        )
    return target


def _checked(address: str) -> httpx2.URL:
    """Demand https, but for this machine itself."""
    try:
        if is_secure(address):
            return httpx2.URL(address)
    except httpx2.InvalidURL:
        pass
    raise FetchFailed(
        "invalid",
        f"the keys are said to be at {_shown(address)!r}, which is no https:// URL without a "
        "password: set auth.jwks_url",
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _invalid(place: str, problem: str) -> FetchFailed:
    return FetchFailed("invalid", f"what {_shown(place)} answers cannot be used: it {problem}")


def _shown(address: str | httpx2.URL) -> str:
    """Return an address as it may be logged, whoever chose it."""
    text = redacted_url(str(address))[:_LONGEST_REASON]
    return text if text.isprintable() else repr(text)
