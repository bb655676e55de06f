"""Which routes does an app have, and what covers each?"""

from __future__ import annotations

from typing import NamedTuple


class Route(NamedTuple):
    """One route of an app, or what is mounted there as a whole.

    Attributes:
        methods: What it serves, sorted; empty where it serves whatever comes.
        template: As the framework spells it, with the prefixes of routers and mounts.
        scopes: What its handler demands beyond the settings.
        limits: What its handler declares beyond the settings, as written there.
        is_guarded: Whether the guard stands before it.
        is_websocket: Whether it takes WebSockets.
        missed: Limits that stand above the framework's decorator, and so do not hold here.
    """

    methods: tuple[str, ...]
    template: str
    scopes: frozenset[str] = frozenset()
    limits: tuple[str, ...] = ()
    is_guarded: bool = True
    is_websocket: bool = False
    missed: tuple[str, ...] = ()
