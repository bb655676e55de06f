"""What does Prometheus get, and what when many ask at once?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from prometheus_client import Metric
from prometheus_client.registry import Collector

from mlguard.app.background import Background
from mlguard.app.scrape import Page, SingleFlight
from mlguard.app.service import Service
from mlguard.guard.record import BATCH, Record
from mlguard.messages import Call
from tests.core.test_metrics import OPENMETRICS

CLASSIC = "text/plain"


class Slow:
    """Writes pages, each when it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, accept: str) -> tuple[int, str, bytes]:
        self.asked.append(accept)
        self.threads.add(threading.get_ident())
        number = len(self.asked)
        self.begun.release()
        assert self.go.acquire(timeout=60)
        if self.error is not None:
            raise self.error
        return 200, "text/plain", b"page %d" % number


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def background(slow: Slow) -> Iterator[Background]:
    background = Background("mlguard-test")
    background.add("nothing", 60.0, lambda: None)
    background.start()
    yield background
    for _ in range(100):
        slow.go.release()
    background.close()


@pytest.fixture
def scrapes(slow: Slow, background: Background) -> SingleFlight:
    return SingleFlight(slow, background.hand_over)


def page(future: Future[Page]) -> bytes:
    return future.result(timeout=60).body


class TestSharing:
    def test_a_page(self, slow: Slow, scrapes: SingleFlight) -> None:
        """A page is a status, its headers and its bytes."""
        slow.go.release()

        assert scrapes.ask(CLASSIC).result(timeout=60) == Page(
            200, (("Content-Type", "text/plain"), ("Content-Length", "6")), b"page 1"
        )

    def test_who_asks_meanwhile_shares(self, slow: Slow, scrapes: SingleFlight) -> None:
        """Whoever asks while a page is being made gets that one, which is made once."""
        first = scrapes.ask(CLASSIC)
        assert slow.begun.acquire(timeout=60)
        others = [scrapes.ask(CLASSIC) for _ in range(50)]
        slow.go.release()

        assert {page(asked) for asked in (first, *others)} == {b"page 1"}
        assert len(slow.asked) == 1

    def test_who_asks_later_does_not(self, slow: Slow, scrapes: SingleFlight) -> None:
        """Whoever asks when it is there gets a fresh one."""
        slow.go.release()
        slow.go.release()

        assert [page(scrapes.ask(CLASSIC)) for _ in "12"] == [b"page 1", b"page 2"]

    def test_who_is_told_may_ask_again(self, slow: Slow, scrapes: SingleFlight) -> None:
        """Whoever was told of a page is never given the same one again."""
        first = scrapes.ask(CLASSIC)
        again: Future[Future[Page]] = Future()
        first.add_done_callback(lambda _: again.set_result(scrapes.ask(CLASSIC)))
        slow.go.release()
        slow.go.release()

        assert page(again.result(timeout=60)) == b"page 2"

    def test_formats_are_apart(self, slow: Slow, scrapes: SingleFlight) -> None:
        """Who wants OpenMetrics and who wants the classic text get what they want."""
        pages = [scrapes.ask(accept) for accept in (CLASSIC, OPENMETRICS, "*/*", OPENMETRICS)]
        for _ in range(2):
            slow.go.release()

        assert pages[0] is pages[2]
        assert pages[1] is pages[3]
        assert len({page(asked) for asked in pages}) == 2
        assert sorted(slow.asked) == sorted([CLASSIC, OPENMETRICS])

    @pytest.mark.parametrize(
        "accept", ["a" * 100_000, "text/plain;q=0.1", "application/openmetrics-text;version=9"]
    )
    def test_what_clients_write_makes_no_more_pages(
        self, slow: Slow, scrapes: SingleFlight, accept: str
    ) -> None:
        """Whatever an Accept header says, there are two kinds of pages."""
        known = {id(scrapes.ask(CLASSIC)), id(scrapes.ask(OPENMETRICS))}

        assert id(scrapes.ask(accept)) in known

    def test_few_pages(self, slow: Slow, scrapes: SingleFlight) -> None:
        """However many ask at once, as many pages are made as there are kinds."""
        with ThreadPoolExecutor(16) as pool:
            asked = list(pool.map(lambda n: scrapes.ask((CLASSIC, OPENMETRICS)[n % 2]), range(200)))
        for _ in range(2):
            slow.go.release()

        assert len({page(one) for one in asked}) == 2
        assert len(slow.asked) == 2


class TestAtOnce:
    def test_what_takes_no_time(self, slow: Slow, background: Background) -> None:
        """What neither waits nor takes long is made by who asks, anew each time."""
        pages = [(200, CLASSIC, b"one"), (200, CLASSIC, b"two")]
        scrapes = SingleFlight(slow, background.hand_over, lambda _: pages.pop(0))

        asked = [scrapes.ask(CLASSIC) for _ in "12"]

        assert [one.done() for one in asked] == [True, True]
        assert [page(one) for one in asked] == [b"one", b"two"]
        assert not slow.asked

    def test_what_may_wait(self, slow: Slow, background: Background) -> None:
        """What may wait is made by a thread, and shared."""
        scrapes = SingleFlight(slow, background.hand_over, lambda _: None)
        first, other = scrapes.ask(CLASSIC), scrapes.ask(CLASSIC)
        assert slow.begun.acquire(timeout=60)
        slow.go.release()

        assert [page(first), page(other)] == [b"page 1"] * 2
        assert threading.get_ident() not in slow.threads


class TestFailures:
    def test_all_are_told(self, slow: Slow, scrapes: SingleFlight) -> None:
        """What went wrong is told to all who asked, and the next one is asked again."""
        slow.error = OSError("no file")
        asked = [scrapes.ask(CLASSIC) for _ in range(3)]
        slow.go.release()

        for one in asked:
            assert isinstance(one.exception(timeout=60), OSError)
        slow.error = None
        slow.go.release()
        assert page(scrapes.ask(CLASSIC)) == b"page 2"

    def test_who_goes_away_spoils_nothing(self, slow: Slow, scrapes: SingleFlight) -> None:
        """A client that goes away while it waits takes the page from nobody."""
        first, other = scrapes.ask(CLASSIC), scrapes.ask(CLASSIC)
        assert slow.begun.acquire(timeout=60)

        first.cancel()  # as asyncio.wrap_future does where its task is cancelled
        slow.go.release()

        assert page(other) == b"page 1"


class TestOfAService:
    ALONE: ClassVar[Any] = {"service": {"host_file": False}, "models": [{"name": "iris"}]}

    def test_what_prometheus_gets(self) -> None:
        """The page holds the service's numbers as of now."""
        service = Service(self.ALONE)
        exchange = service.guard.open(Call("GET"))
        exchange.started(204)
        exchange.ended()

        answer = service.scrape(CLASSIC).result(timeout=60)

        headers = dict(answer.headers)
        assert answer.status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert headers["Content-Length"] == str(len(answer.body))
        line = (
            b"http_server_request_duration_seconds_count{"
            b'http_request_method="GET",http_response_status_code="204",http_route=""} 1.0'
        )
        assert line in answer.body

    def test_its_own_numbers_are_there_at_once(self) -> None:
        """A worker that speaks for itself needs no thread for it."""
        assert Service(self.ALONE).scrape(CLASSIC).done()

    def test_a_collector_of_the_app_may_wait(self) -> None:
        """What an app registered is asked by a thread: nobody knows how long it takes."""
        service = Service(self.ALONE)
        threads: set[int] = set()

        class Asked(Collector):
            def collect(self) -> Iterator[Metric]:
                threads.add(threading.get_ident())
                return iter(())

            def describe(self) -> Iterator[Metric]:
                return iter(())

        service.metrics.registry.register(Asked())
        service.start()
        service.scrape(CLASSIC).result(timeout=60)
        service.close()

        assert len(threads) == 1
        assert threading.get_ident() not in threads

    def test_many_records_may_take_a_while(self) -> None:
        """Where many requests wait to be counted, a thread does it."""
        service = Service(self.ALONE)
        for _ in range(BATCH + 1):
            service.guard.parts.recorder.put(Record("GET"))

        assert service.expose_at_once(CLASSIC) is None
        with service.guard.parts.recorder._folding:  # somebody is at it, for as long as it takes
            assert service.expose_at_once(CLASSIC) is None
        assert b" %d.0\n" % (BATCH + 1) in page(service.scrape(CLASSIC))
