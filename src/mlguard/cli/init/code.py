"""What does a handler's code take out of a request, where no schema says it?"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_JSON = ("json", "get_json")
_GETTING = ("get", "getlist")
_PLACES = {
    "form": "form",
    "values": "form",
    "files": "files",
    "args": "query",
    "query_params": "query",
}
"""What frameworks call the parts of a request, and what the settings call them."""


class Taken(NamedTuple):
    """What a handler takes and answers, as far as its code says.

    Attributes:
        kind: "json", "form", "files" or "query"; "" where none is seen.
        keys: The members that it asks for by name, in order.
        answers: Those of the object that it returns.
        models: The models that it asks by `guard.inference(...)`.
    """

    kind: str = ""
    keys: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def taken(handler: Any, method: str) -> Taken:
    """Read a handler's code.

    Args:
        handler: A function, or one that a class with a method for each HTTP method stands behind.
        method: The HTTP method.
    """
    function = getattr(getattr(handler, "view_class", None), method.lower(), handler)
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = ast.parse(source)
    except (OSError, TypeError, ValueError, SyntaxError):  # made by no file, or a lambda's line
        return Taken()
    found: dict[str, list[str]] = {}
    names = dict(_named(tree))
    for value, key in _asked(tree):
        kind = _kind(value, names)
        if kind:
            found.setdefault(kind, []).append(key)
    for kind in filter(None, (_kind(node, {}) for node in ast.walk(tree))):
        found.setdefault(kind, [])
    answers = tuple(dict.fromkeys(_answered(tree)))
    models = tuple(dict.fromkeys(_models(tree)))
    for kind in ("files", "form", "json", "query"):
        if kind in found:
            return Taken(kind, tuple(dict.fromkeys(found[kind])), answers, models)
    return Taken(answers=answers, models=models)


def _named(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """List the names that hold a part of the request, and a FastAPI handler's plain body."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, kind = node.targets[0], _kind(node.value, {})
            if isinstance(target, ast.Name) and kind:
                yield target.id, kind
        elif isinstance(node, ast.arg) and node.annotation is not None:
            said = ast.unparse(node.annotation)
            if said.split("[")[0] in ("dict", "Dict", "Any", "list", "List", "typing.Any"):
                yield node.arg, "json"


def _asked(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """List what is asked for a member by its name, in the order of the code."""
    found: list[tuple[ast.expr, ast.expr, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            found.append((node, node.value, node.slice))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            found += [(node, node.func.value, node.args[0])] if node.func.attr in _GETTING else []
    for _, value, key in sorted(found, key=lambda f: (f[0].lineno, f[0].col_offset)):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield value, key.value


def _kind(node: ast.AST, names: dict[str, str]) -> str:
    """Tell which part of a request an expression is, "" for none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Await | ast.Starred):
        return _kind(node.value, names)
    if isinstance(node, ast.BoolOp):  # request.get_json() or {}
        return next(filter(None, (_kind(value, names) for value in node.values)), "")
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("to_dict", "copy"):
            return _kind(node.func.value, names)
        if ast.unparse(node.func).endswith("json.loads"):
            return "json"
        return _kind(node.func, names)
    if isinstance(node, ast.Attribute) and _is_request(node.value):
        return "json" if node.attr in _JSON else _PLACES.get(node.attr, "")
    return ""


def _is_request(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in ("request", "req")


def _models(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".inference"):
            for name in node.args[:1]:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value


def _answered(tree: ast.AST) -> Iterator[str]:
    """List the members of the objects that are returned."""
    named: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named[node.targets[0].id] = node.value
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _members(node.value, named)


def _is_refusal(node: ast.AST) -> bool:
    """Tell the status of an answer that is none."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value >= 400


def _members(node: ast.AST, named: dict[str, ast.AST]) -> Iterable[str]:
    if isinstance(node, ast.Tuple) and node.elts:
        return [] if any(map(_is_refusal, node.elts[1:])) else _members(node.elts[0], named)
    if isinstance(node, ast.Name) and node.id in named:
        return _members(named[node.id], {})
    if isinstance(node, ast.Dict):
        return [str(k.value) for k in node.keys if isinstance(k, ast.Constant)]
    if isinstance(node, ast.Call):
        members = [k.arg for k in node.keywords if k.arg]
        if ast.unparse(node.func).endswith(("jsonify", "JSONResponse", "dumps", "dict")):
            return [*(m for a in node.args[:1] for m in _members(a, named)), *members]
    return []
