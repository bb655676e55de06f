"""Which limits hold for whom, and what is said of them? How a ledger counts is another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard import refusals
from mlguard.app.drivers import drive
from mlguard.ledger import Change, MemoryLedger, Order, Receipt
from mlguard.messages import Debit, Deny, Principal
from mlguard.quotas import (
    Caller,
    Cost,
    Quota,
    Reservation,
    RouteLimit,
    Throttle,
    headers,
    headers_of,
)
from mlguard.quotas.quota import accounts
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


class Far:
    """A ledger that nobody can look into."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.debits: list[Order] = []

    def debit(self, order: Order) -> Receipt:
        self.debits.append(order)
        return self.ledger.debit(order)

    async def adebit(self, order: Order) -> Receipt:
        return self.debit(order)

    def settle(self, changes: Sequence[Change]) -> None:
        self.ledger.settle(changes)


class Asker:
    """Asks a quota, in the way of the guard."""

    def __init__(self, *, is_shared: bool = False, is_far: bool = False, **tables: Any) -> None:
        self.clock = Clock()
        self.ended: list[tuple[str, float]] = []
        self.ledger = MemoryLedger(self.clock)
        self.settings = Quotas.model_validate(tables)
        self.quota = Quota(
            self.settings,
            Far(self.ledger) if is_far else self.ledger,
            is_shared=is_shared,
            on_ended=lambda limit, share: self.ended.append((limit.name, share)),
            timer=self.clock,
        )

    def extend(self, rows: int, who: str = "alice", **units: int) -> Reservation | Deny:
        """Answer more than was asked."""
        amounts = {"rows": rows, **units}
        return drive(self.quota.extend(self.caller(who), "iris", amounts))

    def caller(self, who: str = "alice", tenant: str | None = None) -> Caller:
        """Find somebody."""
        return self.quota.caller(Principal(ISSUER, who, tenant))

    def spent(
        self, who: str = "alice", *, model: str | None = "iris", tenant: str | None = None
    ) -> Deny | None:
        """Ask what is known beforehand."""
        return self.quota.spent(self.caller(who, tenant), model)

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
        demand = Cost(
            None if rows is None else model,
            {} if rows is None else {"rows": rows, **units},
            is_request=is_request,
            limits=limits,
        )
        return drive(self.quota.admit(self.quota.caller(principal), demand))


def admitted(answer: Reservation | Deny) -> bool:
    return isinstance(answer, Reservation)


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
        first.release()
        first.release()
        assert [admitted(ask()) for _ in "12"] == [True, False]

    def test_whose_they_are(self) -> None:
        """A model may have a number of its own, and a tenant one for all its callers."""
        tables = {"concurrency": 4, "models": {"gpt": {"concurrency": 1}}}
        quota = Asker(**tables, tenant={"concurrency": 9}).quota
        alice, bob = (quota.caller(Principal(ISSUER, who, "acme")) for who in ("alice", "bob"))

        found = [dict(quota.flight_limits(alice, model)) for model in (None, "iris", "gpt")]

        assert [[x.amount for x in flight_limits.values()] for flight_limits in found] == [
            [4, 9],
            [4, 9],
            [1, 9],
        ]
        assert found[0] == found[1]
        assert set(found[0]) & set(found[2]) == set(found[0]) & set(
            dict(quota.flight_limits(bob, None))
        )


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


def retry_after(deny: Deny | None) -> int | None:
    found = dict(deny.headers).get("Retry-After") if deny else None
    return None if found is None else int(found)


near_and_far = pytest.mark.parametrize("is_far", [False, True], ids=["in memory", "in a store"])


class TestLargerAnswers:
    """What is charged for an answer that holds more than was reserved?"""

    @near_and_far
    def test_all_of_it(self, is_far: bool) -> None:
        """What an answer holds beyond is debited in the same windows, and its request is not."""
        ask = Asker(is_far=is_far, requests=["9/minute"], rows=["10/minute"], store=LASTING)
        first = ask(2)

        more = ask.extend(5)

        assert isinstance(more, Reservation)
        assert more.amounts == {"rows": 5}
        assert list(more.left) == ["rows-60"]
        assert (
            dict(headers_of([first, more]))["RateLimit"]
            == '"requests-60";r=8;t=60, "rows-60";r=3;t=60'
        )

    @near_and_far
    def test_or_nothing(self, is_far: bool) -> None:
        """An answer that does not fit is withheld, charges nothing, and says when it would fit."""
        ask = Asker(is_far=is_far, rows=["10/minute"], units={"tokens": ["100/minute"]})
        ask(4, tokens=10)

        deny = ask.extend(7, tokens=20)

        assert isinstance(deny, Deny)
        assert (deny.status, deny.code) == (429, "answer_withheld")
        assert deny.title == "The answer holds more rows than the quota has left; it is withheld."
        wait = retry_after(deny)
        assert wait is not None
        assert isinstance(ask.extend(6, tokens=90), Reservation)
        ask.clock.now += 2 * wait
        assert isinstance(ask.extend(7, tokens=20), Reservation)

    @pytest.mark.parametrize(
        ("tables", "rows"),
        [
            pytest.param({"rows": ["10/minute"]}, 11, id="larger than the window"),
            pytest.param({"lifetime": 10, "store": LASTING}, 10, id="a lifetime"),
        ],
    )
    def test_never(self, tables: dict[str, Any], rows: int) -> None:
        """Where waiting does not help, nobody is told to wait."""
        ask = Asker(**tables)
        ask(1)

        deny = ask.extend(rows)

        assert isinstance(deny, Deny)
        assert deny.code == "answer_withheld"
        assert retry_after(deny) is None
        assert '"rows' in dict(deny.headers)["RateLimit"]

    def test_four_at_once(self) -> None:
        """Of calls under way that all answer too much, nobody gets more than the budget."""
        ask = Asker(lifetime=1000, store=LASTING)
        assert all(admitted(ask(1)) for _ in "1234")

        found = [ask.extend(199_999) for _ in "1234"]

        assert not any(map(admitted, found))
        assert ask(996).amounts == {"rows": 996}

    def test_no_more(self) -> None:
        """An answer that is not larger asks no ledger, nor does who is exempt."""
        ask = Asker(is_far=True, rows=["10/minute"], exempt={"subjects": ["monitor"]})

        found = [
            ask.extend(rows, who) for rows, who in ((0, "alice"), (-3, "alice"), (99, "monitor"))
        ]

        assert [dict(x.amounts) for x in found if isinstance(x, Reservation)] == [{}, {}, {}]
        assert ask.ledger.entries(*accounts((ISSUER, "", "alice"))[:2]) == []

    def test_nobody_can_tell(self) -> None:
        """Where the settings want to know and nobody can tell, the answer is not given."""
        ask = Asker(is_far=True, rows=["10/minute"])
        steps = ask.quota.extend(ask.caller(), "iris", {"rows": 3})
        assert isinstance(next(steps), Debit)

        with pytest.raises(StopIteration) as decided:
            steps.send(None)

        assert decided.value.value == refusals.store_unavailable()


class TestRefusedBodies:
    """What does a request cost whose body was read and refused?"""

    def test_it_is_a_request(self) -> None:
        """It counts in each window of requests, the tenant's too, and in no other."""
        ask = Asker(requests=["3/minute"], rows=["9/minute"], tenant={"requests": ["4/minute"]})
        who = ask.caller("alice", "acme")
        assert ask(10, tenant="acme").code == "batch_exceeds_quota"

        for _ in "12":
            ask.quota.count_request(who, "iris")

        left = ask(9, tenant="acme").left
        assert {name: rest.partition(";")[0] for name, (_, rest) in left.items()} == {
            "requests-60": "r=0",
            "rows-60": "r=0",
            "tenant-requests-60": "r=1",
        }

    def test_who_is_not_counted(self) -> None:
        """Who is exempt, or asks what no window is about, changes nothing."""
        ask = Asker(requests=["1/minute"], exempt={"subjects": ["monitor"]})
        ask.quota.count_request(ask.caller("monitor"), "iris")
        without = Asker(rows=["1/minute"])
        without.quota.count_request(without.caller(), "iris")

        assert admitted(ask())

    def delayed(self, seconds: float, deny: Deny, **who: Any) -> tuple[Asker, int | None]:
        ask = Asker(rows=["9/minute"], exempt=EXEMPT)
        principal = Principal(**{"issuer": ISSUER, "subject": "alice"} | who)
        caller = ask.quota.caller(principal)
        ask.quota.refused_after(caller, "iris", deny, seconds)
        return ask, retry_after(ask.quota.spent(caller, "iris"))

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            pytest.param(0.004, None, id="cheap"),
            pytest.param(0.01, 1, id="noticeable"),
            pytest.param(0.2, 4, id="dear"),
            pytest.param(30, 60, id="dearer than any"),
        ],
    )
    def test_its_caller_waits(self, seconds: float, expected: int | None) -> None:
        """For 20 times as long as it took, the caller's bodies are refused unread."""
        ask, wait = self.delayed(seconds, refusals.body_too_large(5))

        assert wait == expected
        ask.clock.now += min(60, 20 * seconds)
        assert ask.spent() is None

    def test_what_is_refused_then(self) -> None:
        """What reads no body is not refused, nor is anybody else."""
        ask, _ = self.delayed(1.0, refusals.body_too_large(5))

        assert ask.spent("bob") is ask.spent(model=None) is None
        deny = ask.spent()
        assert deny is not None
        assert deny.code == "rate_exceeded"
        assert dict(deny.headers)["RateLimit-Policy"] == '"rows-60";q=9;w=60'

    def test_many_at_once(self) -> None:
        """Bodies that are read at once are waited for one after another."""
        ask, _ = self.delayed(0.5, refusals.body_too_large(5))

        ask.quota.refused_after(ask.caller(), "iris", refusals.body_too_large(5), 0.5)

        assert retry_after(ask.spent()) == 20

    @pytest.mark.parametrize(
        ("deny", "who"),
        [
            pytest.param(refusals.overloaded(), {}, id="not the caller's fault"),
            pytest.param(refusals.body_too_large(5), {"subject": "monitor"}, id="exempt"),
            pytest.param(
                refusals.body_too_large(5), {"issuer": "", "subject": ""}, id="no address"
            ),
        ],
    )
    def test_who_does_not_wait(self, deny: Deny, who: dict[str, Any]) -> None:
        """Nobody waits for what somebody else did."""
        assert self.delayed(1.0, deny, **who)[1] is None

    def test_so_many_are_remembered(self) -> None:
        """However many send such bodies, 10 000 wait at most, the last ones among them."""
        ask = Asker(rows=["9/minute"])
        for number in range(15_000):
            caller = ask.caller(str(number))
            ask.quota.refused_after(caller, "iris", refusals.body_too_large(5), 1.0)

        assert len(ask.quota._delays._until) <= 10_000
        assert [ask.spent(str(n)) is None for n in (0, 14_999)] == [True, False]


class TestKnownToBeSpent:
    """What is refused before the body is read?"""

    @pytest.mark.parametrize(
        ("tables", "rows", "expected"),
        [
            pytest.param({"requests": ["1/minute"]}, 1, (429, "rate_exceeded"), id="requests"),
            pytest.param({"rows": ["1/minute"]}, 1, (429, "quota_exceeded"), id="rows"),
            pytest.param({"lifetime": 1}, 1, (403, "quota_lifetime_spent"), id="lifetime"),
            pytest.param({"lifetime": 9}, 5, None, id="a lifetime with something left"),
            pytest.param({"rows": ["9/minute"]}, 5, None, id="a window with something left"),
            pytest.param({"rows": ["2/minute"]}, 2, (429, "quota_exceeded"), id="a batch"),
            pytest.param(
                {"rows": ["9/minute"], "tenant": {"rows": ["1/minute"]}},
                1,
                (429, "quota_exceeded"),
                id="the tenant's",
            ),
        ],
    )
    @near_and_far
    def test_after_a_refusal(
        self, is_far: bool, tables: dict[str, Any], rows: int, expected: tuple[int, str] | None
    ) -> None:
        """What had no room for one more is known to refuse the next one, in the same words."""
        ask = Asker(is_far=is_far, store=LASTING, **tables)
        assert ask.spent(tenant="acme") is None
        ask(rows, tenant="acme")
        assert ask.spent(tenant="acme") is None

        refused = ask(rows, tenant="acme")

        deny = ask.spent(tenant="acme")
        assert (deny and (deny.status, deny.code)) == expected
        if deny:
            assert deny.code == refused.code
            said, wait = dict(deny.headers), retry_after(deny)
            name, rest = said["RateLimit"].split(";", 1)
            assert rest == ("r=0" if wait is None else f"r=0;t={wait}")
            assert f"{name};q=" in said["RateLimit-Policy"]
        assert ask.spent("bob", tenant="other") is None

    @near_and_far
    def test_for_whom(self, is_far: bool) -> None:
        """Rows of one model say nothing of another's, nor of a route without a model."""
        ask = Asker(is_far=is_far, rows=["1/minute"], requests=["9/minute"])
        for _ in "12":
            ask(1)

        assert ask.spent() is not None
        assert ask.spent(model="gpt") is ask.spent(model=None) is None

    @near_and_far
    def test_how_long(self, is_far: bool) -> None:
        """Of a ledger here it is exact; another's word is taken for a second, and it is told."""
        ask = Asker(is_far=is_far, requests=["60/minute"], rows=["9/minute"])
        for _ in range(61):
            ask(0)
        told = ask(0)
        assert retry_after(ask.spent()) == retry_after(told) == 61

        ask.clock.now += 0.75
        assert retry_after(ask.spent()) == 61
        ask.clock.now += 0.25
        assert retry_after(ask.spent()) == (None if is_far else 60)
        ask.clock.now += 60
        assert ask.spent() is None

    def test_a_batch_in_a_store(self) -> None:
        """When one row fits is not known of a batch that did not: come again in a second."""
        ask = Asker(is_far=True, rows=["100/minute"])
        ask(100)
        assert retry_after(ask(100)) == 120

        assert retry_after(ask.spent()) == 1

    @near_and_far
    def test_operators_are_heard(self, is_far: bool) -> None:
        """What an operator resets or grants is there within a second."""
        ask = Asker(is_far=is_far, rows=["1/minute"])
        for _ in "12":
            ask(1)
        assert ask.spent() is not None

        ask.ledger.reset(*accounts((ISSUER, "", "alice"))[:2])

        ask.clock.now += 1 if is_far else 0
        assert ask.spent() is None
        assert admitted(ask(1))

    def test_another_plan(self) -> None:
        """Who has another plan now is measured by that one."""
        ask = Asker(**PLANS)
        for _ in "12":
            ask(10)
        gold = Principal(ISSUER, "alice", claims={"plan": "gold"})

        assert ask.spent() is not None
        assert ask.quota.spent(ask.quota.caller(gold), "iris") is None

    @near_and_far
    def test_larger_answers(self, is_far: bool) -> None:
        """An answer that was withheld says the same of a window."""
        ask = Asker(is_far=is_far, rows=["4/minute"])
        ask(4)

        ask.extend(1)

        assert retry_after(ask.spent()) == 75

    @examples(max_examples=200, deadline=None)
    @given(
        is_far=st.booleans(),
        steps=st.lists(st.tuples(st.integers(0, 10), st.sampled_from([0, 0.1, 0.7, 5, 61]))),
    )
    def test_never_wrongly(self, is_far: bool, steps: list[tuple[int, float]]) -> None:
        """What is refused unread the ledger would refuse, or it would have less than 1 s before."""
        ask = Asker(is_far=is_far, requests=["7/minute"], rows=["10/minute", "30/hour"])
        far = Quota(ask.settings, Far(ask.ledger))
        alice = far.caller(Principal(ISSUER, "alice"))
        debit = next(far.admit(alice, Cost("iris", {"rows": 1})))
        refused_at = 0.0
        for rows, pause in steps:
            ask(rows)
            for seconds in (0, pause):
                ask.clock.now += seconds
                would = ask.ledger.peek(debit.order).is_admitted
                refused_at = refused_at if would else ask.clock.now
                if ask.spent() is not None:
                    assert ask.clock.now - refused_at < 1 if is_far else not would


class TestMemo:
    """Is what was written down once right for the next request?"""

    @examples(max_examples=100, deadline=None)
    @given(
        asked=st.lists(
            st.tuples(
                st.sampled_from(["alice", "bob"]),
                st.sampled_from([None, "acme"]),
                st.sampled_from(["iris", "gpt", None]),
                st.integers(0, 3),
                st.sampled_from([{}, {"plan": "gold"}, {"plan": "none"}]),
                st.booleans(),
                st.booleans(),
            )
        )
    )
    def test_as_if_new(self, asked: list[tuple[Any, ...]]) -> None:
        """Whatever was asked before, the order and the headers are those of a new quota."""
        settings = Quotas.model_validate(
            {**PLANS, "concurrency": 9, "tenant": {"rows": ["50/minute"], "requests": ["99/hour"]}}
        )
        clock = Clock()
        old = Quota(settings, Far(MemoryLedger(clock)), is_shared=True)
        for who, tenant, model, rows, claims, is_request, flies in asked:
            principal = Principal(ISSUER, who, tenant, claims=claims)
            amounts = {} if model is None else {"rows": rows}
            demand = Cost(model, amounts, is_request, flies)
            new = Quota(settings, Far(MemoryLedger(clock)), is_shared=True)
            debits = [next(q.admit(q.caller(principal), demand), None) for q in (old, new)]
            orders = [debit.order if debit else None for debit in debits]
            assert orders[0] == orders[1]
            answers = [drive(new.admit(new.caller(principal), demand)) for _ in "12"]
            for answer in answers:
                if isinstance(answer, Reservation):
                    assert answer.headers == headers(answer.left)

    def test_what_the_caller_changes_later(self) -> None:
        """Amounts that change after they were asked are not what was asked."""
        ask, amounts = Asker(rows=["10/minute"]), {"rows": 1}
        who = ask.caller()
        drive(ask.quota.admit(who, Cost("iris", amounts)))
        amounts["rows"] = 9

        found = drive(ask.quota.admit(who, Cost("iris", amounts)))

        assert isinstance(found, Reservation)
        assert found.amounts == {"rows": 9}


class TestCharged:
    def test_nothing_to_do(self) -> None:
        """What costs what was reserved, and holds nothing, tells the ledger nothing."""
        told: list[Change] = []

        class Listening(MemoryLedger):
            def settle(self, changes: Sequence[Change], holder: str = "") -> None:
                told.extend(changes)

        quota = Quota(Quotas.model_validate({"rows": ["10/minute"]}), Listening())
        charged = drive(
            quota.admit(quota.caller(Principal(ISSUER, "alice")), Cost("iris", {"rows": 3}))
        )
        assert isinstance(charged, Reservation)

        charged.settle({"rows": 3})
        charged.settle({})
        charged.release()
        assert told == []
        charged.settle({"rows": 1})
        charged.settle({"rows": 1})

        assert [change.extra for change in told] == [-2]
        assert charged.amounts == {"rows": 1}


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
    answer = drive(quota.admit(quota.caller(Principal(ISSUER, "alice")), Cost("iris", {"rows": 1})))

    assert isinstance(answer, Deny)
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert "Retry-After" in dict(answer.headers)
