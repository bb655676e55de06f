"""Which real key server do the tests run against, and which lies can it tell?

A test commands it at any moment: `server.answer` says how each path is answered from now on, with
one of the behaviours below. Every answer closes its connection.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from jose import jwk, jws

JWKS = "/jwks"
DISCOVERY = "/.well-known/openid-configuration"
HOST = "127.0.0.1"
DRIP = 1.0  # seconds between two bytes
_TICK = 0.02


class KeyPair:
    """A signer's key pair.

    Args:
        kid: Names it in the set and in the headers of its tokens.
        algorithm: ES256 costs little; RS256 takes a tenth of a second to make.
    """

    def __init__(self, kid: str, algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self._key: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )

    @cached_property
    def jwk(self) -> dict[str, Any]:
        """The public key, as a key set shows it."""
        pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return self._described(pem)

    @cached_property
    def private_jwk(self) -> dict[str, Any]:
        """The private key, which no key set may show."""
        return self._described(self._pem)

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        """Write a token; what is given of the header replaces the usual."""
        headers = {"kid": self.kid, "typ": "at+jwt"} | header
        return str(jws.sign(dict(claims), self._pem, headers=headers, algorithm=self.algorithm))

    @cached_property
    def _pem(self) -> bytes:
        return bytes(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _described(self, pem: bytes) -> dict[str, Any]:
        members = jwk.construct(pem, self.algorithm).to_dict()
        plain = {k: v.decode() if isinstance(v, bytes) else v for k, v in members.items()}
        return plain | {"kid": self.kid, "use": "sig"}


@cache
def key_pair(kid: str, algorithm: str = "ES256") -> KeyPair:
    """Return the key pair of this name, the same one each time."""
    return KeyPair(kid, algorithm)


class Exchange(BaseHTTPRequestHandler):
    """One request and how it is answered."""

    server: _Http

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked(self.path, dict(self.headers.items()))
        with contextlib.suppress(OSError):
            self.server.behaviour(self.path)(self)

    def do_CONNECT(self) -> None:
        """Be a proxy that lets nobody through."""
        self.server.asked(self.path, dict(self.headers.items()))
        self.send_error(403)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def gone(self, within: float) -> bool:
        """Wait until the client has left or the server ends; False where neither was in time."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            if self.server.ending.is_set():
                return True
            readable, _, _ = select.select([self.connection], [], [], min(left, _TICK))
            if readable and not self.connection.recv(1):
                return True
        return False

    def log_message(self, *_: Any) -> None:
        pass


Behaviour: TypeAlias = Callable[[Exchange], None]


def body(content: bytes | str, status: int = 200, **headers: str) -> Behaviour:
    """Answer with these bytes; headers are spelt with underscores."""
    raw = content.encode() if isinstance(content, str) else content
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(exchange: Exchange) -> None:
        exchange.head(status, {"Content-Length": str(len(raw))} | named)
        exchange.wfile.write(raw)

    return answer


def key_set(*keys: KeyPair | Mapping[str, Any], **headers: str) -> Behaviour:
    """Answer with a JSON Web Key Set of these keys."""
    return body(json.dumps({"keys": [_entry(key) for key in keys]}), **headers)


def _entry(key: KeyPair | Mapping[str, Any]) -> Mapping[str, Any]:
    return key.jwk if isinstance(key, KeyPair) else key


def redirect(target: str, status: int = 302) -> Behaviour:
    """Send the client elsewhere: to a path, or to another server."""
    return body(b"", status, Location=target)


def stall(exchange: Exchange) -> None:
    """Accept and never answer."""
    exchange.gone(3600)


def stall_after_head(exchange: Exchange) -> None:
    """Promise a body and never send it."""
    exchange.head(200, {"Content-Length": "1000"})
    exchange.gone(3600)


def drip(exchange: Exchange) -> None:
    """Send one byte a second, for as long as somebody listens."""
    exchange.head(200, {})
    while not exchange.gone(DRIP):
        exchange.wfile.write(b" ")


def grow(exchange: Exchange) -> None:
    """Send a body without end."""
    exchange.head(200, {})
    while not exchange.gone(0.001):
        exchange.wfile.write(b" " * 65_536)


def boast(exchange: Exchange) -> None:
    """Announce a gibibyte, and send nothing of it."""
    exchange.head(200, {"Content-Length": str(2**30)})
    exchange.gone(3600)


def hang_up(exchange: Exchange) -> None:
    """Close the connection without a word."""


def cut(exchange: Exchange) -> None:
    """Close the connection within the body."""
    exchange.head(200, {"Content-Length": "1000"})
    exchange.wfile.write(b'{"keys": [')


def slowly(behaviour: Behaviour, seconds: float) -> Behaviour:
    """Answer so many seconds later."""

    def answer(exchange: Exchange) -> None:
        if not exchange.gone(seconds):
            behaviour(exchange)

    return answer


def held(behaviour: Behaviour, until: threading.Event) -> Behaviour:
    """Answer when the test says so."""

    def answer(exchange: Exchange) -> None:
        while not until.wait(_TICK):
            if exchange.server.ending.is_set():
                return
        behaviour(exchange)

    return answer


def bomb(content: bytes = b" " * 2**24) -> Behaviour:
    """Answer with few bytes that unpack to many, whatever the client accepts."""
    return body(gzip.compress(content), Content_Encoding="gzip")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, owner: KeyServer) -> None:
        self.owner = owner
        self.ending = threading.Event()
        super().__init__((HOST, port), Exchange)

    def asked(self, path: str, headers: Mapping[str, str]) -> None:
        self.owner.note(path, headers)

    def behaviour(self, path: str) -> Behaviour:
        return self.owner.answers.get(path.partition("?")[0], body(b"", 404))

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The TLS handshake waits for the client: in this thread it keeps nobody else waiting.
        with contextlib.suppress(OSError):
            tls = self.owner.tls
            talk = tls.wrap_socket(request, server_side=True) if tls else request
            with talk:
                super().finish_request(talk, client_address)

    def handle_error(self, *_: Any) -> None:
        pass


class KeyServer:
    """An issuer's key server on loopback: entered, it answers; left, it is gone.

    Attributes:
        answers: How each path is answered; what is not here is a 404.
        headers: What the last request carried.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.answers: dict[str, Behaviour] = {}
        self.headers: Mapping[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.live()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end; also the issuer it speaks for."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self._port}"

    @property
    def jwks_url(self) -> str:
        """Where its keys are."""
        return self.url + JWKS

    def serve(self, *keys: KeyPair | Mapping[str, Any], **headers: str) -> None:
        """Show these keys from now on."""
        self.answers[JWKS] = key_set(*keys, **headers)

    def answer(self, behaviour: Behaviour, path: str = JWKS) -> None:
        """Behave so from now on."""
        self.answers[path] = behaviour

    def discover(self, **members: Any) -> None:
        """Show a discovery document; what is given replaces or adds members, None removes them."""
        document = {"issuer": self.url, "jwks_uri": self.jwks_url} | members
        text = json.dumps({k: v for k, v in document.items() if v is not None})
        self.answers[DISCOVERY] = body(text)

    def count(self, path: str = JWKS) -> int:
        """Tell how many requests for a path have come."""
        with self._lock:
            return self._counts[path]

    def note(self, path: str, headers: Mapping[str, str]) -> None:
        """Count a request."""
        with self._lock:
            self._counts[path] += 1
            self.headers = headers

    def live(self) -> None:
        """Open the port, after death the same one."""
        self._http = _Http(self._port, self)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_TICK,), name="keyserver", daemon=True
        )
        self._thread.start()

    def die(self) -> None:
        """Close the port and every connection."""
        http, thread, self._http = self._http, self._thread, None
        if http is not None and thread is not None:
            http.ending.set()
            http.shutdown()
            http.server_close()
            thread.join()


@contextlib.contextmanager
def tls_server(folder: Path) -> Iterator[tuple[KeyServer, Path]]:
    """Run a key server over TLS, with the file of the certificate that clients must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "private.pem"
    trusted.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    with KeyServer(tls=context) as server:
        yield server, trusted


def lies() -> Iterable[tuple[str, Behaviour, str]]:
    """List what a key server may answer instead of its keys.

    Returns:
        A name, the behaviour, and the result that a fetch must come to.
    """
    good = json.dumps({"keys": [key_pair("lie").jwk]})
    secret = {"kty": "oct", "kid": "s", "alg": "HS256", "k": "c2VjcmV0" * 8}
    member = good[len('{"keys": ') : -1]
    return [
        ("html", body("<!doctype html><title>Log in</title>"), "invalid"),
        ("truncated", body(good[:-20]), "invalid"),
        ("no set", body("[]"), "invalid"),
        ("empty", body(b""), "invalid"),
        ("empty set", key_set(), "invalid"),
        ("duplicate members", body(f'{{"keys": {member}, "keys": {member}}}'), "invalid"),
        ("private key", key_set(key_pair("lie").private_jwk), "invalid"),
        ("secret", key_set(secret), "invalid"),
        ("secret among keys", key_set(key_pair("lie"), secret), "invalid"),
        ("deeply nested", body('{"keys": ' + "[" * 60_000), "invalid"),
        ("not utf-8", body(b'{"keys": "\xff"}'), "invalid"),
        ("gzip", bomb(good.encode()), "invalid"),
        ("gzip bomb", bomb(), "invalid"),
        ("error", body(good, 500), "status"),
        ("not found", body(good, 404), "status"),
        ("no content", body(b"", 204), "status"),
        ("partial", body(good, 206), "status"),
        ("redirect to another host", redirect("https://keys.example.net/jwks"), "redirect"),
        ("redirect to another port", redirect(f"http://{HOST}:9/jwks"), "redirect"),
        ("redirect to a login", redirect("//login.example.com/?secret=x"), "redirect"),
        ("redirect with a password", redirect(f"http://user:word@{HOST}/jwks"), "redirect"),
        ("redirect to nowhere", redirect("http://[/"), "redirect"),
        ("redirect in circles", redirect(JWKS), "redirect"),
        ("endless", grow, "too_large"),
        ("announced as large", boast, "too_large"),
        ("hung up", hang_up, "unreachable"),
        ("cut off", cut, "unreachable"),
    ]
