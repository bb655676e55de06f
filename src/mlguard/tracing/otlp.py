"""How do spans become OTLP bytes at little cost?

Written as protocol buffers are (https://protobuf.dev/programming-guides/encoding), field by field
in the order of opentelemetry/proto/trace/v1/trace.proto; tests compare each byte with the
library's encoder, which takes ten times as long and brings protobuf into the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status

from mlguard.tracing.spans import UNSET, RecordedSpan

_SMALL_ONES = 1024
_WORD = (1 << 64) - 1
_TIMES = Struct("<BQBQ").pack
_FIXED64 = Struct("<Q").pack
_DOUBLE = Struct("<Bd").pack
_KINDS = {kind: bytes((0x30, kind.value + 1)) for kind in SpanKind}
# Members of an enumeration are slow to look up and to hash.
_IS_SERVER, _IS_INTERNAL = SpanKind.SERVER, SpanKind.INTERNAL
_SERVER, _INTERNAL = _KINDS[SpanKind.SERVER], _KINDS[SpanKind.INTERNAL]
_HAS_REMOTE, _IS_REMOTE = 0x100, 0x200
_PLAIN_STATUS = (b"\x7a\x00", b"\x7a\x02\x18\x01", b"\x7a\x02\x18\x02")
_LOCAL = b"\x85\x01" + _HAS_REMOTE.to_bytes(4, "little")
_REMOTE = b"\x85\x01" + (_HAS_REMOTE | _IS_REMOTE).to_bytes(4, "little")


def _varint(number: int) -> bytes:
    if number < _SMALL_ONES:
        return _SMALL[number]
    return _written(number)


def _written(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = tuple(map(_written, range(_SMALL_ONES)))


def _sized(body: bytes) -> bytes:
    return _varint(len(body)) + body


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _text(tag: bytes, text: str | None) -> bytes:
    """Write a string field; an empty one is none."""
    return tag + _sized(_utf8(text)) if text else b""


def _count(tag: bytes, number: int) -> bytes:
    return tag + _varint(number) if number else b""


def _any(value: Any) -> bytes:
    """Write an AnyValue.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return b"\x0a" + _sized(_utf8(value))
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("more than 64 bits")
        return b"\x18" + _varint(value & _WORD)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return b"\x3a" + _sized(value)
    if isinstance(value, Sequence):
        return b"\x2a" + _sized(b"".join(b"\x0a" + _sized(_any(v)) for v in value))
    if isinstance(value, Mapping):
        members = (b"\x0a" + _sized(_key_value(str(k), v)) for k, v in value.items())
        return b"\x32" + _sized(b"".join(members))
    raise ValueError(f"a {type(value).__name__} is no attribute")


def _key_value(key: str, value: Any) -> bytes:
    return _text(b"\x0a", key) + b"\x12" + _sized(_any(value))


def _attribute(tag: bytes, key: str, value: Any) -> bytes:
    """Write one attribute; one that cannot be written is left out."""
    try:
        return tag + _sized(_key_value(key, value))
    except ValueError:
        return b""


@lru_cache(1024, typed=True)
def _known(key: str, value: str | int) -> bytes:
    """Write a plain attribute of a span. What each span says stays known, whatever clients say."""
    return _attribute(b"\x4a", key, value)


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    return b"".join(_attribute(tag, key, value) for key, value in (attributes or {}).items())


@lru_cache(1024)
def _name(name: str) -> bytes:
    return _text(b"\x2a", name)


def span(s: RecordedSpan) -> bytes:
    """Write one span, framed as a member of its scope."""
    trace_id, span_id, _, _, state, _ = s.get_span_context()
    parent = s._parent
    parts = [b"\x0a\x10", trace_id.to_bytes(16, "big"), b"\x12\x08", span_id.to_bytes(8, "big")]
    add = parts.append
    if state:
        add(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in state.items())))
    if parent is not None:
        add(b"\x22\x08")
        add(parent[1].to_bytes(8, "big"))
    add(_name(s._name))
    kind = s._kind
    add(_SERVER if kind is _IS_SERVER else _INTERNAL if kind is _IS_INTERNAL else _KINDS[kind])
    add(_TIMES(0x39, s._start_time, 0x41, s._end_time))
    attributes = s._attributes
    if s._is_plain:
        parts += map(_known, attributes, attributes.values())
    else:
        add(_attributes(b"\x4a", attributes))
    if s._dropped:
        add(_count(b"\x50", s._dropped))
    if s._events:
        parts += map(_event, s._events)
        add(_count(b"\x60", s.dropped_events))
    if s._links:
        parts += map(_link, s._links)
        add(_count(b"\x70", s.dropped_links))
    status = s._status
    add(_PLAIN_STATUS[0] if status is UNSET else _status(status))
    add(_LOCAL if parent is None or not parent[2] else _REMOTE)
    body = b"".join(parts)
    return b"\x12" + _varint(len(body)) + body


def _status(status: Status) -> bytes:
    code = status.status_code.value
    if not status.description:
        return _PLAIN_STATUS[code]
    return b"\x7a" + _sized(_text(b"\x12", status.description) + _count(b"\x18", code))


def _event(event: Event) -> bytes:
    body = b"\x09" + _FIXED64(event.timestamp) if event.timestamp else b""
    body += _text(b"\x12", event.name) + _attributes(b"\x1a", event.attributes)
    return b"\x5a" + _sized(body + _count(b"\x20", event.dropped_attributes))


def _link(link: Link) -> bytes:
    context: SpanContext = link.context
    flags = _HAS_REMOTE | (_IS_REMOTE if context.is_remote else 0)
    body = b"\x0a\x10" + context.trace_id.to_bytes(16, "big")
    body += b"\x12\x08" + context.span_id.to_bytes(8, "big")
    body += _attributes(b"\x22", link.attributes) + _count(b"\x28", link.dropped_attributes)
    return b"\x6a" + _sized(body + b"\x35" + flags.to_bytes(4, "little"))


def _scope_spans(scope: InstrumentationScope, written: list[bytes]) -> bytes:
    body = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version)
    body += _attributes(b"\x1a", scope.attributes)
    return b"".join((b"\x0a", _sized(body), *written, _text(b"\x1a", scope.schema_url)))


def _resource_spans(resource: Resource, scopes: Iterable[bytes]) -> bytes:
    body = _attributes(b"\x0a", resource.attributes)
    members = (b"\x12" + _sized(scope) for scope in scopes)
    return b"".join((b"\x0a", _sized(body), *members, _text(b"\x1a", resource.schema_url)))


def request(spans: Iterable[tuple[Resource, InstrumentationScope, bytes]]) -> bytes:
    """Write an ExportTraceServiceRequest of spans that are written already."""
    resources: dict[int, tuple[Resource, dict[int, tuple[InstrumentationScope, list[bytes]]]]] = {}
    for resource, scope, written in spans:
        _, scopes = resources.setdefault(id(resource), (resource, {}))
        scopes.setdefault(id(scope), (scope, []))[1].append(written)
    members = (
        _resource_spans(resource, (_scope_spans(*scope) for scope in scopes.values()))
        for resource, scopes in resources.values()
    )
    return b"".join(b"\x0a" + _sized(member) for member in members)


def encoded(spans: Iterable[ReadableSpan]) -> bytes:
    """Write an ExportTraceServiceRequest of recorded spans; others are left out."""
    return request(
        (s.tracer.resource, s.tracer.scope, span(s)) for s in spans if isinstance(s, RecordedSpan)
    )
