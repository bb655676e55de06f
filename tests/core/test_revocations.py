"""Which tokens count no longer?"""

from __future__ import annotations

import json
import math
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard import revocations as module
from mlguard.revocations import MAX_TEXT, Revocation, Revocations

ISSUER = "https://login.example.com/"


def of_token(jti: str = "a", **more: Any) -> Revocation:
    return Revocation(ISSUER, jti=jti, **more)


def of_subject(subject: str = "ann", **more: Any) -> Revocation:
    return Revocation(ISSUER, subject=subject, **more)


def knowing(*entries: Revocation) -> Revocations:
    """Return what has learned that, before anything was past."""
    revocations = Revocations()
    revocations.learn(entries, -1)
    return revocations


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)


class TestRevocation:
    """What is one revocation?"""

    @pytest.mark.parametrize(
        "written",
        [
            pytest.param({"issuer": ISSUER}, id="of nothing"),
            pytest.param({"issuer": ISSUER, "jti": "a", "subject": "b"}, id="of both"),
            pytest.param({"jti": "a"}, id="no issuer"),
            pytest.param({"issuer": "", "jti": "a"}, id="an empty issuer"),
            pytest.param({"issuer": ISSUER, "jti": ""}, id="an empty token"),
            pytest.param({"issuer": ISSUER, "subject": 1}, id="a subject that is no string"),
            pytest.param({"issuer": ISSUER, "jti": "a" * (MAX_TEXT + 1)}, id="too long"),
            pytest.param({"issuer": ISSUER, "jti": "a", "before": "1"}, id="before, a string"),
            pytest.param({"issuer": ISSUER, "jti": "a", "before": None}, id="before, nothing"),
            pytest.param(
                {"issuer": ISSUER, "jti": "a", "before": math.nan}, id="before, no number"
            ),
            pytest.param({"issuer": ISSUER, "jti": "a", "until": True}, id="until, a truth"),
            pytest.param({"issuer": ISSUER, "jti": "a", "until": math.inf}, id="until, endless"),
            pytest.param({"issuer": ISSUER, "jti": "a", "until": 10**400}, id="until, huge"),
            pytest.param({"issuer": ISSUER, "jti": "a", "reason": "x"}, id="an unknown word"),
            pytest.param([], id="a list"),
            pytest.param(None, id="null"),
        ],
    )
    def test_junk_is_no_revocation(self, written: object) -> None:
        """What cannot be read is a ValueError."""
        with pytest.raises(ValueError):
            Revocation.from_dict(written)

    @pytest.mark.parametrize(
        "revocation",
        [of_token(), of_token(until=2.5), of_subject("\ud800'\"\n", before=1.25, until=10)],
        ids=["token", "token with an end", "subject"],
    )
    def test_it_can_be_written_down(self, revocation: Revocation) -> None:
        """JSON brings back what was written."""
        assert Revocation.from_dict(json.loads(json.dumps(revocation.as_dict()))) == revocation


class TestCovers:
    """Whom does a revocation meet?"""

    @pytest.mark.parametrize(
        ("issuer", "claims", "covered"),
        [
            pytest.param(ISSUER, {"jti": "a"}, True, id="the token"),
            pytest.param(ISSUER, {"jti": "b"}, False, id="another token"),
            pytest.param("https://other/", {"jti": "a"}, False, id="of another issuer"),
            pytest.param(ISSUER, {}, False, id="a token without a name"),
            pytest.param(ISSUER, {"jti": ["a"]}, False, id="a name that is a list"),
        ],
    )
    def test_one_token(self, issuer: str, claims: dict[str, Any], covered: bool) -> None:
        """A token is revoked by its name, for its issuer."""
        assert knowing(of_token()).covers(issuer, claims, "ann") is covered

    @pytest.mark.parametrize(
        ("issuer", "subject", "claims", "covered"),
        [
            pytest.param(ISSUER, "ann", {"iat": 99}, True, id="issued before"),
            pytest.param(ISSUER, "ann", {"iat": 100}, True, id="issued at that moment"),
            pytest.param(ISSUER, "ann", {"iat": 100.5}, False, id="issued after"),
            pytest.param(ISSUER, "ann", {}, True, id="it does not say when"),
            pytest.param(ISSUER, "ann", {"iat": "101"}, True, id="a string"),
            pytest.param(ISSUER, "ann", {"iat": True}, True, id="a truth"),
            pytest.param(ISSUER, "ann", {"iat": math.nan}, True, id="no number"),
            pytest.param(ISSUER, "bob", {"iat": 99}, False, id="another subject"),
            pytest.param("https://other/", "ann", {"iat": 99}, False, id="of another issuer"),
            pytest.param(ISSUER, "bob", {"iat": 99, "jti": "ann"}, False, id="a token so named"),
        ],
    )
    def test_all_tokens_of_a_subject(
        self, issuer: str, subject: str, claims: dict[str, Any], covered: bool
    ) -> None:
        """A subject's tokens are revoked that are not known to be issued later."""
        revocations = knowing(of_subject(before=100))

        assert revocations.covers(issuer, claims, subject) is covered


class TestRevocations:
    """What is kept?"""

    def test_the_same_is_joined(self) -> None:
        """The latest `before` and the longest `until` count; an older one is no news."""
        revocations = Revocations()

        told = [
            of_subject(before=5, until=50),
            of_subject(before=4, until=60),
            of_subject(before=5, until=10),
            of_subject(before=1),
            of_subject(before=5, until=70),
        ]
        news = [bool(revocations.learn([entry], 0)[0]) for entry in told]

        assert news == [True, True, False, True, False]
        assert list(revocations) == [of_subject(before=5)]

    def test_what_is_past_is_dropped(self) -> None:
        """At `until` it is forgotten, and not learned again; what has none stays for ever."""
        revocations = knowing(of_token("a"), of_token("b", until=5), of_token("c", until=6))

        assert revocations.learn([of_token("d", until=5)], 5) == ([], 0)

        assert {r.jti for r in revocations} == {"a", "c"}

    @pytest.mark.usefixtures("room_for_three")
    def test_too_many_are_refused_aloud(self) -> None:
        """What is there stays, as much as fits is taken, and what is known may still change."""
        revocations = knowing(of_token("a"), of_subject("ann", before=1))
        more = [of_token("a"), of_token("b"), of_token("c"), of_token("d")]

        assert revocations.learn(more, 0) == (more[1:], 2)

        assert {r.name for r in revocations} == {"a", "ann", "b"}
        later = [of_subject("ann", before=2)]
        assert revocations.learn(later, 0) == (later, 0)

    @pytest.mark.usefixtures("room_for_three")
    def test_what_is_past_makes_room(self) -> None:
        """It is forgotten before others are refused."""
        revocations = knowing(*(of_token(name, until=5) for name in "abc"))

        assert revocations.learn([of_token("d")], 4)[1] == 1
        assert revocations.learn([of_token("d")], 5)[1] == 0

    def test_readers_need_no_lock(self) -> None:
        """While some are added and forgotten, others are found all the time."""
        revocations = knowing(of_token("kept"))
        done = Event()

        def write() -> None:
            for round_ in range(200):
                revocations.learn((of_token(f"{round_}-{i}", until=1) for i in range(50)), 0)
                revocations.learn((), 2)
            done.set()

        writer = Thread(target=write)
        writer.start()
        found = []
        while not done.is_set():
            found.append(revocations.covers(ISSUER, {"jti": "kept"}, "ann"))
            found.append(any(r.jti == "kept" for r in revocations))
        writer.join()

        assert all(found)
        assert len(revocations) == 1


MOMENTS = st.integers(0, 5)
ENTRIES = st.builds(
    lambda kind, issuer, name, before, until: Revocation(
        issuer, **{kind: name}, before=before, until=until
    ),
    st.sampled_from(["jti", "subject"]),
    st.sampled_from(["i", "k"]),
    st.sampled_from(["a", "b"]),
    MOMENTS,
    st.none() | MOMENTS,
)


@examples(deadline=None)
@given(
    st.lists(st.tuples(st.lists(ENTRIES), MOMENTS)),
    st.sampled_from(["i", "k"]),
    st.fixed_dictionaries(
        {},
        optional={
            "jti": st.sampled_from(["a", "b", None, 1]),
            "iat": MOMENTS | st.sampled_from(["1", None]),
        },
    ),
    st.sampled_from(["a", "b"]),
)
def test_it_is_a_plain_list(
    steps: list[tuple[list[Revocation], int]], issuer: str, claims: dict[str, Any], subject: str
) -> None:
    """Whatever was learned and forgotten, the answer is that of a list that is searched."""
    revocations, plain = Revocations(), list[Revocation]()
    for entries, now in steps:
        revocations.learn(entries, now)
        kept = {r.key for r in plain if not r.is_past(now)}
        plain = [r for r in plain if r.key in kept] + [r for r in entries if not r.is_past(now)]

    def is_met(r: Revocation) -> bool:
        iat = claims.get("iat")
        if r.issuer != issuer:
            return False
        if r.jti is not None:
            return r.jti == claims.get("jti")
        return r.subject == subject and (not isinstance(iat, int) or iat <= r.before)

    assert revocations.covers(issuer, claims, subject) == any(is_met(r) for r in plain)
    assert {r.key for r in revocations} == {r.key for r in plain}


@examples(deadline=None)
@given(st.lists(ENTRIES), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(entries: list[Revocation], random: Any) -> None:
    """Hosts that learn the same in another order, some of it twice, know the same."""
    shuffled = entries + entries[: len(entries) // 2]
    random.shuffle(shuffled)

    assert set(knowing(*shuffled)) == set(knowing(*entries))
