"""Are categories compared that nobody can read?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlguard.cli import main
from mlguard.drift.hashing import CategoryHash
from mlguard.errors import InvalidSettings
from mlguard.reference import Reference
from mlguard.settings import load

pytestmark = pytest.mark.xdist_group("evidently")

KEY = b"a key of categories"


def table(colours: str = "rgb", rows: int = 300) -> dict[str, list[Any]]:
    return {
        "colour": [colours[n % len(colours)] * 3 for n in range(rows)],
        "size": [float(n % 50) for n in range(rows)],
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "reference.parquet"
    Reference.build(table(), category_key=KEY).save(path)
    return path


def test_what_is_hashed() -> None:
    """Texts, in rows of either kind; numbers, truths and what is missing stay."""
    hashing = CategoryHash(KEY)
    ours, theirs = hashing.value("red"), CategoryHash(KEY + b"!").value("red")

    assert ours == CategoryHash(KEY).value("red") != theirs
    assert hashing.row(["red", 1.5, None, True]) == [ours, 1.5, None, True]
    assert hashing.row({"colour": "red", "size": 2}) == {"colour": ours, "size": 2}
    assert isinstance(hashing.value("\ud800" * 1000), str)
    assert hashing.row("red") == "red"
    with pytest.raises(ValueError, match="at least 16 bytes"):
        CategoryHash(b"short")


def test_nothing_can_be_read(saved: Path) -> None:
    """The file holds no text of the data, and is told apart from one with another key."""
    written = saved.read_bytes()
    reference = Reference.load(saved)

    assert not [text for text in (b"rrr", b"ggg", b"bbb") if text in written]
    assert reference.category_key == CategoryHash(KEY).name == Reference.peek_key(saved)
    assert [c for c, _ in reference.profile[0].categories] != ["bbb", "ggg", "rrr"]
    assert reference.profile[1].kind == "numeric"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param(KEY.decode(), None, id="the same key"),
        pytest.param("another key of categories", "with another key than", id="another key"),
        pytest.param(None, "with a key, and there is no", id="no key"),
        pytest.param("short", "must hold at least 16 bytes", id="a short key"),
    ],
)
def test_settings_agree_with_the_reference(
    saved: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, said: str | None
) -> None:
    """A reference that was hashed otherwise is a mistake at the start, not drift for ever."""
    drift: dict[str, Any] = {"window": 100}
    if key is not None:
        monkeypatch.setenv("CATEGORIES", key)
        drift["category_key_env"] = "CATEGORIES"
    settings = {"models": [{"name": "iris", "reference": str(saved)}], "drift": drift}

    if said is None:
        assert load(settings).category_key == KEY
    else:
        with pytest.raises(InvalidSettings, match=said):
            load(settings)


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reference is built and a table checked with the key; without it that is an error."""
    pd = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CATEGORIES", KEY.decode())
    pd.DataFrame(table()).to_csv("data.csv", index=False)
    pd.DataFrame(table("xyz")).to_csv("new.csv", index=False)
    key = ["--category-key-env", "CATEGORIES"]
    check = ["drift", "check", "--reference", "reference.parquet", "--current"]

    assert main(["reference", "build", "data.csv", *key]) == 0
    assert main([*check, "data.csv", *key]) == 0
    assert main([*check, "new.csv", *key]) == 3
    assert main([*check, "data.csv"]) == 1
    assert "--category-key-env" in capsys.readouterr().err
