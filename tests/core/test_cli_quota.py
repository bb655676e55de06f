"""What does an operator see and change of a caller's use, in real stores?"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from starlette.testclient import TestClient

from mlguard.app.service import Service
from mlguard.cli import main
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.ledger import HostLedger
from mlguard.ledger import MemoryLedger
from mlguard.messages import Deny, Principal
from mlguard.quota_store.choose import maker
from mlguard.quota_store.store import Store
from mlguard.quotas import Cost, Quota, Reservation, RouteLimit
from mlguard.settings import Quotas, Rate, load
from mlguard.testing import GuardTester
from tests.servers import ROOT, find, free_port, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="who holds what is found in /proc"
)

PASSWORD = "hunter2-" + secrets.token_hex(8)
ISSUER = "https://login.example.com/"
FILE = """\
[service]
name = "{service}"

[[models]]
name = "iris"
route = "/predict"
inputs = "instances"

[[models]]
name = "own"

[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["RS256"]
{auth}

[quotas]
store = "{store}"
requests = ["600/day"]
rows = ["10000/day", "50000 per 2 months"]
lifetime = 1000000
concurrency = 32
units = {{ tokens = ["5000/day"] }}
{quotas}
"""
NOBODY = """\
[service]
name = "{service}"

[quotas]
store = "{store}"
requests = ["600/day"]
"""
PLANS = """
[quotas.plans.gold]
rows = ["90000/day"]
"""
TENANTS = """
[quotas.tenant]
rows = ["70000/day"]
"""
ALICE = Principal(ISSUER, "alice")
ROWS = Cost("iris", {"rows": 4000, "tokens": 70})

Told = Callable[..., tuple[int, str, str]]


class Place(NamedTuple):
    """Where a service counts.

    Attributes:
        service: Its name.
        url: What its settings say.
        secret: What the environment adds to that, "" for nothing.
    """

    service: str
    url: str
    secret: str = ""

    def write(self, text: str = FILE, *, auth: str = "", quotas: str = "") -> Quotas:
        """Write the settings that the commands read; return the part about quotas."""
        written = text.format(service=self.service, store=self.url, auth=auth, quotas=quotas)
        Path("mlguard.toml").write_text(written)
        return cast("Quotas", load("mlguard.toml", named=()).quotas)

    def store(self, quotas: Quotas) -> Store:
        """Return a worker's end of the store."""
        if self.url.startswith("host://"):
            return on_this_host(Folder.of(self.service, quotas.folder))
        return maker(quotas.model_copy(update={"store_timeout": 2.0}), self.service)()


def on_this_host(folder: Folder) -> HostLedger:
    """Return a worker's way to the file."""
    folder.path.parent.parent.mkdir(exist_ok=True)
    folder.prepare()
    return HostLedger(Database(folder.database, wait=2.0), is_lasting=True)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run a Redis with a password; return its port."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    port = free_port()
    config = f"port {port}\nbind 127.0.0.1\nsave ''\nrequirepass {PASSWORD}\n"
    process = subprocess.Popen(
        [find("redis-server"), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path_factory.mktemp("redis"),
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(config.encode())
    wait_until(lambda: _listens(port), "Redis answers")
    yield port
    process.kill()
    process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder, with a private place for the host's file."""
    root = Path(tempfile.mkdtemp(prefix="mg"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["host", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Place:
    service = f"cli-quota-{secrets.token_hex(4)}"
    if request.param == "host":
        return Place(service, f"host://{tmp_path}/kept")
    port = request.getfixturevalue("redis")
    secret = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    monkeypatch.setenv("MLGUARD_QUOTAS__STORE", secret)
    return Place(service, f"redis://127.0.0.1:{port}/0", secret)


@pytest.fixture
def worker(place: Place) -> Iterator[Callable[[Quotas], Store]]:
    """Open workers' ends of the store, and close them."""
    opened: list[Store] = []

    def begin(quotas: Quotas) -> Store:
        store = place.store(quotas)
        if place.url.startswith("host://"):
            store.start()
        opened.append(store)
        return store

    yield begin
    for store in opened:
        store.close()


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command; return its exit code and both of its streams."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in ("quota", *arguments)])
        captured = capsys.readouterr()
        assert PASSWORD not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def charge(store: Store, quotas: Quotas, who: Principal, demand: Cost) -> Reservation | Deny:
    """Do what a service does for a request."""
    quota = Quota(quotas, MemoryLedger(), is_shared=True)
    steps = quota.admit(quota.caller(who), demand)
    receipt = store.debit(next(steps).order)
    with pytest.raises(StopIteration) as decided:
        steps.send(receipt)
    return cast("Reservation | Deny", decided.value.value)


def rows_of(text: str) -> dict[str, list[str]]:
    """Read the table: numbers by what is counted and its window."""
    lines = [line.split() for line in text.splitlines()]
    return {" ".join(w[:-3]): w[-3:] for w in lines if w[-1:] and w[-1].isdigit()}


class TestShow:
    def test_a_table(self, told: Told, place: Place, worker: Any) -> None:
        """Each counter is told: what, its window, what is used, left, and of how much."""
        quotas = place.write()
        route = RouteLimit(Rate(text="5/day", limit=5, seconds=86_400), 2, "/p app.p", None)
        demand = Cost("iris", {"rows": 4000, "tokens": 70}, limits=(route,))
        store = worker(quotas)
        assert isinstance(charge(store, quotas, ALICE, demand), Reservation)

        code, out, err = told("show", "alice")

        assert (code, err) == (0, "")
        assert out.startswith(f"'alice' of {ISSUER}\n")
        assert out.splitlines()[1].split() == ["window", "used", "left", "of"]
        assert rows_of(out) == {
            "requests 600/day": ["1", "599", "600"],
            "requests in flight now": ["1", "31", "32"],
            "route /p app.p 5/day": ["2", "3", "5"],
            "rows of iris 10000/day": ["4000", "6000", "10000"],
            "rows of iris 50000 per 2 months": ["4000", "46000", "50000"],
            "rows of iris ever": ["4000", "996000", "1000000"],
            "tokens of iris 5000/day": ["70", "4930", "5000"],
            "rows of own 10000/day": ["0", "10000", "10000"],
            "rows of own 50000 per 2 months": ["0", "50000", "50000"],
            "rows of own ever": ["0", "1000000", "1000000"],
            "tokens of own 5000/day": ["0", "5000", "5000"],
        }

    def test_for_programs(self, told: Told, place: Place, worker: Any) -> None:
        """The same is written as JSON."""
        quotas = place.write()
        charge(worker(quotas), quotas, ALICE, ROWS)

        code, out, _ = told("show", "alice", "--json")

        document = json.loads(out)
        (counters,) = document.pop("ledgers")
        assert code == 0
        assert document == {"issuer": ISSUER, "tenant": None, "principal": "alice"}
        assert {
            "counts": "rows",
            "model": "iris",
            "window": "10000/day",
            "seconds": 86_400,
            "used": 4000,
            "left": 6000,
            "limit": 10_000,
        } in counters
        ever = next(c for c in counters if c["model"] == "iris" and c["window"] == "ever")
        assert (ever["used"], ever["seconds"]) == (4000, None)

    def test_somebody_who_never_came(self, told: Told, place: Place, worker: Any) -> None:
        """Where nothing is known it is said so, and what might be used is shown."""
        worker(place.write())

        code, out, _ = told("show", "bob")

        assert code == 0
        assert "nothing is known of it" in out
        assert rows_of(out)["requests 600/day"] == ["0", "600", "600"]

    def test_plans(self, told: Told, place: Place, worker: Any) -> None:
        """What a plan has is only known where the plan is named, or was charged."""
        quotas = place.write(quotas=PLANS)
        gold = Principal(ISSUER, "alice", claims={"plan": "gold"})
        charge(worker(quotas), quotas, gold, ROWS)

        _, out, _ = told("show", "alice")
        _, whole, _ = told("show", "bob", "--plan", "gold")
        _, unknown, _ = told("show", "bob")

        assert out.endswith("what a plan has beside that, --plan shows\n")
        assert rows_of(out)["rows of iris 90000/day"] == ["4000", "86000", "90000"]
        assert "rows of own" not in out
        assert unknown.splitlines()[1:] == [
            "nothing is known of it: nothing was counted, or it is long ago",
            "what a plan has beside that, --plan shows",
        ]
        assert rows_of(whole)["rows of own 90000/day"] == ["0", "90000", "90000"]

    def test_tenants(self, told: Told, place: Place, worker: Any) -> None:
        """A tenant's callers are told apart, and what they share is told alone."""
        quotas = place.write(auth='tenant_claim = "tid"', quotas=TENANTS)
        store = worker(quotas)
        for subject in ("alice", "bob"):
            charge(store, quotas, Principal(ISSUER, subject, "acme"), ROWS)

        _, own, _ = told("show", "alice", "--tenant", "acme")
        code, shared, _ = told("show", "--tenant", "acme")
        _, other, _ = told("show", "alice", "--tenant", "initech")

        assert code == 0
        assert own.startswith(f"'alice' of the tenant 'acme' of {ISSUER}\n")
        assert rows_of(own)["rows of iris 10000/day"][0] == "4000"
        assert shared.startswith(f"all callers together of the tenant 'acme' of {ISSUER}\n")
        assert rows_of(shared)["rows of iris 70000/day"][0] == "8000"
        assert "nothing is known of it" in other

    @pytest.mark.parametrize(
        ("client", "address"),
        [
            pytest.param("192.0.2.7", "192.0.2.7", id="IPv4"),
            pytest.param("2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6", id="any of a /64"),
            pytest.param("2001:db8:1:2::/64", "2001:db8:1:2::/64", id="the /64"),
        ],
    )
    def test_without_authentication(
        self, told: Told, place: Place, worker: Any, client: str, address: str
    ) -> None:
        """Where nobody is authenticated, an address is shown, an IPv6 one with its /64."""
        quotas = place.write(NOBODY)
        charge(worker(quotas), quotas, Principal("", client), Cost())

        code, out, _ = told("show", address)

        assert code == 0
        assert out.startswith(f"'{client}'\n")
        assert rows_of(out)["requests 600/day"] == ["1", "599", "600"]

    def test_what_the_settings_have_no_more(self, told: Told, place: Place, worker: Any) -> None:
        """A counter is told though its limit is gone; how many may be in flight is not known."""
        charge(worker(quotas := place.write()), quotas, ALICE, ROWS)
        place.write(FILE.replace("concurrency = 32\n", "").replace("10000/day", "9/day"))

        _, out, _ = told("show", "alice")

        assert rows_of(out)["rows of iris 10000/day"] == ["4000", "6000", "10000"]
        assert ["requests", "in", "flight", "now", "1", "?", "?"] in [
            line.split() for line in out.splitlines()
        ]

    def test_models_that_are_counted_apart(self, told: Told, place: Place, worker: Any) -> None:
        """What is in flight of a model with a limit of its own is told beside the rest."""
        quotas = place.write(quotas="[quotas.models.iris]\nconcurrency = 2")
        store = worker(quotas)
        for model in ("iris", "own", "own"):
            charge(store, quotas, ALICE, Cost(model, {"rows": 1}))

        _, out, _ = told("show", "alice")

        found = rows_of(out)
        assert found["requests in flight now"] == ["2", "30", "32"]
        assert found["requests in flight of iris now"] == ["1", "1", "2"]

    def test_models_that_no_setting_names(
        self, told: Told, place: Place, worker: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where requests name their model, what was asked by other names is told as _other."""
        quotas = place.write()
        monkeypatch.setenv("MLGUARD_MODELS__IRIS__MODEL_FROM", "body:model")
        charge(worker(quotas), quotas, ALICE, Cost("_other", {"rows": 7}))

        _, out, _ = told("show", "alice")

        assert rows_of(out)["rows of _other 10000/day"][0] == "7"

    def test_several_models_of_one_request(self, told: Told, place: Place, worker: Any) -> None:
        """What one request asks of several models is charged to each; the request is one."""
        quotas = place.write()
        store, quota = worker(quotas), Quota(quotas, MemoryLedger(), is_shared=True)
        demands = [Cost("iris", {"rows": 3}), Cost("own", {"rows": 2})]
        steps = quota.admit_all(quota.caller(ALICE), demands)
        receipt = store.debit(next(steps).order)
        with pytest.raises(StopIteration) as decided:
            steps.send(receipt)

        _, out, _ = told("show", "alice")

        found = rows_of(out)
        assert [reserved.amounts["rows"] for reserved in decided.value.value] == [3, 2]
        assert found["requests 600/day"][0] == "1"
        assert found["requests in flight now"][0] == "1"
        assert found["rows of iris 10000/day"][0] == "3"
        assert found["rows of own 10000/day"][0] == "2"

    def test_clients_of_public_routes(self, told: Told, place: Place, worker: Any) -> None:
        """Where authentication is on, --client shows who pays on a public route."""
        quotas = place.write()
        charge(worker(quotas), quotas, Principal("", "192.0.2.7"), ROWS)

        _, out, _ = told("show", "192.0.2.7", "--client")

        assert rows_of(out)["rows of iris 10000/day"][0] == "4000"


class TestReset:
    def test_windows(self, told: Told, place: Place, worker: Any) -> None:
        """Windows are forgotten, of that caller alone; what was ever used is not."""
        quotas = place.write()
        store = worker(quotas)
        bob = Principal(ISSUER, "bob")
        full = Cost("iris", {"rows": 10_000})
        for who in (ALICE, bob):
            charge(store, quotas, who, full)

        code, out, _ = told("reset", "alice")

        assert code == 0
        assert out.startswith(f"forgot the windows of 'alice' of {ISSUER}: ")
        assert "rows of iris 10000/day" in out
        assert "kept what it has ever used, rows of iris ever: --lifetime forgets that" in out
        assert isinstance(charge(store, quotas, ALICE, full), Reservation)
        assert isinstance(charge(store, quotas, bob, full), Deny)
        assert rows_of(told("show", "alice")[1])["rows of iris ever"][0] == "20000"

    def test_what_was_ever_used(self, told: Told, place: Place, worker: Any) -> None:
        """--lifetime forgets that too, and says so."""
        quotas = place.write()
        charge(worker(quotas), quotas, ALICE, ROWS)

        _, out, _ = told("reset", "alice", "--lifetime")

        assert f"forgot for good what 'alice' of {ISSUER} has ever used: rows of iris ever" in out
        assert rows_of(told("show", "alice")[1])["rows of iris ever"][0] == "0"

    def test_nothing(self, told: Told, place: Place, worker: Any) -> None:
        """What was not known cannot be forgotten, which is told."""
        worker(place.write())

        code, out, _ = told("reset", "bob")

        assert (code, out) == (
            0,
            f"nothing was known of 'bob' of {ISSUER} that could be forgotten\n",
        )


class TestGrant:
    @pytest.mark.parametrize(
        ("arguments", "counter", "left"),
        [
            (["--rows", 500, "--model", "iris"], "rows of iris 10000/day", "10500"),
            (["--requests", 7], "requests 600/day", "607"),
            (["--unit", "tokens", 9, "--model", "own"], "tokens of own 5000/day", "5009"),
            (["--rows", 5, "--model", "iris", "--lifetime"], "rows of iris ever", "1000005"),
        ],
        ids=["rows", "requests", "units", "lifetime"],
    )
    def test_more_than_the_limit(
        self,
        told: Told,
        place: Place,
        worker: Any,
        arguments: list[object],
        counter: str,
        left: str,
    ) -> None:
        """Units beyond the limit are given in each window of them, or for good."""
        worker(place.write())

        code, out, err = told("grant", "alice", *arguments)

        assert (code, err) == (0, "")
        assert f"to 'alice' of {ISSUER}: " in out
        assert rows_of(told("show", "alice")[1])[counter][1] == left

    def test_the_only_model(self, told: Told, place: Place, worker: Any) -> None:
        """Where there is one model, its rows are meant."""
        worker(place.write(FILE.replace('[[models]]\nname = "own"\n', "")))

        assert told("grant", "alice", "--rows", 5)[1].startswith(
            "granted 5 rows of iris to 'alice'"
        )

    def test_what_is_given_is_admitted(self, told: Told, place: Place, worker: Any) -> None:
        """A caller whose quota is spent may ask what was granted, and no more."""
        quotas = place.write()
        store = worker(quotas)
        charge(store, quotas, ALICE, Cost("iris", {"rows": 10_000}))
        assert isinstance(charge(store, quotas, ALICE, Cost("iris", {"rows": 300})), Deny)

        _, out, _ = told("grant", "alice", "--rows", 300, "--model", "iris")

        assert out == (
            f"granted 300 rows of iris to 'alice' of {ISSUER}: in the current window of "
            "10000/day, in the current window of 50000 per 2 months\n"
        )
        assert isinstance(charge(store, quotas, ALICE, Cost("iris", {"rows": 300})), Reservation)
        assert isinstance(charge(store, quotas, ALICE, Cost("iris", {"rows": 1})), Deny)

    def test_the_plan_is_told_by_what_was_charged(
        self, told: Told, place: Place, worker: Any
    ) -> None:
        """Which plan a caller has shows in its counters; without any, it must be said."""
        quotas = place.write(quotas=PLANS)
        store = worker(quotas)
        gold = Principal(ISSUER, "alice", claims={"plan": "gold"})
        charge(store, quotas, gold, ROWS)

        _, out, _ = told("grant", "alice", "--rows", 5, "--model", "iris")
        code, _, err = told("grant", "bob", "--rows", 5, "--model", "iris")
        _, named, _ = told("grant", "bob", "--rows", 5, "--model", "iris", "--plan", "gold")

        assert out.endswith(": in the current window of 90000/day\n")
        assert code == 1
        assert "rows of iris hold depends on the caller's plan, and none was counted yet" in err
        assert named.endswith(": in the current window of 90000/day\n")

    def test_a_tenant(self, told: Told, place: Place, worker: Any) -> None:
        """What a tenant's callers share is given to all of them."""
        worker(place.write(auth='tenant_claim = "tid"', quotas=TENANTS))

        told("grant", "--tenant", "acme", "--rows", 5, "--model", "iris")

        _, out, _ = told("show", "--tenant", "acme")
        assert rows_of(out)["rows of iris 70000/day"][1] == "70005"


class TestMistakes:
    """What is wrong is told in a sentence, before a store is asked."""

    NOWHERE = Place("no-such-service", "redis://127.0.0.1:1/0")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["show"], "say whose: PRINCIPAL, the subject of a caller, or --tenant"),
            (["show", "alice", "--tenant", "t"], "--tenant does not fit: no `tenant_claim`"),
            (["show", "alice", "--issuer", "x"], "no issuer is 'x'; known: https://login"),
            (["show", "alice", "--plan", "gld"], "no plan is 'gld'; did you mean 'gold'?"),
            (["show", "bob", "--client"], "must be the address of a client"),
            (["show", "--client"], "say whose: PRINCIPAL, the address of a client"),
            (["show", "::1", "--client", "--plan", "gold"], "--plan is of callers with a token"),
            (["grant", "alice"], "say what to grant: --rows N, --requests N or --unit UNIT N"),
            (["grant", "alice", "--rows", 1], "say whose with --model: iris, own"),
            (["grant", "alice", "--rows", 1, "--model", "irs"], "did you mean 'iris'?"),
            (["grant", "alice", "--requests", 1, "--lifetime"], "only rows have a lifetime"),
            (
                ["grant", "alice", "--unit", "tokn", 1, "--model", "iris"],
                "there are limits of requests, rows of iris, rows of iris ever, tokens of iris",
            ),
            (
                ["grant", "alice", "--unit", "tokens", "x", "--model", "iris"],
                "--unit tokens: 'x' must be a whole number from 1",
            ),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
    )
    def test_in_a_sentence(self, told: Told, arguments: list[object], said: str) -> None:
        """What makes no sense is refused, and the way out is told."""
        self.NOWHERE.write(quotas=PLANS)

        code, out, err = told(*arguments)

        assert (code, out) == (1, "")
        assert err.startswith("mlguard: ")
        assert said in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["alice"], "say --tenant: tokens of https://login.example.com/ name one in 'tid'"),
            (["--tenant", "t"], "tenants share nothing without [quotas.tenant]"),
        ],
        ids=["none", "alone"],
    )
    def test_tenants(self, told: Told, arguments: list[str], said: str) -> None:
        """Where tokens name tenants, a caller is one with its tenant."""
        self.NOWHERE.write(auth='tenant_claim = "tid"')

        code, _, err = told("show", *arguments)

        assert code == 1
        assert said in err

    def test_several_issuers(self, told: Told) -> None:
        """Of several issuers, one must be named."""
        entry = '[[auth.issuers]]\nname = "{}"\nissuer = "https://{}/"\naudience = "a"\n'
        entry += 'algorithms = ["RS256"]\n'
        auth = entry.format("staff", "a.example") + entry.format("partner", "b.example")
        text = FILE[: FILE.index("[auth]")] + "{auth}\n" + FILE[FILE.index("[quotas]") :]
        self.NOWHERE.write(text, auth=auth)

        _, _, unnamed = told("show", "alice")
        _, _, named = told("show", "alice", "--issuer", "partner")

        assert "say whose caller with --issuer: staff, partner" in unnamed
        assert "the quotas' store does not answer: redis://127.0.0.1:1/0" in named

    @pytest.mark.parametrize("units", ["0", "-5", "1.5", "many", "9" * 20])
    def test_units_that_are_none(self, units: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A number that is none is refused as an option is."""
        with pytest.raises(SystemExit, match="2"):
            main(["quota", "grant", "alice", f"--requests={units}"])

        assert f"'{units}' must be a whole number from 1" in capsys.readouterr().err

    def test_no_quotas(self, told: Told) -> None:
        """Without quotas there is nothing to see."""
        Path("mlguard.toml").write_text("")

        assert (
            told("show", "::1")[2] == "mlguard: mlguard.toml: nothing is counted without [quotas]\n"
        )

    def test_a_store_that_nobody_can_ask(self, told: Told) -> None:
        """With memory:// it is told that workers count alone, and how to change that."""
        Place("s", "memory://").write(NOBODY)

        code, _, err = told("show", "192.0.2.7")

        assert code == 1
        assert "each worker counts alone and nobody can ask it: set host:// for the workers" in err

    def test_a_host_without_the_service(self, told: Told) -> None:
        """Where nothing was ever counted it is told what to do."""
        Place("no-such-service", "host://").write(NOBODY)

        code, _, err = told("reset", "192.0.2.7")

        assert code == 1
        assert "nothing was ever counted for a service named 'no-such-service' on this host" in err

    def test_a_redis_that_is_gone(self, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that does not answer is one sentence without a password."""
        self.NOWHERE.write()
        monkeypatch.setenv("MLGUARD_QUOTAS__STORE", f"redis://:{PASSWORD}@127.0.0.1:1/0")

        code, _, err = told("show", "alice")

        assert code == 1
        assert err.startswith("mlguard: the quotas' store does not answer: redis://...@127.0.0.1:1")
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [["show", "alice"], ["reset", "alice"], ["grant", "alice", "--requests", 1]],
        ids=["show", "reset", "grant"],
    )
    def test_a_wrong_password(
        self, told: Told, redis: int, arguments: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A password that the store refuses is not repeated."""
        self.NOWHERE.write()
        monkeypatch.setenv("MLGUARD_QUOTAS__STORE", f"redis://:x{PASSWORD}@127.0.0.1:{redis}/0")

        code, _, err = told(*arguments)

        assert code == 1
        assert err.startswith("mlguard: the quotas' store does not answer: ")

    def test_a_url_that_is_none(self, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        """A URL with a mistake is told without being shown."""
        self.NOWHERE.write()
        url = f"redis://:{PASSWORD}@a:1,b:2/0"
        monkeypatch.setenv("MLGUARD_QUOTAS__STORE", url)

        code, _, err = told("show", "alice")

        assert code == 1
        assert "quotas.store: the URL of the Redis names several hosts" in err


def test_several_files(told: Told, runtime: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Where a service was given other environments, each file is shown apart, and all changed."""
    place = Place(f"cli-quota-{secrets.token_hex(4)}", "host://")
    quotas = place.write(NOBODY)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number, root in enumerate((runtime, tmp_path)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
        store = on_this_host(Folder.of(place.service))
        store.start()
        for _ in range(number):
            charge(store, quotas, Principal("", "192.0.2.7"), Cost())
        store.database.close()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

    _, shown, _ = told("show", "192.0.2.7")
    _, granted, _ = told("grant", "192.0.2.7", "--requests", 3)
    listed = json.loads(told("show", "192.0.2.7", "--json")[1])["ledgers"]

    assert "file 1 of 2 on this host" in shown
    assert shown.count("nothing is known of it") == 1
    assert granted.endswith("in the current window of 600/day, in 2 files\n")
    assert [counter["left"] for (counter,) in listed] == [603, 602]


class TestThePage:
    """Does the code on the page about quotas run, and say what it says there?"""

    PAGE = (ROOT / "docs" / "quotas.md").read_text()

    @classmethod
    def blocks(cls, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", cls.PAGE, re.DOTALL)

    @pytest.mark.parametrize("number", range(3))
    def test_settings(self, number: int) -> None:
        """Every TOML block is a settings file with which a service can be made."""
        assert Service(tomllib.loads(self.blocks("toml")[number])).settings.quotas

    @pytest.mark.parametrize("number", [1, 2], ids=["fastapi", "flask"])
    def test_limits(self, number: int) -> None:
        """The sixth request of a minute is refused, whichever the framework."""
        client = self.client(self.blocks("python")[number])

        answers = [client.post("/report") for _ in range(6)]

        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[5].headers["Retry-After"]

    def test_limits_of_a_dependency(self) -> None:
        """On FastAPI a limit may be a dependency."""
        client = self.client(self.blocks("python")[1])

        assert [client.get("/search").status_code for _ in range(3)] == [200, 200, 429]

    def test_units(self) -> None:
        """What the function counts is charged: what was asked, and what was answered more."""
        settings = {"quotas": {"units": {"tokens": ["100/day"]}}, "models": [{"name": "lm"}]}
        names: dict[str, Any] = {}

        def infer() -> dict[str, Any]:
            with names["guard"].inference("lm", ["x" * 40]) as call:
                call.predictions = ["y" * 80]
            return {}

        client = self.client(self.blocks("python")[2], settings, names)
        exec(self.blocks("python")[0], names)
        names["app"].get("/infer")(infer)

        left = [client.get("/infer").headers["RateLimit"] for _ in range(2)]

        assert '"tokens-86400";r=70' in left[0]
        assert '"tokens-86400";r=40' in left[1]

    def test_showing(
        self, told: Told, place: Place, worker: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What `mlguard quota show` says on the page is what it says."""
        quotas_of_page = 'requests = ["600/minute"]\nrows = ["10000/hour", "50000/day"]\n'
        file = FILE.partition("[quotas]")[0].replace('[[models]]\nname = "own"\n', "")
        file = file.format(service=place.service, auth="")
        Path("mlguard.toml").write_text(f"{file}[quotas]\n{quotas_of_page}")
        monkeypatch.setenv("MLGUARD_QUOTAS__STORE", place.secret or place.url)
        quotas = cast("Quotas", load("mlguard.toml", named=()).quotas)
        charge(worker(quotas), quotas, ALICE, Cost("iris", {"rows": 4000}))

        _, out, _ = told("show", "alice")

        assert out == self.blocks("console")[0].partition("\n")[2]

    @staticmethod
    def client(
        code: str,
        settings: Mapping[str, Any] | None = None,
        names: dict[str, Any] | None = None,
    ) -> Any:
        """Run a page's app without its settings file; return a client of it."""
        names = {} if names is None else names
        names |= {"__name__": "service", "SETTINGS": settings or {}}
        exec(code.replace('"mlguard.toml"', "SETTINGS"), names)
        GuardTester(names["guard"])
        app = names["app"]
        return app.test_client() if hasattr(app, "test_client") else TestClient(app)
