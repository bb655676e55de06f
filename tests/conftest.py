"""What holds for every test?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import pytest

# OpenTelemetry reads this once per process, and some tests instrument apps before the kit does.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

pytest.register_assert_rewrite("tests.contract.bodies", "tests.contract.contract", "tests.servers")

LONGEST_FIRST = ("e2e", "endings", "contract")  # folders
LONGEST_ID = 60  # characters


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tell `-n auto` how many processes pay: none for a file or two, whose tests begin at once."""
    named = [Path(argument.partition("::")[0]) for argument in config.args]
    if len(named) < 3 and all(path.is_file() for path in named):
        return 0
    return (os.cpu_count() or 1) + 1  # often one waits for a server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits the longest: short tests fill the time until it ends.

    What shares a server, or takes as long, is done together, and first.
    """
    files: dict[Path, int] = {}
    groups: dict[str, int] = {}
    items.sort(
        key=lambda item: (
            _waits_least(item),
            not _group(item),
            files.setdefault(item.path, len(files)),
            groups.setdefault(_group(item), len(groups)),
        )
    )


def _waits_least(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark else ""


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name what pytest would number by what it is, and the same in every process."""
    if isinstance(val, Mapping | Sequence | Set):
        return _said(val)[:LONGEST_ID]
    return None  # pytest names it well


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_said(k)}={_said(v)}" for k, v in value.items()) or "nothing"
    if isinstance(value, Set):
        return ", ".join(sorted(map(_said, value))) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, str | bytes | int | float | None):
        return ascii(value).removeprefix("b").strip("'") or "nothing"
    return str(getattr(value, "__name__", type(value).__name__))


@pytest.fixture(scope="session")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder of a short path, as the name of a Unix socket has 108 bytes at most."""
    tmp_path_factory.getbasetemp()  # it asks for the temporary folder when it is first used
    root = Path(tempfile.mkdtemp(prefix="mg"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


def _stand_in_own_folder(_root: Path) -> Iterator[None]:
    """Keep what this scope starts apart from every other: a service meets its own by its name."""
    folder = tempfile.mkdtemp(dir=_root, prefix="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setenv("XDG_RUNTIME_DIR", "")
        patch.setattr(tempfile, "tempdir", folder)
        yield


_of_a_module = pytest.fixture(_stand_in_own_folder, scope="module", autouse=True)
_of_a_class = pytest.fixture(_stand_in_own_folder, scope="class", autouse=True)
_of_a_test = pytest.fixture(_stand_in_own_folder, autouse=True)
