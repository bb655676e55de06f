"""How is a server connected to? What both kinds of connections have in common."""

from __future__ import annotations

import inspect
import os
import ssl
from typing import Any

from redis import exceptions
from redis.connection import AbstractConnection, parse_url

from mlguard.places import Node, Place
from mlguard.redis.asks import Refusal, Unreachable

MOST_IDLE = 32
LATE = "no answer in time"

_CODES = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
# Without these, each new connection would tell the server what the package is called.
_SILENT = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
REFUSALS = (
    exceptions.ResponseError,
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
)


def options(place: Place, node: Node) -> dict[str, Any]:
    """Return the arguments of a connection to a server, but for timeouts."""
    kept: dict[str, Any] = parse_url(place.template)  # type: ignore[no-untyped-call]
    kept.pop("connection_class", None)
    if place.is_encrypted:
        kept.setdefault("ssl_check_hostname", kept.get("ssl_cert_reqs", "required") == "required")
    if node.is_sentinel:
        kept.pop("db", None)
    if not node.knows_password:
        kept.pop("username", None)
        kept.pop("password", None)
    return {**kept, **_SILENT, "host": node.host, "port": node.port, "protocol": 2}


def refusal(error: Exception) -> Refusal:
    """Translate what the package redis made of an error that a server answered."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, exceptions.AuthenticationError):
        return Refusal("NOAUTH" if "required" in text else "WRONGPASS", "")
    return Refusal(_CODES[name], text) if name in _CODES else Refusal.read(text)


def unreachable(error: Exception) -> Unreachable:
    """Say what went wrong, in words that hold nothing of what was sent or set."""
    if isinstance(error, REFUSALS):
        return Unreachable(refusal(error).reason)
    causes = _causes(error)
    if any(isinstance(e, TimeoutError | exceptions.TimeoutError) for e in causes):
        return Unreachable(LATE, is_late=True)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(f"its certificate is not trusted: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return Unreachable("it does not speak TLS as it should")
        if isinstance(cause, OSError) and (cause.errno or 0) > 0:
            return Unreachable(os.strerror(cause.errno or 0))
        if isinstance(cause, OSError) and cause.errno:
            return Unreachable("its name is not known")  # socket.gaierror counts below zero
    if isinstance(error, exceptions.ConnectionError | OSError):
        return Unreachable("it closed the connection")
    return Unreachable("it does not answer as Redis does")


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    next_one: BaseException | None = error
    while next_one is not None and next_one not in found:
        found.append(next_one)
        next_one = next_one.__cause__ or next_one.__context__
    return found
