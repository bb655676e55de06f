"""Is the house as its map says?"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.servers import ROOT

CORE = ROOT / "src" / "mlguard"
ADAPTERS = [
    ROOT / "integrations" / name / "src" / f"mlguard_{name}" for name in ("fastapi", "flask")
]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
"""Rooms that are being emptied: their names and size are not looked at any more."""


def modules(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.py")


def classes(folder: Path) -> dict[str, list[str]]:
    """List where each public class of a package is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in modules(folder):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(folder)))
    return found


def lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def test_one_name_means_one_thing() -> None:
    """No class of the core, nor of an adapter, has a name that another one has."""
    core, *adapters = map(classes, (CORE, *ADAPTERS))

    assert {name: places for name, places in core.items() if len(places) > 1} == {}
    assert [core.keys() & adapter.keys() for adapter in adapters] == [set(), set()]


def test_each_room_is_on_the_map() -> None:
    """The map has a line for each folder, and none for another."""
    page = PAGE.split("## The map")[1].split("###")[0]
    rooms = {p.parent.relative_to(CORE).parts[0] for p in CORE.glob("*/__init__.py")}

    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == rooms


def test_changes_are_made_where_the_map_says() -> None:
    """Each file that it names is there."""
    page = PAGE.split("### Where do I change …")[1].split("## The walk")[0]
    named = re.findall(r"`([\w/]+(?:/|\.\w+))`", page.split("\n\n")[1])

    assert len(named) > 10
    assert [name for name in named if not (CORE / name).exists()] == []


def test_no_room_is_too_large() -> None:
    """No folder holds more than 15 % of the house."""
    whole = lines(CORE) + sum(map(lines, ADAPTERS))
    rooms = {p.name: lines(p) / whole for p in CORE.iterdir() if p.is_dir()}

    assert {n: share for n, share in rooms.items() if share > 0.15} == {}
