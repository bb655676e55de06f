"""Do keys come over the network, in time, whatever the key server does? A real one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from mlguard.app.background import Background
from mlguard.auth import KeySet
from mlguard.auth.keyring import Keyring
from mlguard.keys import KeyFetcher
from mlguard.keys.freshness import freshness
from mlguard.keys.supply import Fetched, FetchFailed, Supply
from mlguard.logs import RateLimitedLog
from mlguard.settings import Auth
from tests.keyserver import (
    DISCOVERY,
    HOST,
    JWKS,
    Behaviour,
    KeyServer,
    body,
    drip,
    hang_up,
    held,
    key_pair,
    key_set,
    lies,
    redirect,
    slowly,
    stall,
    stall_after_head,
    tls_server,
)
from tests.servers import LONG, ROOT, free_port, wait_until

OLD, NEW = key_pair("old"), key_pair("new")
NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
SOON = 30.0  # seconds that a good fetch takes at the very most, under load too


def settings(issuer: str, **others: Any) -> dict[str, Any]:
    return {"issuer": issuer, "audience": "iris-api", "algorithms": ["ES256"]} | others


class Service:
    """A service that accepts one issuer, and what it sees of the issuer's keys."""

    def __init__(
        self,
        server: KeyServer,
        *,
        discover: bool = False,
        issuer: str = "",
        first_pause: float = 1.0,
        short_timeout: float = 0,
        **others: Any,
    ) -> None:
        source = {} if discover else {"jwks_url": server.jwks_url}
        self.ring = Keyring()
        self.results: list[str] = []
        # No operator may set less than a second, which is long for a test.
        short = {"jwks_timeout": short_timeout} if short_timeout else {}
        auth = Auth.model_validate(settings(issuer or server.url) | source | others)
        auth = auth.model_copy(update=short)
        self.fetcher = KeyFetcher(
            auth,
            {auth.issuers[0].issuer: self.ring},
            on_result=lambda _, result: self.results.append(result),
            wake=lambda: self._background.wake("keys"),
            first_pause=first_pause,
            chance=lambda: 0.5,
        )
        self._background = Background("mlguard-test")
        self._background.add("keys", 60.0, self.fetcher.look_after)

    def __enter__(self) -> Self:
        self.fetcher.start()
        self._background.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fetcher.close()
        self._background.close()

    def kids(self) -> set[str | None]:
        keys = self.ring.keys()
        return {key.kid for key in keys.candidates("ES256", None)} if keys else set()

    def ready(self, *kids: str) -> Self:
        """Wait until it holds these keys and fetches no more."""
        wait_until(lambda: self.kids() == set(kids or ("old",)), f"the keys {kids}", within=SOON)
        return self

    def result(self, number: int) -> str:
        """Wait for the result of a fetch."""
        wait_until(lambda: len(self.results) > number, f"{number + 1} fetches", within=SOON)
        return self.results[number]

    def ask(self) -> Future[None]:
        """Ask for a fetch, which must be possible."""
        flight = self.ring.fetch()
        assert flight is not None
        return flight


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        server.serve(OLD)
        yield server


# Who waits


def test_keys_are_there_before_anybody_asks(server: KeyServer) -> None:
    """The start alone brings the keys, with one request."""
    with Service(server) as service:
        service.ready()

        assert (service.results, server.count()) == (["ok"], 1)


def test_nothing_to_wait_for_outside_the_service_life(server: KeyServer) -> None:
    """Before the start and after the end, asking gives nothing to wait for."""
    service = Service(server)
    before = service.ring.fetch()
    with service:
        service.ready()

    assert (before, service.ring.fetch(), service.kids()) == (None, None, {"old"})


def test_start_and_close_are_safe_to_repeat(server: KeyServer) -> None:
    """A second start changes nothing, a second end neither, and one may start again."""
    service = Service(server)
    for _ in range(2):
        with service:
            service.fetcher.start()
            wait_until(lambda: service.results, "a fetch")
            service.results.clear()
        service.fetcher.close()

    assert server.count() == 2


def test_the_start_waits_for_nothing(server: KeyServer) -> None:
    """The start returns at once, though the key server never answers."""
    server.answer(stall)
    service = Service(server)

    began = time.perf_counter()
    with service:
        took = time.perf_counter() - began

    assert took < 2


def test_who_waits_for_the_start(server: KeyServer) -> None:
    """Who waits for the first fetch has the keys, or has waited for as long as one may take."""
    with Service(server) as service:
        service.fetcher.wait()
        assert service.kids() == {"old"}

    server.answer(stall)
    with Service(server, short_timeout=0.2) as service:
        service.fetcher.wait()
        assert service.kids() == set()


def test_fifty_who_ask_at_once_share_one_fetch(server: KeyServer) -> None:
    """Fifty threads that need a key at the same moment cost the issuer one request."""
    with Service(server) as service:
        service.ready()
        go = threading.Event()
        server.answer(held(key_set(OLD, NEW), go))
        gate = threading.Barrier(50)
        seen: list[set[str | None]] = []

        def need() -> None:
            gate.wait()
            service.ask().result(SOON)
            seen.append(service.kids())

        threads = [threading.Thread(target=need) for _ in range(50)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.count() == 2, "the request")
        go.set()
        for thread in threads:
            thread.join()

        assert (seen, server.count()) == ([{"old", "new"}] * 50, 2)


def test_asking_takes_no_time(server: KeyServer) -> None:
    """Asking returns within a millisecond while the key server stalls."""
    with Service(server) as service:
        service.ready()
        server.answer(stall)

        took = []
        for _ in range(1000):
            began = time.perf_counter()
            service.ask()
            took.append(time.perf_counter() - began)

        assert statistics.median(took) < 0.001


def test_who_gives_up_disturbs_nobody(server: KeyServer) -> None:
    """A waiter that is cancelled, and one whose time is over, leave the fetch to the others."""

    async def wait_together() -> None:
        flight = service.ask()
        leaver = asyncio.ensure_future(asyncio.wrap_future(flight))
        stayer = asyncio.ensure_future(asyncio.shield(asyncio.wrap_future(flight)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(flight), 0.05)
        leaver.cancel()
        await asyncio.wait([leaver])
        go.set()
        await stayer

    with Service(server) as service:
        service.ready()
        go = threading.Event()
        server.answer(held(key_set(OLD, NEW), go))

        asyncio.run(wait_together())

        assert (service.kids(), service.results) == ({"old", "new"}, ["ok", "ok"])


def test_a_flight_cannot_be_cancelled(server: KeyServer) -> None:
    """What is waited for belongs to all who wait."""
    with Service(server) as service:
        flight = service.ready().ask()

        assert not flight.cancel()
        assert flight.result(SOON) is None


def test_the_end_is_quick_and_frees_who_waits(server: KeyServer) -> None:
    """Closing takes less than a second, ends the thread, and nobody waits any longer."""
    with Service(server) as service:
        service.ready()
        server.answer(stall)
        flight = service.ask()
        wait_until(lambda: server.count() == 2, "the request")

        began = time.perf_counter()
        service.fetcher.close()
        took = time.perf_counter() - began

    assert took < 3
    assert flight.done()
    assert "mlguard-keys" not in {thread.name for thread in threading.enumerate()}


def test_whoever_may_wait_is_freed(server: KeyServer) -> None:
    """Everything that was handed out to wait for ends, whatever came in between."""
    rotation = itertools.cycle([key_set(OLD), key_set(NEW)])
    server.answer(lambda exchange: next(rotation)(exchange))
    with Service(server) as service:
        wait_until(service.ring.keys, "the first keys")
        ending = threading.Event()
        flights: set[Future[None]] = set()

        def insist() -> None:
            while not ending.is_set():
                if (flight := service.ring.fetch()) is not None:
                    flights.add(flight)

        threads = [threading.Thread(target=insist) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.count() > 20, "20 fetches")
        service.fetcher.close()
        ending.set()
        for thread in threads:
            thread.join()

        assert all(flight.done() for flight in flights)
        assert len(flights) == pytest.approx(server.count(), abs=2)


def test_issuers_do_not_wait_for_each_other(server: KeyServer) -> None:
    """An issuer that stalls keeps no other one's keys from coming."""
    with KeyServer() as other:
        other.answer(stall)
        issuers = [settings(s.url, jwks_url=s.jwks_url) for s in (other, server)]
        rings = {s.url: Keyring() for s in (other, server)}
        auth = Auth.model_validate({"issuers": issuers, "jwks_timeout": 30})
        fetcher = KeyFetcher(auth, rings, on_result=lambda *_: None)

        fetcher.start()
        wait_until(rings[server.url].keys, "the good one's keys", within=SOON)
        fetcher.close()

        assert rings[other.url].keys() is None


# When it is fetched


def test_a_fruitless_request_starts_the_cooldown(server: KeyServer) -> None:
    """After a fetch that brought nothing new, none can be asked for until the cooldown is over."""
    with Service(server, jwks_cooldown=1) as service:
        service.ready().ask().result(SOON)
        ended = time.monotonic()
        refused = service.ring.fetch()
        wait_until(service.ring.fetch, "the end of the cooldown")

        assert refused is None
        assert time.monotonic() - ended > 0.9


def test_a_rotation_starts_no_cooldown(server: KeyServer) -> None:
    """After a fetch that brought a new key, the next may be asked for at once."""
    with Service(server, jwks_cooldown=3600) as service:
        service.ready()
        server.serve(OLD, NEW)
        service.ask().result(SOON)
        server.serve(NEW, key_pair("newer"))
        service.ask().result(SOON)

        assert service.kids() == {"new", "newer"}


def test_replicas_that_differ_cause_no_flood(server: KeyServer) -> None:
    """A server that shows one old set and another in turns is not asked without a pause."""
    with Service(server, jwks_cooldown=3600) as service:
        service.ready()
        for keys in ([NEW], [OLD], [NEW]):
            server.serve(*keys)
            wait_until(lambda: service.ring.fetch() is not None, "it may be asked")
            wait_until(lambda k=keys: service.kids() == {key.kid for key in k}, "they are there")

        assert service.ring.fetch() is None


def test_a_key_of_the_same_name_is_a_new_key(server: KeyServer) -> None:
    """An issuer that reuses a kid for another key is not taken for fruitless."""
    with Service(server, jwks_cooldown=3600) as service:
        service.ready()
        server.serve(NEW.jwk | {"kid": "old"})
        service.ask().result(SOON)

        assert service.ring.fetch() is not None


def test_joining_a_fetch_that_nobody_asked_for_starts_no_cooldown(server: KeyServer) -> None:
    """Who joined a fetch that began before the key was there may ask a second time."""
    with Service(server, jwks_max_age=1, jwks_cooldown=3600) as service:
        service.ready()
        go = threading.Event()
        server.answer(held(key_set(OLD), go))
        wait_until(lambda: server.count() == 2, "the fetch in the background")
        joined = service.ask()
        server.serve(OLD, NEW)
        go.set()
        joined.result(SOON)
        missing = service.kids()
        service.ask().result(SOON)

        assert (missing, service.kids()) == ({"old"}, {"old", "new"})


def test_a_rotation_is_seen_in_the_background(server: KeyServer) -> None:
    """Keys are fetched anew before they are too old, without any request; retired ones go."""
    with Service(server, jwks_max_age=1) as service:
        service.ready()
        server.serve(NEW)
        service.ready("new")


def test_freshness_comes_from_the_headers(server: KeyServer) -> None:
    """An issuer that says its keys hold for long is not asked before jwks_max_age."""
    server.serve(OLD, Cache_Control="max-age=86400")
    with Service(server, jwks_max_age=2) as service:
        service.ready()
        began = time.monotonic()
        wait_until(lambda: server.count() == 2, "the second fetch")

        assert time.monotonic() - began > 1.4


@pytest.mark.parametrize(
    ("headers", "most", "seconds"),
    [
        pytest.param({}, 600, 600, id="nothing said"),
        pytest.param({"cache-control": "max-age=120"}, 600, 120, id="max-age"),
        pytest.param({"cache-control": 'Public, Max-Age="120"'}, 600, 120, id="quoted, any case"),
        pytest.param({"cache-control": "max-age=120, max-age=500"}, 600, 120, id="the first holds"),
        pytest.param({"cache-control": "max-age=86400"}, 600, 600, id="too long"),
        pytest.param({"cache-control": "max-age=" + "9" * 5000}, 600, 600, id="absurd"),
        pytest.param({"cache-control": "max-age=5"}, 600, 30, id="too short"),
        pytest.param({"cache-control": "max-age=5"}, 20, 20, id="shorter than the settings allow"),
        pytest.param({"cache-control": "max-age=-1"}, 600, 30, id="negative"),
        pytest.param({"cache-control": "max-age=soon"}, 600, 30, id="no number"),
        pytest.param({"cache-control": "max-age=²"}, 600, 30, id="no ASCII digit"),
        pytest.param({"cache-control": "no-store, max-age=500"}, 600, 30, id="no-store"),
        pytest.param({"cache-control": 'no-cache="x, y"'}, 600, 30, id="no-cache"),
        pytest.param({"cache-control": "public"}, 600, 600, id="no lifetime"),
        pytest.param({"cache-control": "max-age=500", "age": "200"}, 600, 300, id="aged"),
        pytest.param({"cache-control": "max-age=500", "age": "900"}, 600, 30, id="aged out"),
        pytest.param({"cache-control": "max-age=500", "age": "x"}, 600, 500, id="age unreadable"),
        pytest.param({"expires": "Fri, 15 Jan 2027 08:02:00 GMT"}, 600, 120, id="expires"),
        pytest.param(
            {"expires": "Fri, 15 Jan 2027 08:02:00 GMT", "date": "Fri, 15 Jan 2027 08:01:00 GMT"},
            600,
            60,
            id="expires by the server's clock",
        ),
        pytest.param(
            {"expires": "Fri, 15 Jan 2027 08:02:00 GMT", "cache-control": "max-age=300"},
            600,
            300,
            id="max-age before expires",
        ),
        pytest.param({"expires": "0"}, 600, 30, id="expired"),
        pytest.param({"expires": "Fri, 99 Jan 2027 08:02:00 GMT"}, 600, 30, id="no date"),
        pytest.param({"expires": "Fri, 15 Jan 2077 08:02:00 GMT"}, 600, 600, id="expires late"),
    ],
)
def test_freshness(headers: Mapping[str, str], most: int, seconds: float) -> None:
    """Keys are fresh for as long as the headers say, within bounds."""
    assert freshness(headers, most, NOW) == seconds


def _fails(*_: object) -> Fetched:
    raise FetchFailed("status", "it answers 500")


def _breaks(*_: object) -> Fetched:
    raise RecursionError


def supply(chance: float, timer: Callable[[], float] = time.monotonic, **others: Any) -> Supply:
    auth = Auth.model_validate(settings("https://a.example", **others))
    return Supply(
        auth.issuers[0],
        Keyring(),
        auth,
        on_result=lambda *_: None,
        log=RateLimitedLog(),
        first_pause=1.0,
        chance=lambda: chance,
        timer=timer,
    )


@pytest.mark.parametrize(
    ("chance", "others", "pauses"),
    [
        (0.5, {}, [1, 2, 4, 8, 16, 30, 30]),
        (0.5, {"jwks_max_age": 3}, [1, 2, 3, 3, 3, 3, 3]),
        (0.0, {}, [0.9, 1.8, 3.6, 7.2, 14.4, 27, 27]),
        (1.0, {}, [1.1, 2.2, 4.4, 8.8, 17.6, 33, 33]),
    ],
    ids=["doubling", "never beyond max_age", "earliest", "latest"],
)
def test_failures_are_followed_by_longer_pauses(
    chance: float, others: dict[str, Any], pauses: list[float]
) -> None:
    """A server in trouble is asked more and more seldom, by workers that do not come together."""
    failing = supply(chance, **others)
    found = []
    for _ in pauses:
        failing.fetch(_fails)
        found.append(failing.pause())

    assert found == pytest.approx(pauses)


def test_failures_make_askers_wait_no_longer_than_the_cooldown() -> None:
    """After failures none may ask for 1, 2, 4 … seconds, up to the cooldown."""
    failing = supply(0.5, jwks_cooldown=5)
    found = []
    for _ in range(20):
        failing.fetch(_fails)
        found.append(failing.quiet(True))

    assert found == [1, 2, 4] + [5] * 17


def test_a_broken_fetch_is_a_failure_like_others(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of our own in a fetch is said and the fetch tried again."""
    broken = supply(0.5)

    assert "RecursionError" in str(broken.fetch(_breaks))
    assert broken.pause() == 1
    assert "https://a.example" in caplog.text


# What a key server can do to us


@pytest.mark.parametrize(
    ("behaviour", "discover"),
    [
        pytest.param(stall, False, id="never answers"),
        pytest.param(stall_after_head, False, id="never sends the body"),
        pytest.param(drip, False, id="sends single bytes"),
        pytest.param(slowly(key_set(OLD), 0.4), True, id="slow discovery and slow keys"),
    ],
)
def test_a_slow_server_is_cut_off(server: KeyServer, behaviour: Behaviour, discover: bool) -> None:
    """A whole fetch takes no longer than jwks_timeout."""
    server.discover()
    server.answer(slowly(server.answers[DISCOVERY], 0.4), DISCOVERY)
    server.answer(behaviour)
    began = time.monotonic()
    with Service(server, discover=discover, short_timeout=0.5) as service:
        result = service.result(0)

        assert (result, service.ring.is_failing) == ("timeout", True)
        assert 0.4 < time.monotonic() - began < 5


def test_a_stalled_handshake_is_cut_off() -> None:
    """A server that accepts and begins no TLS is a timeout too, and its connection is closed."""
    with socket.create_server((HOST, 0)) as listener, KeyServer() as unused:
        url = f"https://{HOST}:{listener.getsockname()[1]}/jwks"
        with Service(unused, jwks_url=url, short_timeout=0.5) as service:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(SOON)
                while connection.recv(4096):
                    pass

            assert service.result(0) == "timeout"


@pytest.mark.parametrize(
    ("lie", "result"), [pytest.param(lie, result, id=name) for name, lie, result in lies()]
)
def test_a_lie_replaces_no_good_keys(server: KeyServer, lie: Behaviour, result: str) -> None:
    """Whatever a key server answers instead of its keys, the last good ones go on."""
    with Service(server) as service:
        service.ready()
        server.answer(lie)
        service.ask().result(SOON)

        assert service.results == ["ok", result]
        assert (service.kids(), service.ring.is_failing) == ({"old"}, True)


def test_unusable_keys_are_left_out_and_said_once(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad key in a set costs that key only, and one line for all fetches."""
    server.serve(OLD, *({"kty": "EC", "crv": "P-256", "kid": f"bad{n}"} for n in range(5)))
    with Service(server) as service:
        service.ready().ask().result(SOON)

    [line] = caplog.messages
    assert "'bad0'" in line
    assert line.endswith("; and 2 more")


def test_keys_outlive_their_server_for_a_while_only(server: KeyServer) -> None:
    """Without a key server, keys are gone jwks_max_age and jwks_max_stale after their fetch."""
    with Service(server, jwks_max_age=1, jwks_max_stale=2, first_pause=0.2) as service:
        service.ready()
        put = time.monotonic() - (service.ring.age() or 0)
        server.die()
        wait_until(lambda: time.monotonic() - put > 1.2, "jwks_max_age")
        stale = service.kids()
        wait_until(lambda: service.ring.keys() is None, "the end of the keys")
        gone = time.monotonic() - put
        server.live()
        service.ready()

        assert (stale, service.results[0], service.results[-1]) == ({"old"}, "ok", "ok")
        assert "unreachable" in service.results
        assert gone > 2.9
        assert not service.ring.is_failing


def test_a_server_that_is_down_is_not_asked_at_will(server: KeyServer) -> None:
    """Without any keys, who asks waits for the fetch under way, else for the back-off."""
    server.answer(hang_up)
    with Service(server) as service:
        assert service.result(0) == "unreachable"
        refused = service.ring.fetch()
        server.serve(OLD)
        service.ready()

        assert (refused, service.results) == (None, ["unreachable", "ok"])


def test_the_log_says_what_to_do_once(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute for each kind of trouble, with the issuer and the way out, no secret."""
    caplog.set_level(logging.INFO, "mlguard")
    server.answer(body("who are you?", 401))
    secret = f"{server.jwks_url}?key=hunter2"
    with Service(server, jwks_url=secret, first_pause=0.1) as service:
        wait_until(lambda: len(service.results) >= 2, "two fetches")
        server.serve(OLD)
        service.ready()

    failed, again = [r.getMessage() for r in caplog.records if r.name == "mlguard"]
    assert failed == (
        f"the keys of {server.url} cannot be fetched: {server.jwks_url}?... answers 401: "
        "check the address, or ask its owner; its tokens get a 503"
    )
    assert again == f"the keys of {server.url} are fetched again"


def test_a_broken_observer_stops_no_fetch(server: KeyServer) -> None:
    """Whoever is told of results cannot end the fetching by raising."""
    service = Service(server, jwks_max_age=1)
    service.results = None  # type: ignore[assignment]
    with service:
        service.ready()
        server.serve(NEW)
        service.ready("new")


# Where the keys are


def test_the_issuer_alone_is_enough(server: KeyServer) -> None:
    """Discovery finds the keys from the issuer; what it found is remembered."""
    server.discover()
    with Service(server, discover=True) as service:
        service.ready()
        server.serve(NEW)
        service.ask().result(SOON)

        assert service.kids() == {"new"}
        assert (server.count(DISCOVERY), server.count()) == (1, 2)


def test_an_issuer_may_end_with_a_slash(server: KeyServer) -> None:
    """The slash at the end of an issuer is no part of the discovery path, but of the issuer."""
    server.discover(issuer=f"{server.url}/")
    with Service(server, discover=True, issuer=f"{server.url}/") as service:
        service.ready()


def test_keys_may_be_on_another_host(server: KeyServer) -> None:
    """Discovery may name a key server elsewhere."""
    with KeyServer() as issuer:
        issuer.discover(jwks_uri=server.jwks_url)
        with Service(issuer, discover=True) as service:
            service.ready()


def test_keys_that_moved_are_found_anew(server: KeyServer) -> None:
    """After a failed fetch, discovery is asked where the keys are now."""
    server.discover()
    with Service(server, discover=True, first_pause=0.1) as service:
        service.ready()
        server.answer(body(b"", 404))
        server.answer(key_set(NEW), "/moved")
        server.discover(jwks_uri=f"{server.url}/moved")
        service.ask().result(SOON)
        service.ready("new")

        assert service.results == ["ok", "status", "ok"]


def test_discovery_is_repeated_each_day() -> None:
    """A key server that moved is found within a day, even while the old one still answers."""
    clock = [0.0]
    known: list[str | None] = []
    keys = KeySet([OLD.jwk])

    def fetch(_: object, address: str | None) -> Fetched:
        known.append(address)
        return Fetched(keys, 600, "https://keys.example/")

    discovering = supply(0.5, lambda: clock[0])
    for clock[0] in (0, 600, 86_399, 86_401, 87_000):
        discovering.fetch(fetch)

    found = "https://keys.example/"
    assert known == [None, found, found, None, found]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"issuer": "https://evil.example"}, "speaks for the issuer 'https://evil.example'"),
        ({"issuer": None}, "speaks for the issuer None"),
        ({"jwks_uri": None}, "names no jwks_uri"),
        ({"jwks_uri": ["https://keys.example"]}, "names no jwks_uri"),
        ({"jwks_uri": "http://keys.example.net/jwks?x=y"}, "at 'http://keys.example.net/jwks?...'"),
        ({"jwks_uri": "https://me:word@keys.example.net/"}, "at 'https://...@keys.example.net/'"),
        ({"jwks_uri": "file:///etc/passwd"}, "no https:// URL"),
        ({"jwks_uri": "https://"}, "no https:// URL"),
        ({"jwks_uri": "https://a\nb/"}, "no https:// URL"),
        ({"jwks_uri": ""}, "no https:// URL"),
    ],
    ids=[
        "another issuer",
        "no issuer",
        "no keys",
        "a list",
        "in clear text",
        "a password",
        "a file",
        "no host",
        "a line break",
        "empty",
    ],
)
def test_discovery_is_not_believed_blindly(
    server: KeyServer, members: dict[str, Any], said: str
) -> None:
    """A discovery document speaks for its own issuer and names a safe address, or is refused."""
    server.discover(**members)
    service = Service(server, discover=True)

    problem = service.fetcher.fetch_once()[server.url]

    assert service.results == ["invalid"]
    assert said in (problem or "")
    assert "\n" not in (problem or "")


@pytest.mark.parametrize(
    "document", ["[]", "{", '{"issuer": 1, "issuer": 1}'], ids=["list", "truncated", "twice"]
)
def test_a_discovery_document_is_an_object(server: KeyServer, document: str) -> None:
    """What is no JSON object with unique members is no discovery document."""
    server.answer(body(document), DISCOVERY)
    service = Service(server, discover=True)
    service.fetcher.fetch_once()

    assert service.results == ["invalid"]


def test_redirects_within_the_host_are_followed(server: KeyServer) -> None:
    """Three redirects to the same scheme, host and port lead to the keys."""
    server.answer(redirect("/a"))
    server.answer(redirect("b", 307), "/a")
    server.answer(redirect(f"{server.url}/c", 308), "/b")
    server.answer(key_set(OLD), "/c")
    with Service(server) as service:
        service.ready()


def test_four_redirects_are_too_many(server: KeyServer) -> None:
    """The fourth redirect is not followed."""
    for number in range(4):
        server.answer(redirect(f"/{number + 1}"), f"/{number}" if number else JWKS)
    server.answer(key_set(OLD), "/4")
    service = Service(server)
    service.fetcher.fetch_once()

    assert (service.results, server.count("/4")) == (["redirect"], 0)


def test_the_client_says_who_it_is_and_takes_no_code(server: KeyServer) -> None:
    """Requests carry the kit's name, and accept no compression."""
    with Service(server) as service:
        service.ready()

        assert server.headers["User-Agent"].startswith("mlguard/")
        assert server.headers["Accept-Encoding"] == "identity"


def test_proxies_are_for_other_hosts(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies from the environment are used, but not to reach this machine itself."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, server.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    near = Service(server)
    far = Service(server, jwks_url="https://keys.example.net/jwks")
    near.fetcher.fetch_once()
    far.fetcher.fetch_once()

    assert (near.results, far.results) == (["ok"], ["unreachable"])
    assert server.count("keys.example.net:443") == 1


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come over TLS from a server whose certificate is trusted, and from no other."""
    with tls_server(tmp_path) as (server, trusted):
        server.serve(OLD)
        stranger, friend = Service(server), Service(server)
        stranger.fetcher.fetch_once()
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        friend.fetcher.fetch_once()

        assert (stranger.results, friend.results) == (["unreachable"], ["ok"])
        assert (stranger.kids(), friend.kids()) == (set(), {"old"})


def test_secrets_are_never_fetched(server: KeyServer) -> None:
    """A set of secrets is refused even where the settings allow HMAC."""
    server.serve({"kty": "oct", "kid": "s", "alg": "HS256", "k": "c2VjcmV0" * 8})
    auth = Auth.model_validate(settings(server.url, jwks_url=server.jwks_url))
    issuer = auth.issuers[0].model_copy(update={"algorithms": ("HS256",)})
    symmetric = auth.model_copy(update={"issuers": (issuer,)})
    ring = Keyring()
    fetcher = KeyFetcher(symmetric, {server.url: ring}, on_result=lambda *_: None)

    assert "holds secrets" in (fetcher.fetch_once()[server.url] or "")
    assert ring.keys() is None


# Processes


def test_a_command_line_fetches_once(server: KeyServer) -> None:
    """All issuers are fetched, and each problem is named."""
    down = f"http://{HOST}:{free_port()}"
    issuers = [settings(url, jwks_url=url + JWKS) for url in (server.url, down)]
    auth = Auth.model_validate({"issuers": issuers})
    fetcher = KeyFetcher(auth, {i.issuer: Keyring() for i in auth.issuers}, on_result=print)

    problems = fetcher.fetch_once()

    assert problems[server.url] is None
    assert f"{down}{JWKS} cannot be asked" in (problems[down] or "")


FORKED = textwrap.dedent("""
    import os, sys, time
    from mlguard.auth.keyring import Keyring
    from mlguard.keys import KeyFetcher
    from mlguard.settings import Auth

    def wait(what):
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    url = sys.argv[1]
    auth = Auth(issuer=url, audience="a", algorithms=("ES256",), jwks_url=url + "/jwks")
    ring, results = Keyring(), []
    fetcher = KeyFetcher(auth, {url: ring}, on_result=lambda _, result: results.append(result))
    fetcher.start()
    wait(ring.keys)
    child = os.fork()
    if child == 0:
        results.clear()
        assert ring.fetch() is None
        fetcher.close()
        assert ring.keys()
        fetcher.start()
        wait(lambda: results == ["ok"])
        ring.fetch().result(10)
        fetcher.close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ring.fetch().result(10)
    assert results == ["ok", "ok"]
    fetcher.close()
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_starts_anew(server: KeyServer) -> None:
    """A forked child fetches nothing until it starts, and leaves the parent's fetches alone."""
    ran = subprocess.run(
        # Later versions warn of any fork beside threads.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, server.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )

    assert (ran.returncode, ran.stderr, server.count()) == (0, "", 4)


def test_a_fetch_that_cannot_work_says_so(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its HTTP client a fetch fails like others, and leaves nobody waiting."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "mlguard.keys.download", None)
        with Service(server) as service:
            assert service.result(0) == "invalid"
            assert service.ring.fetch() is None
            patched.undo()
            service.ready()

    assert "a fetch broke with ModuleNotFoundError" in caplog.text


def test_the_http_client_is_imported_where_it_is_needed() -> None:
    """Importing and making a fetcher imports no HTTP client."""
    code = "import sys, mlguard.keys; print('httpx2' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ran.stdout == "False\n"


# Names


def test_localhost_is_this_machine(server: KeyServer) -> None:
    """Keys may come in clear text from localhost, by its name."""
    with Service(server, jwks_url=server.jwks_url.replace(HOST, "localhost")) as service:
        service.ready()


def test_a_name_server_that_hangs_holds_nobody(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that takes a minute is a timeout, and nobody waits for it at the end."""
    go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go.wait(60))
    with Service(server, jwks_url="https://keys.example.net/jwks", short_timeout=0.5) as service:
        result = service.result(0)
        began = time.perf_counter()
    took = time.perf_counter() - began
    go.set()

    assert result == "timeout"
    assert took < 5


def test_an_unknown_name_is_unreachable(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not exist is said to be unreachable."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    service = Service(server, jwks_url="https://keys.example.net/jwks")
    problem = service.fetcher.fetch_once()[server.url]

    assert service.results == ["unreachable"]
    assert "Name or service not known" in (problem or "")


def test_no_library_logs_the_query(server: KeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """A query may be secret: whoever logs everything reads none of it, and other clients go on."""
    caplog.set_level(logging.DEBUG)
    server.answer(key_set(OLD), "/jwks?key=sesame")
    with Service(server, jwks_url=f"{server.jwks_url}?key=sesame") as service:
        service.ready()
    httpx2.get(server.jwks_url, trust_env=False)

    assert "sesame" not in caplog.text
    assert "HTTP Request: GET" in caplog.text
