"""What do OpenTelemetry's standard variables say?

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. The settings win over each.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.util.re import parse_env_headers

from mlguard.errors import InvalidSettings
from mlguard.logs import LOGGER
from mlguard.settings import Settings, TracingSettings
from mlguard.tracing.spans import limits
from mlguard.urls import redacted_url

CONSOLE = "console"
DEFAULT = "http://127.0.0.1:4318"
TRACES = "/v1/traces"
SECONDS = 5.0  # a post may take, unless a variable says another
_MOST_SECONDS = 600
_OTLP = "OTEL_EXPORTER_OTLP_"
_SHARES = {
    "always_on": 1.0,
    "always_off": 0.0,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
}
_RATIOS = frozenset(("traceidratio", "parentbased_traceidratio"))
_LIMITS = {
    "attributes": ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
    "length": ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
    "events": ("OTEL_SPAN_EVENT_COUNT_LIMIT",),
    "links": ("OTEL_SPAN_LINK_COUNT_LIMIT",),
    "event_attributes": ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
    "link_attributes": ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
}


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who takes spans, by OTLP over HTTP.

    Attributes:
        url: Where to, with the path.
        headers: What is sent along.
        seconds: What one post may take.
        compression: "gzip", "deflate" or "none".
        certificate: The file with the authorities that are trusted, None for the system's.
        client_certificate: The file with our own certificate.
        client_key: The file with its key, None where it stands in the same.
        proxy: Through which HTTP proxy, "" for none.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    seconds: float = SECONDS
    compression: str = "none"
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    proxy: str = field(default="", repr=False)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Tell whether the SDK is switched off."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def receiver(tracing: TracingSettings, environ: Mapping[str, str]) -> Receiver:
    """Find who takes spans.

    Raises:
        InvalidSettings: A variable names what cannot be used.
    """
    url = _url(tracing, environ)
    headers = dict(parse_env_headers(_otlp(environ, "HEADERS"), liberal=True))
    address, user = _without_user(urlsplit(url))
    if user:
        headers.setdefault("authorization", user)
    return Receiver(
        url=address.geturl(),
        headers=headers,
        seconds=_seconds(environ),
        compression=_compression(environ),
        certificate=_file(environ, "CERTIFICATE"),
        client_certificate=_file(environ, "CLIENT_CERTIFICATE"),
        client_key=_file(environ, "CLIENT_KEY"),
        proxy=_proxy(address, environ),
    )


def share(tracing: TracingSettings, environ: Mapping[str, str]) -> float:
    """Tell the share of traces begun here that are kept.

    A sampler of parents keeps what a trusted peer's flag says, as all of ours do.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name or "sample" in tracing.model_fields_set:
        return tracing.sample
    if name in _SHARES:
        return _SHARES[name]
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if name in _RATIOS:
        try:
            ratio = float(text or 1)
        except ValueError:
            ratio = -1
        if 0 <= ratio <= 1:
            return ratio
        _ignored("OTEL_TRACES_SAMPLER_ARG", text, "a share in [0, 1]")
        return 1.0
    known = ", ".join(sorted((*_SHARES, *_RATIOS)))
    _ignored("OTEL_TRACES_SAMPLER", name, f"one of {known}")
    return tracing.sample


def bounds(environ: Mapping[str, str]) -> SpanLimits:
    """Tell what a span may hold."""
    found: dict[str, int] = {}
    for name, variables in _LIMITS.items():
        for variable in variables:
            text = environ.get(variable, "").strip()
            if text.isdecimal():
                found[name] = int(text)
                break
            if text:
                _ignored(variable, text, "a whole number from 0")
    return limits(**found)


def resource(settings: Settings) -> Resource:
    """Say who the service is: what the settings say, else what the variables do."""
    service = settings.service
    ours = {"service.name": service.name, "deployment.environment.name": service.environment}
    keys = {"service.name": "name", "deployment.environment.name": "environment"}
    stated = {key: ours[key] for key in ours if keys[key] in service.model_fields_set}
    found = Resource.create(stated)
    said = found.attributes
    if str(said.get("service.name", "")).startswith("unknown_service"):
        stated["service.name"] = service.name
    if "deployment.environment.name" not in said:
        stated["deployment.environment.name"] = service.environment
    return found.merge(Resource(stated))


def _otlp(environ: Mapping[str, str], name: str) -> str:
    """Read a variable of the exporter, that of traces first."""
    found = environ.get(f"{_OTLP}TRACES_{name}") or environ.get(f"{_OTLP}{name}") or ""
    return found.strip()


def _url(tracing: TracingSettings, environ: Mapping[str, str]) -> str:
    if tracing.endpoint:
        return _with_path(tracing.endpoint)
    protocol = _otlp(environ, "PROTOCOL").lower()
    if protocol not in ("", "http/protobuf"):
        raise InvalidSettings(
            f"{_OTLP}PROTOCOL = {protocol!r}: spans are sent as http/protobuf only; set "
            f"{_OTLP}TRACES_PROTOCOL=http/protobuf and an endpoint that takes it (mostly at port "
            "4318), or tracing.endpoint, which wins",
            source="environment",
        )
    for variable, finished in ((f"{_OTLP}TRACES_ENDPOINT", str), (f"{_OTLP}ENDPOINT", _with_path)):
        if text := environ.get(variable, "").strip():
            _demand_url(variable, text)
            return finished(text)
    return _with_path(DEFAULT)


def _with_path(endpoint: str) -> str:
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith(TRACES) else endpoint + TRACES


def _demand_url(variable: str, text: str) -> None:
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise InvalidSettings(
            f"{variable} = {redacted_url(text)!r}: must be a URL like {DEFAULT}",
            source="environment",
        )


def _without_user(url: SplitResult) -> tuple[SplitResult, str]:
    """Take user and password out of a URL, and write them as a header's value."""
    user, at, place = url.netloc.rpartition("@")
    if not at:
        return url, ""
    return url._replace(netloc=place), basic(user)


def basic(user: str) -> str:
    """Write a user and password as RFC 7617 does."""
    return "Basic " + base64.b64encode(unquote(user).encode()).decode("ascii")


def _compression(environ: Mapping[str, str]) -> str:
    text = _otlp(environ, "COMPRESSION").lower() or "none"
    if text in ("none", "gzip", "deflate"):
        return text
    _ignored(f"{_OTLP}COMPRESSION", text, "gzip, deflate or none")
    return "none"


def _file(environ: Mapping[str, str], name: str) -> str | None:
    path = _otlp(environ, name)
    if path and not Path(path).is_file():
        raise InvalidSettings(f"{_OTLP}{name} = {path!r}: no such file", source="environment")
    return path or None


def _seconds(environ: Mapping[str, str]) -> float:
    """Read a timeout: seconds, as the Python SDK reads it; thousands are the standard's ms."""
    text = _otlp(environ, "TIMEOUT")
    if not text:
        return SECONDS
    try:
        number = float(text)
    except ValueError:
        number = 0
    seconds = number / 1000 if number >= 1000 else number
    if 0 < seconds <= _MOST_SECONDS:
        return seconds
    _ignored(f"{_OTLP}TIMEOUT", text, f"seconds, at most {_MOST_SECONDS}")
    return SECONDS


def _proxy(url: SplitResult, environ: Mapping[str, str]) -> str:
    """Find the HTTP proxy that others use as well."""
    key = f"{url.scheme}_proxy"
    found = environ.get(key) or environ.get(key.upper()) or ""
    if not found:
        return ""
    from urllib import request

    but = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    past = request.proxy_bypass_environment(url.netloc, {"no": but})  # type: ignore[attr-defined]
    return "" if past else found


def _ignored(variable: str, text: str, must: str) -> None:
    LOGGER.warning("%s = %r is ignored: it must be %s", variable, text, must)
