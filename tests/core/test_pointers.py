"""Which place in a JSON document is meant?"""

from __future__ import annotations

import pytest

from mlguard.pointers import keys_of, written


@pytest.mark.parametrize(
    ("place", "keys"),
    [
        ("", ()),
        ("$", ()),
        ("instances", ("instances",)),
        ("inputs.0.data", ("inputs", "0", "data")),
        ("/inputs/0/data", ("inputs", "0", "data")),
        ("/my.rows", ("my.rows",)),
        ("/a~1b/m~0n", ("a/b", "m~n")),
        ("/~01", ("~1",)),
        ("/", ("",)),
        ("/*", ("*",)),
        ("/form", ("form",)),
    ],
)
def test_places(place: str, keys: tuple[str, ...]) -> None:
    """Keys are joined by dots, or stand in a JSON Pointer (RFC 6901) as they are."""
    assert keys_of(place) == keys
    assert keys_of(written(keys)) == keys


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (".", 'write "" for the whole document'),
        ("*", 'write "" for the whole document'),
        ("$.*", 'write "" for the whole document'),
        ("..", 'write "" for the whole document'),
        ("$.instances", 'write "instances"'),
        ("inputs[0].data", 'write "inputs.0.data"'),
        ("instances[*].x", 'write "instances.x"'),
        (".instances", 'write "instances"'),
        ("a..b", 'write "a.b"'),
        ("a.", 'write "a"'),
        ("#/a/b", 'write "/a/b"'),
        ("/a~b", 'write "~0" for "~"'),
        ("/a~", 'write "~0" for "~"'),
    ],
)
def test_what_names_no_place(place: str, said: str) -> None:
    """What would read nothing is refused, with what to write."""
    with pytest.raises(ValueError, match="write") as wrong:
        keys_of(place)

    assert said in str(wrong.value)
