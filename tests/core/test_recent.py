"""What was seen of late?"""

from __future__ import annotations

import threading

from mlguard.recent import Recent


def test_the_oldest_leave() -> None:
    """There are never more entries than may be, and the last ones are among them."""
    recent: Recent[int, int] = Recent(10)
    for number in range(1000):
        recent.put(number, -number)
        assert len(recent) <= 10

    assert [recent.get(n) for n in (0, 994, 999)] == [None, -994, -999]


def test_who_comes_again_stays() -> None:
    """An entry that is asked for now and then is not pushed out by many others."""
    recent: Recent[str, int] = Recent(10)
    recent.put("often", 1)
    for number in range(1000):
        recent.put(str(number), 0)
        if number % 4 == 0:
            assert recent.get("often") == 1


def test_the_newest_word_counts() -> None:
    """What is put again, or dropped, is not found as it was before."""
    recent: Recent[str, int] = Recent(4)
    for name in ("a", "b", "c"):
        recent.put(name, 1)
    recent.put("a", 2)

    assert recent.get("a") == 2
    recent.drop("a")
    assert recent.get("a") is None


def test_threads() -> None:
    """Threads that put and get at once keep the bound, and lose none that is still young."""
    recent: Recent[tuple[int, int], int] = Recent(10_000)
    missed: list[int] = []

    def run(which: int) -> None:
        for number in range(2000):
            recent.put((which, number), number)
            if recent.get((which, number)) != number:
                missed.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(recent) <= 10_000
    assert missed == []
