"""Which limits hold for whom, and what is said of them? How a ledger counts is another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlguard.ledger import MemoryLedger, Order, Receipt
from mlguard.messages import Deny, Principal
from mlguard.quotas import Charged, Demand, Quota, RouteLimit, Throttle
from mlguard.quotas.quota import accounts, headers
from mlguard.runtime.drivers import drive
from mlguard.settings import Quotas, Rate

NOW = 1_800_000_000.0  # begins a minute
ISSUER = "https://login.example.com/"
LASTING = "redis://localhost"


PLANS: Any = {
    "requests": ["5/minute"],
    "rows": ["10/minute"],
    "models": {"gpt": {"rows": ["2/minute"], "requests": ["3/minute"]}},
    "plans": {
        "gold": {"rows": ["100/minute"], "models": {"gpt": {"rows": ["20/minute"]}}},
        "none": {"rows": []},
    },
}
EXEMPT: Any = {
    "subjects": ["monitor"],
    "scopes": ["admin"],
    "networks": ["10.0.0.0/8", "2001:db8::/32"],
}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Asker:
    """Asks a quota, in the way of the guard."""

    def __init__(self, *, is_shared: bool = False, **tables: Any) -> None:
        self.clock = Clock()
        self.ended: list[tuple[str, float]] = []
        self.quota = Quota(
            Quotas.model_validate(tables),
            MemoryLedger(self.clock),
            is_shared=is_shared,
            on_ended=lambda limit, share: self.ended.append((limit.name, share)),
        )

    def __call__(
        self,
        rows: int | None = None,
        *,
        who: str = "alice",
        model: str = "iris",
        tenant: str | None = None,
        issuer: str = ISSUER,
        scopes: frozenset[str] = frozenset(),
        claims: Mapping[str, Any] | None = None,
        is_request: bool = True,
        limits: tuple[RouteLimit, ...] = (),
        **units: int,
    ) -> Any:
        principal = Principal(issuer, who, tenant, scopes, claims or {})
        demand = Demand(
            None if rows is None else model,
            {} if rows is None else {"rows": rows, **units},
            is_request=is_request,
            limits=limits,
        )
        return drive(self.quota.admit(principal, demand))


def admitted(answer: Charged | Deny) -> bool:
    return isinstance(answer, Charged)


class TestWindows:
    def test_headers(self) -> None:
        """draft-ietf-httpapi-ratelimit-headers: the policies, and what is left of each."""
        ask = Asker(requests=["600/minute"], rows=["10000/hour", "50000/day"])

        assert dict(headers(ask(30).left)) == {
            "RateLimit-Policy": (
                '"requests-60";q=600;w=60, "rows-3600";q=10000;w=3600, "rows-86400";q=50000;w=86400'
            ),
            "RateLimit": (
                '"requests-60";r=599;t=60, "rows-3600";r=9970;t=3600, "rows-86400";r=49970;t=57600'
            ),
        }

    def test_headers_without_a_model(self) -> None:
        """A route without a model says nothing of rows."""
        ask = Asker(requests=["600/minute"], rows=["10000/hour"])

        assert dict(headers(ask().left)) == {
            "RateLimit-Policy": '"requests-60";q=600;w=60',
            "RateLimit": '"requests-60";r=599;t=60',
        }

    def test_no_charges(self) -> None:
        """What no window counts goes on without headers."""
        assert headers(Asker(rows=["10/minute"])().left) == ()

    def test_the_longest_of_all(self) -> None:
        """Retry-After is of the window that opens last."""
        ask = Asker(requests=["1/minute"], rows=["2/hour"])
        assert admitted(ask(2))

        deny = ask(2)

        assert (deny.status, deny.code) == (429, "quota_exceeded")
        wait = int(dict(deny.headers)["Retry-After"])
        ask.clock.now += wait - 1
        assert not admitted(ask(2))
        ask.clock.now += 1
        assert admitted(ask(2))

    def test_requests_have_their_own_code(self) -> None:
        """Too many requests are told apart from too many rows."""
        ask = Asker(requests=["1/minute"])
        ask()

        deny = ask()

        assert (deny.status, deny.code) == (429, "rate_exceeded")
        assert "RateLimit" in dict(deny.headers)

    @pytest.mark.parametrize(
        "other",
        [{"who": "bob"}, {"model": "other"}, {"tenant": "t"}, {"issuer": "https://other/"}],
        ids=["subject", "model", "tenant", "issuer"],
    )
    def test_others_are_others(self, other: dict[str, Any]) -> None:
        """Rows are counted by issuer, tenant, subject and model."""
        ask = Asker(rows=["10/minute"])
        assert admitted(ask(10))

        assert not admitted(ask(1))
        assert admitted(ask(10, **other))

    def test_a_batch_that_never_fits(self) -> None:
        """A batch larger than the smallest window is told the largest that would fit."""
        ask = Asker(requests=["1/minute"], rows=["10000/hour", "50000/day"])
        for rows in (10_001, 60_000):
            deny = ask(rows)
            assert (deny.status, deny.code) == (422, "batch_exceeds_quota")
            assert deny.more == {"largest_batch": 10_000, "unit": "rows"}
            assert "Retry-After" not in dict(deny.headers)
            assert "RateLimit-Policy" in dict(deny.headers)

        assert admitted(ask(10_000))

    @pytest.mark.parametrize("rows", [-1, -(10**9)])
    def test_a_batch_of_less_than_nothing(self, rows: int) -> None:
        """No number of rows, whoever computed it, gives quota that was not there."""
        with pytest.raises(ValueError, match="rows"):
            Asker(rows=["10/minute"])(rows)

    def test_settled_by_rows_only(self) -> None:
        """A refund is of rows: the request was made."""
        ask = Asker(requests=["1/minute"], rows=["10/minute"])
        charged = ask(10)

        charged.settle({"rows": 0})

        assert ask(10).code == "rate_exceeded"
        assert admitted(ask(10, is_request=False))

    def test_use_is_told_when_a_window_has_ended(self) -> None:
        """Of each window that ended, how much of it was used."""
        ask = Asker(rows=["10/minute"])
        ask(4)
        ask(5)
        ask.clock.now += 60

        ask(1)

        assert ask.ended == [("rows-60", 0.9)]


class TestUnits:
    def test_each_has_its_own_windows(self) -> None:
        """Units of other kinds are reserved like rows."""
        ask = Asker(rows=["10/minute"], units={"tokens": ["100/minute"]})
        assert admitted(ask(1, tokens=100))

        deny = ask(1, tokens=1)

        assert (deny.code, deny.title) == (
            "quota_exceeded",
            "The quota of tokens is spent; retry later.",
        )
        assert ask(1, tokens=101).more == {"largest_batch": 100, "unit": "tokens"}

    def test_settled_by_unit(self) -> None:
        """What an answer took of one unit says nothing of another."""
        ask = Asker(rows=["10/minute"], units={"tokens": ["100/minute"]})

        ask(10, tokens=10).settle({"tokens": 90})

        assert not admitted(ask(1, tokens=0))
        assert not admitted(ask(0, tokens=11))
        assert admitted(ask(0, tokens=10))


class TestPlans:
    @pytest.mark.parametrize(
        ("claims", "model", "largest"),
        [
            ({}, "iris", 10),
            ({}, "gpt", 2),
            ({"plan": "gold"}, "iris", 100),
            ({"plan": "gold"}, "gpt", 20),
            ({"plan": ["silver", "gold"]}, "iris", 100),
            ({"plan": "silver"}, "iris", 10),
            ({"plan": {"gold": 1}}, "iris", 10),
        ],
        ids=str,
    )
    def test_the_narrowest_holds(self, claims: Any, model: str, largest: int) -> None:
        """The plan's model, the plan, the model, everybody."""
        deny = Asker(**PLANS)(10_000, claims=claims, model=model)

        assert deny.more["largest_batch"] == largest

    def test_an_empty_list_is_no_window(self) -> None:
        """A plan may have no window of rows at all, and still those of requests."""
        ask = Asker(**PLANS)

        assert admitted(ask(10**9, claims={"plan": "none"}))
        left = ask(1, claims={"plan": "none"}).left
        assert 'requests-60";q=5' in dict(headers(left))["RateLimit-Policy"]

    def test_what_a_model_names_is_its_own(self) -> None:
        """Requests that a model's table limits are not counted among the others."""
        ask = Asker(**PLANS)
        assert [admitted(ask(0, model="gpt")) for _ in "1234"] == [True, True, True, False]

        assert [admitted(ask()) for _ in "123456"] == [True] * 5 + [False]

    def test_a_change_of_plan_keeps_the_count(self) -> None:
        """Who changes the plan has used what was used."""
        ask = Asker(**PLANS)
        ask(90, claims={"plan": "gold"})

        assert not admitted(ask(1))
        assert not admitted(ask(11, claims={"plan": "gold"}))
        assert admitted(ask(10, claims={"plan": "gold"}))


class TestTenants:
    def test_callers_share(self) -> None:
        """What a tenant's callers ask together is bounded, and what each asks."""
        ask = Asker(rows=["10/minute"], tenant={"rows": ["15/minute"]})
        assert admitted(ask(10, tenant="acme"))
        assert not admitted(ask(1, tenant="acme"))

        assert not admitted(ask(6, tenant="acme", who="bob"))
        assert admitted(ask(5, tenant="acme", who="bob"))
        assert admitted(ask(10, tenant="other"))

    def test_who_has_none(self) -> None:
        """A caller without a tenant shares with nobody."""
        ask = Asker(rows=["10/minute"], tenant={"rows": ["1/minute"]})

        assert [admitted(ask(10, who=who)) for who in ("alice", "bob")] == [True, True]

    def test_headers_tell_both(self) -> None:
        """A tenant's window has a name of its own."""
        ask = Asker(rows=["10/minute"], tenant={"rows": ["15/minute"]})

        assert list(ask(1, tenant="acme").left) == ["rows-60", "tenant-rows-60"]

    def test_one_tag(self) -> None:
        """All accounts of a tenant share a tag, so that a cluster keeps them together."""
        alice = accounts((ISSUER, "acme", "alice"))
        bob = accounts((ISSUER, "acme", "bob"))

        assert alice.tag == bob.tag
        assert alice.own != bob.own
        assert len({alice.own, alice.tenant, bob.own, accounts((ISSUER, "", "acme")).tag}) == 4

    @pytest.mark.parametrize("name", ["a" * 10_000, "{x}", "\x00", "a:b\n*", "ü", "\ud800"])
    def test_odd_names(self, name: str) -> None:
        """Whatever a caller is called, the tag is 22 plain characters."""
        tag = accounts((ISSUER, "", name)).tag

        assert len(tag) == 22
        assert tag.replace("-", "").replace("_", "").isalnum()


class TestExemptions:
    @pytest.mark.parametrize(
        "who",
        [
            {"who": "monitor"},
            {"scopes": frozenset({"admin", "predict"})},
            {"issuer": "", "who": "10.1.2.3"},
            {"issuer": "", "who": "2001:db8:0:1::/64"},
        ],
        ids=["subject", "scope", "address", "IPv6 network"],
    )
    def test_are_not_counted(self, who: dict[str, Any]) -> None:
        """Who is exempt may ask any number of rows, and learns of no limits."""
        ask = Asker(rows=["1/minute"], exempt=EXEMPT)

        assert admitted(ask(10**6, **who))
        assert headers(ask(10**6, **who).left) == ()

    @pytest.mark.parametrize(
        "who",
        [
            {"who": "bob"},
            {"scopes": frozenset({"predict"})},
            {"issuer": "", "who": "11.1.2.3"},
            {"issuer": "", "who": "monitor"},
            {"issuer": "", "who": ""},
            {"who": "10.1.2.3"},
        ],
        ids=["subject", "scope", "address", "no address", "nobody", "a subject like an address"],
    )
    def test_others_are(self, who: dict[str, Any]) -> None:
        """Nobody is exempt for a likeness."""
        assert not admitted(Asker(rows=["1/minute"], exempt=EXEMPT)(2, **who))


class TestLifetime:
    def test_spent_for_good(self) -> None:
        """A budget that is spent does not come back with time."""
        ask = Asker(rows=["10/minute"], lifetime=15, store=LASTING)
        assert admitted(ask(10))
        ask.clock.now += 3600

        deny = ask(6)

        assert (deny.status, deny.code, deny.more) == (
            403,
            "quota_lifetime_spent",
            {"remaining": 5},
        )
        assert "Retry-After" not in dict(deny.headers)
        assert dict(headers(ask(5).left))["RateLimit"].endswith('"rows-lifetime";r=0')

    def test_goes_before_a_window(self) -> None:
        """Who has spent the budget is not told to retry."""
        ask = Asker(rows=["10/minute"], lifetime=10, store=LASTING)
        ask(10)

        assert ask(1).code == "quota_lifetime_spent"


class TestFlights:
    def test_only_a_shared_ledger_counts_them(self) -> None:
        """In one process the guard counts what is in flight, without the ledger."""
        assert all(admitted(Asker(concurrency=1)()) for _ in "12")

        ask = Asker(is_shared=True, concurrency=2)
        first, _ = ask(), ask()
        deny = ask()
        assert (deny.status, deny.code) == (429, "too_many_in_flight")
        first.land()
        first.land()
        assert [admitted(ask()) for _ in "12"] == [True, False]

    def test_whose_they_are(self) -> None:
        """A model may have a number of its own, and a tenant one for all its callers."""
        tables = {"concurrency": 4, "models": {"gpt": {"concurrency": 1}}}
        quota = Asker(**tables, tenant={"concurrency": 9}).quota
        alice, bob = (Principal(ISSUER, who, "acme") for who in ("alice", "bob"))

        found = [dict(quota.berths(alice, model)) for model in (None, "iris", "gpt")]

        assert [[x.amount for x in berths.values()] for berths in found] == [[4, 9], [4, 9], [1, 9]]
        assert found[0] == found[1]
        assert set(found[0]) & set(found[2]) == set(found[0]) & set(dict(quota.berths(bob, None)))


class TestRouteLimits:
    FIVE = RouteLimit(Rate(text="5/minute", limit=5, seconds=60), 2, "POST /slow", "key")

    def test_in_the_same_debit(self) -> None:
        """A route's limit that refuses leaves the quota as it was."""
        ask = Asker(requests=["4/minute"])
        assert [admitted(ask(limits=(self.FIVE,))) for _ in "123"] == [True, True, False]

        assert [admitted(ask()) for _ in "123"] == [True, True, False]

    def test_in_its_words(self) -> None:
        """A route says itself what its limit refuses, and how much it takes at once."""
        told = self.FIVE._replace(message=lambda: "Five a minute, please.")
        ask = Asker(requests=["1000/minute"])
        ask(limits=(told,))
        ask(limits=(told,))

        spent, large = ask(limits=(told,)), ask(limits=(told._replace(cost=6),))

        assert [(x.code, x.title) for x in (spent, large)] == [
            ("rate_exceeded", "Five a minute, please."),
            ("batch_exceeds_quota", "Five a minute, please."),
        ]
        assert large.more == {"largest_batch": 5, "unit": "requests"}

    def test_of_each_caller(self) -> None:
        """A route's limit is each caller's own, and each bucket's."""
        ask = Asker(requests=["100/minute"])
        for _ in "12":
            ask(limits=(self.FIVE,))

        assert not admitted(ask(limits=(self.FIVE,)))
        assert admitted(ask(who="bob", limits=(self.FIVE,)))
        assert admitted(ask(limits=(self.FIVE._replace(bucket="POST /other"),)))


class TestThrottle:
    def test_counts_by_client(self) -> None:
        """An address that does it too often is told how long to wait; others are not."""
        clock = Clock()
        throttle = Throttle(Rate(text="", limit=2, seconds=60), clock)
        assert [throttle.count("10.0.0.1") for _ in "12"] == [0.0, 0.0]

        wait = throttle.count("10.0.0.1")

        assert wait > 0
        assert throttle.wait("10.0.0.1") == wait
        assert throttle.wait("10.0.0.2") == throttle.wait("") == 0.0
        clock.now += wait
        assert throttle.count("10.0.0.1") == 0.0

    def test_off(self) -> None:
        """Without a rate anything may be done any number of times."""
        assert Throttle(None).count("10.0.0.1") == 0.0


def test_nobody_can_tell() -> None:
    """A ledger that cannot tell refuses, and says when to come again."""

    class Silent(MemoryLedger):
        def debit(self, order: Order, holder: str = "") -> Receipt | None:  # type: ignore[override]
            return None

    quota = Quota(Quotas.model_validate({"rows": ["10/minute"]}), Silent())
    answer = drive(quota.admit(Principal(ISSUER, "alice"), Demand("iris", {"rows": 1})))

    assert isinstance(answer, Deny)
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert "Retry-After" in dict(answer.headers)
