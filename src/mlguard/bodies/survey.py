"""What does a document hold, in one walk?"""

from __future__ import annotations

from collections.abc import Container
from itertools import chain
from typing import Any, NamedTuple

from mlguard.bodies.documents import CONTAINERS, pairs


class Survey(NamedTuple):
    """What lists and objects were seen.

    Attributes:
        containers: How many lists and objects there are.
        longest: Items of the longest list, or values of the longest column.
        named: Most values of one object that may be rows by their names.
        values: Scalars in lists.
        objects: Objects of scalars alone.
        keyed: How many objects there are, of any kind.
    """

    containers: int
    longest: int
    named: int
    values: int
    objects: int
    keyed: int = 0

    def tells_all(self, raw: bytes, above: int) -> bool:
        """Say whether no list or object was written but those that were seen and those above.

        Then nothing hides more rows, whatever is said twice.
        """
        return raw.count(b"[") + raw.count(b"{") == above + self.containers


def survey(value: Any, features: Container[str] = ()) -> Survey:
    """Walk from a value down, depth by depth: it may be nested deeper than calls can be.

    Args:
        value: Parsed JSON.
        features: Keys that name columns, not rows.
    """
    containers = longest = named = scalars = flat = keyed = 0
    level = [value] if type(value) in CONTAINERS else []
    while level:
        containers += len(level)
        lists = [c for c in level if type(c) is list]
        objects = [c for c in level if type(c) is not list]
        keyed += len(objects)
        longest = max(longest, max(map(len, lists), default=0))
        level = _containers(lists)
        scalars += sum(map(len, lists)) - len(level)
        for said in map(pairs, objects):
            nested = [v for _, v in said if type(v) in CONTAINERS]
            if not nested:
                flat += 1
                continue
            level += nested
            longest = max(longest, longest_column(nested))
            if any(nested) and any(key not in features for key, _ in said):
                named = max(named, len(said))
    return Survey(containers, longest, named, scalars, flat, keyed)


def longest_column(nested: list[Any]) -> int:
    """Count a table's rows: columns that name their rows may name different ones."""
    names = [c for c in nested if type(c) is not list]
    named = len(set().union(*names)) if names else 0
    return max(named, max((len(c) for c in nested if type(c) is list), default=0))


def _containers(lists: list[list[Any]]) -> list[Any]:
    if CONTAINERS.isdisjoint(map(type, chain.from_iterable(lists))):
        return []
    return [v for v in chain.from_iterable(lists) if type(v) in CONTAINERS]
