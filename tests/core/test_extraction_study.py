"""Does the study's small part find what the whole of it found?"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import extraction_clients as clients
from benchmarks import extraction_thieves as thieves
from benchmarks.extraction import Watch, victim
from benchmarks.extraction_clients import Account
from benchmarks.extraction_rivals import Prada

pytestmark = pytest.mark.xdist_group("extraction study")
ROWS = 1000


@pytest.fixture(scope="module")
def watch() -> Watch:
    """Watch rows of scikit-learn's breast cancer data, which need no download."""
    return Watch.of("breast cancer")


@pytest.mark.parametrize("family", [*thieves.DATA_FREE, *thieves.SEEDED])
def test_thieves_are_seen(watch: Watch, family: str) -> None:
    """Each family of attacks on a tree is flagged within 500 rows, as are those held out."""
    owner = victim(watch, "tree", 0)
    rng = np.random.default_rng(1)
    seeds = watch.traffic.values[:100]
    ask = {**thieves.DATA_FREE, **thieves.SEEDED}[family]

    asked = ask(thieves.Aim(watch.known, seeds, owner.answer, rng, 500))
    flags = watch.flagged(Account(asked, 1), owner.answer(asked), part=50, first=True)

    assert flags


@pytest.mark.parametrize("kind", clients.ORDINARY)
def test_honest_clients_are_not(watch: Watch, kind: str) -> None:
    """No ordinary client is flagged."""
    account = clients.ORDINARY[kind](watch.traffic, np.random.default_rng(2))

    assert watch.flagged(Account(account.values[:ROWS], account.request)) == {}


def test_natural_rows_are_not_seen(watch: Watch) -> None:
    """A thief who asks with natural rows is a customer, as the documentation says."""
    owner = victim(watch, "tree", 0)
    aim = thieves.Aim(
        watch.known, watch.traffic.values, owner.answer, np.random.default_rng(3), 500
    )

    assert watch.flagged(Account(thieves.natural(aim), 1)) == {}


def test_the_rival_reports_an_attack() -> None:
    """PRADA, as its paper has it, reports queries whose distances are those of a walk."""
    rng = np.random.default_rng(4)
    normal, attack = Prada(), Prada()
    steps = np.concatenate([rng.normal(size=(50, 8)), rng.normal(size=(350, 8)) * 1e-3])

    natural = [normal.observe(row, 0) for row in rng.normal(size=(400, 8))]
    found = [attack.observe(row, 0) for row in steps]

    assert any(found)
    assert np.mean(natural) < np.mean(found)
