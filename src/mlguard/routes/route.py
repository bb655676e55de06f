"""Which routes does an app have?"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

from mlguard.settings import ANY_HOST


@dataclass(frozen=True, slots=True)
class Route:
    """One route of an app, or what is mounted there as a whole.

    Attributes:
        methods: What it serves, sorted; empty where it serves whatever comes.
        template: As the framework spells it, with the prefixes of routers and mounts.
        scopes: What its handler demands beyond the settings.
        limits: What its handler declares beyond the settings, as written there.
        is_guarded: Whether the guard stands before it.
        is_websocket: Whether it takes WebSockets.
        missed: Limits that stand above the framework's decorator, and so do not hold here.
        host: The host or subdomain that it answers on, as the framework spells it; "" where it
            asks for none.
        handler: What answers, told apart by identity alone.
    """

    methods: tuple[str, ...]
    template: str
    scopes: frozenset[str] = frozenset()
    limits: tuple[str, ...] = ()
    is_guarded: bool = True
    is_websocket: bool = False
    missed: tuple[str, ...] = ()
    host: str = ANY_HOST
    handler: Any = field(default=None, compare=False, repr=False)

    def below(self, prefix: str, host: str = ANY_HOST) -> Route:
        """Return the route of a mounted app as one of the app that it is mounted in."""
        return replace(self, template=prefix + self.template, host=self.host or host)

    @property
    def name(self) -> str:
        """How it is named where its host must be told."""
        return f"{self.host or '*'}{self.template}"

    @property
    def shown(self) -> str:
        """How it is shown: with the host that it asks for, if it asks for one."""
        return f"{self.host}{self.template}"

    @property
    def function(self) -> Any:
        """What answers, below its decorators."""
        return inspect.unwrap(self.handler) if callable(self.handler) else self.handler
