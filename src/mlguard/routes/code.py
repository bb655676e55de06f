"""What does the code of an app name? Read, never run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

_MOST = 5000  # pieces of code looked at


class Code(NamedTuple):
    """One piece of code.

    Attributes:
        code: As it was compiled.
        names: What it finds by name.
    """

    code: CodeType
    names: Mapping[str, Any]

    @property
    def texts(self) -> set[str]:
        """The texts that it compares or hands on, constants of its module included."""
        found = [self.names.get(name) for name in self.code.co_names]
        texts = {text for text in found if type(text) is str}
        for constant in self.code.co_consts:
            if isinstance(constant, CodeType):
                texts |= Code(constant, self.names).texts
            elif isinstance(constant, str):
                texts.add(constant)
        return texts

    @property
    def asks(self) -> set[str]:
        """The names and attributes that it uses."""
        inner = (Code(c, self.names) for c in self.code.co_consts if isinstance(c, CodeType))
        return {*self.code.co_names}.union(*(each.asks for each in inner))


def codes_of(thing: Any) -> Iterator[Code]:
    """List the code of a function, or of the methods of a class or of what is called as one."""
    if isinstance(thing, FunctionType):
        found: list[Any] = [thing]
    else:
        kind = thing if isinstance(thing, type) else type(thing)
        found = list(vars(kind).values())
    for each in found:
        function = None
        with suppress(Exception):  # a proxy may raise whatever it likes
            function = inspect.unwrap(each)
        if type(function) is FunctionType:
            yield Code(function.__code__, function.__globals__)


def codes_near(handler: Any) -> Iterator[Code]:
    """List the code that a handler may call: of its module, and of what that imports."""
    yield from codes_of(handler)
    names = getattr(handler, "__globals__", None)
    if not isinstance(names, Mapping):
        return
    package = str(names.get("__name__", "")).partition(".")[0]
    things = list(names.values())
    for module in [thing for thing in things if isinstance(thing, ModuleType)]:
        if module.__name__.partition(".")[0] == package:
            things += vars(module).values()
    for thing in things[:_MOST]:
        if isinstance(thing, FunctionType | type):
            yield from codes_of(thing)
