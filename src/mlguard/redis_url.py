"""Which Redis does a URL mean?"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

SINGLE, SENTINEL, CLUSTER = "single", "sentinel", "cluster"

_URL = re.compile(
    r"redis(?P<tls>s?)(?:\+(?P<kind>sentinel|cluster))?://"
    r"(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]%]+)(?::(?P<port>\d{1,5}))?")
_ODD = re.compile(r"[\s\x00-\x1f\x7f#]")
_PORTS = {SINGLE: 6379, CLUSTER: 6379, SENTINEL: 26379}
_OPTIONS = frozenset(
    [
        "client_name",
        "db",
        "password",
        "ssl_ca_certs",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "username",
    ]
)


class Node(NamedTuple):
    """One server.

    Attributes:
        host: A name or an address.
        port: A TCP port.
        is_sentinel: Whether it watches others and holds no data.
        knows_password: Whether it is told the password: a sentinel only where it asks for one.
    """

    host: str
    port: int
    is_sentinel: bool = False
    knows_password: bool = True


@dataclass(frozen=True, slots=True)
class RedisURL:
    """What a URL says.

    Attributes:
        kind: SINGLE, SENTINEL or CLUSTER.
        nodes: The servers it names.
        service: What sentinels call the master.
        login: User and password, percent-encoded, with the @ behind them.
        db: Number of the database.
        query: The options, without the question mark.
        is_encrypted: Whether TLS is spoken.
    """

    kind: str
    nodes: tuple[Node, ...]
    service: str
    login: str
    db: str
    query: str
    is_encrypted: bool

    @property
    def options(self) -> dict[str, str]:
        """The options, user, password and database among them."""
        user, colon, password = self.login.removesuffix("@").partition(":")
        found = dict(parse_qsl(self.query))
        found |= {"username": unquote(user)} if user else {}
        found |= {"password": unquote(password)} if colon else {}
        return found | ({"db": self.db} if self.db else {})


def problem(url: str) -> str | None:
    """Say what is wrong with the URL of a Redis, without showing it, or None."""
    found = _parsed(url)
    return found if isinstance(found, str) else None


def parse(url: str) -> RedisURL:
    """Return what a URL says.

    Raises:
        ValueError: It has a problem.
    """
    found = _parsed(url)
    if isinstance(found, str):
        raise ValueError(f"the URL of the Redis {found}")  # noqa: TRY004 - not its type is wrong
    return found


def _parsed(url: str) -> RedisURL | str:
    if _ODD.search(url):
        return "must hold no space, no control character and no #: percent-encode them"
    match = _URL.fullmatch(url)
    if match is None:
        return (
            "must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel://, "
            "redis+cluster:// or rediss+cluster://, and name a host"
        )
    kind = match["kind"] or SINGLE
    path, query = match["path"] or "", match["query"] or ""
    if "@" in path or "@" in query:
        return "must percent-encode what is special in a password: / as %2F, ? as %3F, @ as %40"
    nodes = _nodes(match["hosts"], kind)
    if isinstance(nodes, str):
        return nodes
    service, _, db = path[1:].partition("/") if kind == SENTINEL else ("", "", path[1:])
    wrong = _wrong_path(kind, service, db) or _wrong_options(kind, query)
    if wrong:
        return wrong
    login = f"{match['login']}@" if match["login"] else ""
    return RedisURL(kind, nodes, unquote(service), login, db, query, bool(match["tls"]))


def _nodes(text: str, kind: str) -> tuple[Node, ...] | str:
    hosts = [_HOST.fullmatch(part) for part in text.split(",")]
    if not all(hosts):
        return "must name its hosts as host:port, with commas between several"
    is_sentinel = kind == SENTINEL
    nodes = tuple(
        Node(
            host["host"].strip("[]"),
            int(host["port"] or _PORTS[kind]),
            is_sentinel,
            not is_sentinel,
        )
        for host in hosts
        if host
    )
    if any(not 0 < node.port < 65536 for node in nodes):
        return "must name ports from 1 to 65535"
    if kind == SINGLE and len(nodes) > 1:
        return "names several hosts: write redis+cluster:// or redis+sentinel://"
    return nodes


def _wrong_path(kind: str, service: str, db: str) -> str | None:
    if kind == SENTINEL and not service:
        return "must name the service that the sentinels watch: redis+sentinel://host:26379/name"
    if kind == CLUSTER and db not in ("", "0"):
        return "must name no database: a cluster has only 0"
    if db and not (db.isascii() and db.isdigit()):
        return "must name the database by its number"
    return None


def _wrong_options(kind: str, query: str) -> str | None:
    known = ", ".join(sorted(_OPTIONS))
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            return f"has an option that is not known here; known are {known}"
        if name == "db" and (kind != SINGLE or not (value.isascii() and value.isdigit())):
            return "must name the database by its number, and no other than 0 in a cluster"
        if name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
            return "has ssl_cert_reqs, which must be none, optional or required"
        if name == "ssl_check_hostname" and not _is_bool(value):
            return "has ssl_check_hostname, which must be true or false"
    return None


def _is_bool(value: str) -> bool:
    with suppress(ValueError):
        return value.lower() in ("true", "false", "yes", "no") or int(value) in (0, 1)
    return False
