"""What did one request leave behind: records, spans, a slot?"""

from __future__ import annotations

import gzip
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests import servers
from tests.contract.client import token
from tests.endings.wire import Got, Wire

DURATION = "http_server_request_duration_seconds"
ACTIVE = "http_server_active_requests"
AGAIN = "/again"  # the harness's own requests
SOON = 20.0  # seconds in which what ended is counted, under load too
AT_ONCE = 0.3
EXPORTED = servers.LONG  # seconds in which what ended is exported

# What the tests ask for, without buckets, which are most of the page.
_LINE = re.compile(
    r"^((?:http_server_request_duration|mlguard_inference_(?:duration|wait))_seconds_(?:count|sum)"
    r"|http_server_active_requests|mlguard_inference_errors_total|mlguard_quota_refused_total)"
    r"(?:\{(.*)\})? (\S+)$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One number of a scrape."""

    name: str
    labels: tuple[tuple[str, str], ...]


class Record(NamedTuple):
    """One request, as the metrics know it."""

    method: str
    route: str
    status: int


class Scrape(dict[Sample, float]):
    """All numbers of the metrics' page."""

    def records(self) -> Counter[Record]:
        """How often each kind of request ended."""
        return Counter(
            {
                _record(sample): int(n)
                for sample, n in self.items()
                if sample.name == f"{DURATION}_count"
            }
        )

    def seconds(self) -> Counter[Record]:
        """How long all of each kind took together."""
        taken: Counter[Record] = Counter()
        for sample, seconds in self.items():
            if sample.name == f"{DURATION}_sum":
                taken[_record(sample)] = seconds  # type: ignore[assignment]
        return taken

    def errors(self) -> Counter[tuple[str, ...]]:
        """Inferences that failed, by model and type."""
        return self._by("mlguard_inference_errors_total", "model", "error_type")

    def refused(self) -> Counter[tuple[str, ...]]:
        """What quotas refused, by model and code."""
        return self._by("mlguard_quota_refused_total", "model", "code")

    def _by(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for sample, value in self.items():
            if sample.name == name:
                found[tuple(dict(sample.labels)[label] for label in labels)] += int(value)
        return found

    def one(self, name: str, **labels: str) -> float:
        """One sample, 0 where it was never observed."""
        return self.get(Sample(name, tuple(sorted(labels.items()))), 0.0)


def _record(sample: Sample) -> Record:
    labels = dict(sample.labels)
    status = int(labels["http_response_status_code"])
    return Record(labels["http_request_method"], labels["http_route"], status)


class Collector(servers.OTLPReceiver):
    """Receives spans; what else is sent is kept as it came.

    Attributes:
        others: Each post of logs and metrics, as bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others: list[bytes] = []

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        if path == "/v1/traces":
            super().receive(path, headers, body)
        else:
            zipped = headers.get("Content-Encoding") == "gzip"
            self.others.append(gzip.decompress(body) if zipped else body)


@dataclass
class Ended:
    """One request that has ended, and what it left.

    Attributes:
        got: What the client got.
        trace_id: Of the trace that the client began.
        records: What the metrics counted since.
        seconds: How long they say it took.
        errors: `mlguard_inference_errors_total` since, by model and error type.
        refused: `mlguard_quota_refused_total` since, by model and code.
        active: How many more requests are active than before it.
        is_slot_free: Whether its caller, who has one slot, was admitted again.
        spans: The server spans of its trace.
        trace: All spans of it.
    """

    got: Got
    trace_id: str
    records: Counter[Record] = field(default_factory=Counter)
    seconds: float = 0.0
    errors: Counter[tuple[str, ...]] = field(default_factory=Counter)
    refused: Counter[tuple[str, ...]] = field(default_factory=Counter)
    active: float = -1
    is_slot_free: bool = False
    spans: list[dict[str, Any]] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)


class Service:
    """A guarded service behind a real server, and its callers.

    Args:
        server: The running server.
        collector: Where its spans go.
        gates: Where its handlers look for gates.
        prefix: What stands before each path.
    """

    def __init__(
        self, server: servers.Server, collector: Collector, gates: Path, prefix: str = ""
    ) -> None:
        self.server, self.collector, self.prefix = server, collector, prefix
        self._gates = gates

    def open(
        self,
        method: str,
        path: str,
        *,
        subject: str,
        trace_id: str | None = None,
        body: bytes = b"",
    ) -> Wire:
        """Send a request of that caller, within that trace."""
        headers = {
            "Authorization": f"Bearer {token_of(subject)}",
            "traceparent": f"00-{trace_id or new_trace()}-b7ad6b7169203331-01",
        }
        return Wire(self.server.url, method, self.prefix + path, headers, body)

    def ask(self, method: str, path: str, *, subject: str, **more: Any) -> Got:
        """Send a request and read the whole answer."""
        with self.open(method, path, subject=subject, **more) as wire:
            return wire.rest()

    def scrape(self, page: str = "/metrics") -> Scrape:
        """Read the metrics."""
        text = servers.ask(self.server.url + page).text
        found = Scrape()
        for name, labels, value in _LINE.findall(text):
            found[Sample(name, tuple(sorted(_LABEL.findall(labels))))] = float(value)
        return found

    def opened(self, gate: str) -> None:
        """Let a handler pass that stands at that gate, or will."""
        (self._gates / gate).touch()

    def reached(self, gate: str) -> None:
        """Wait until a handler stands at that gate."""
        path = self._gates / f"{gate}.reached"
        servers.wait_until(path.exists, f"a handler reaches {gate}")

    def watch(
        self,
        act: Callable[[str, str], Got],
        *,
        name: str = "",
        subject: str = "",
        page: str = "/metrics",
    ) -> Ended:
        """Do what a client does, and find out what it left.

        Args:
            act: What the client does, with its name and a trace id.
            name: Begins the name of a caller of its own.
            subject: Names one who has asked before.
            page: Where the metrics are.
        """
        before = self.scrape(page)
        trace_id, subject = new_trace(), subject or f"{name}-{uuid.uuid4().hex[:8]}"
        ended = Ended(act(subject, trace_id), trace_id)
        is_counted = _eventually(lambda: _since(before, self.scrape(page)))
        within = SOON if is_counted else AT_ONCE  # whoever is never counted need not be waited for
        ended.is_slot_free = _eventually(lambda: self._is_admitted(subject), within)
        active = before.one(ACTIVE)
        scrapes = [before]

        def is_idle() -> bool:
            scrapes.append(self.scrape(page))
            return scrapes[-1].one(ACTIVE) <= active

        _eventually(is_idle, within)
        after = scrapes[-1]
        ended.active = after.one(ACTIVE) - active
        ended.records = _since(before, after)
        taken = after.seconds()
        taken.subtract(before.seconds())
        ended.seconds = sum(taken[record] for record in ended.records)
        ended.errors = after.errors() - before.errors()
        ended.refused = after.refused() - before.refused()
        return ended

    def _is_admitted(self, subject: str) -> bool:
        return self.ask("GET", AGAIN, subject=subject).status == 200

    def exported(self) -> None:
        """Wait until what has ended is exported, by asking once more."""
        trace_id = new_trace()
        self.ask("GET", AGAIN, subject=f"last-{trace_id}", trace_id=trace_id)
        _eventually(lambda: self.collector.trace(trace_id), within=EXPORTED)

    def ask_last(self) -> Ended:
        """Ask, right before the server is told to end, once what was before is exported."""
        self.exported()
        trace_id = new_trace()
        got = self.ask("GET", AGAIN, subject=f"last-{trace_id}", trace_id=trace_id)
        return Ended(got, trace_id)

    def find_spans(self, all_ended: Sequence[Ended]) -> None:
        """Give each ended request its spans; call it when the server has stopped."""
        for ended in all_ended:
            ended.trace = self.collector.trace(ended.trace_id)
            ended.spans = [span for span in ended.trace if span["kind"] == "server"]


def new_trace() -> str:
    """Make the id of a trace that nobody has begun."""
    return uuid.uuid4().hex


SECRET = "secret-"  # begins each value that no span may show


def leaks(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Find what spans say that no span may: values of a query, messages, stacks."""
    told = [str(v) for s in spans for v in (s["message"], *s["attributes"].values())]
    told += [str(v) for s in spans for e in s["events"] for v in e["attributes"].values()]
    return [text for text in told if SECRET in text or "Traceback" in text]


def _since(before: Scrape, after: Scrape) -> Counter[Record]:
    """What was counted since, without the harness's own requests."""
    return Counter(
        {
            r: n
            for r, n in (after.records() - before.records()).items()
            if not r.route.endswith(AGAIN)
        }
    )


def _eventually(probe: Callable[[], Any], within: float = SOON) -> bool:
    """Whether the probe is true within some seconds; what it is not is for the test to say."""
    try:
        return bool(servers.wait_until(probe, "it is so", within=within))
    except AssertionError:
        return False


_TOKENS: dict[str, str] = {}
_LOCK = threading.Lock()


def token_of(subject: str) -> str:
    """Sign a token for that caller, once."""
    with _LOCK:
        if subject not in _TOKENS:
            _TOKENS[subject] = token(subject)
        return _TOKENS[subject]
