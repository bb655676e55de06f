"""Which API keys are kept, where, and what does an operator do with them?"""

from __future__ import annotations

import json
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlguard.auth import ApiKeys
from mlguard.auth.api_keys import PATTERN, ApiKey, KeyBook, id_of, new_key, one_key
from mlguard.cli import main
from mlguard.keys.api_key_file import ApiKeyFile
from mlguard.keys.api_keys import KeyReader, KeyStore
from mlguard.messages import Deny, Principal
from mlguard.redis.api_keys import ApiKeyStore
from mlguard.settings import load
from tests.redis_servers import Cluster, Redis

NOW = 1_800_000_000.0
FILE = """\
[[models]]
name = "iris"
scopes = ["predict:iris"]

[auth.api_keys]
{keys}

[quotas]
rows = ["100/hour"]

[quotas.plans.gold]
rows = ["1000/hour"]
"""


def entry(book: KeyBook, text: str, subject: str = "alice", **more: Any) -> ApiKey:
    return ApiKey(id_of(text) or text[:8], book.hash(text), subject, **more)


def book_with(*texts: str) -> KeyBook:
    book = KeyBook.new()
    for text in texts:
        book = book.adding(entry(book, text))
    return book


class TestKey:
    def test_it_is_found_by_scanners(self) -> None:
        """A key has a prefix, an id and a checksum: one letter changed, it is none."""
        key = new_key()

        assert re.fullmatch(PATTERN, key)
        assert id_of(key) == key[4:12]
        for place in (5, 20, len(key) - 1):
            other = "a" if key[place] != "a" else "b"
            assert id_of(key[:place] + other + key[place + 1 :]) is None
        assert len({new_key() for _ in range(100)}) == 100

    @pytest.mark.parametrize("sent", [(), ("a", "b"), ("",), ("x" * 513,), ("a\tb",), ("é",)])
    def test_one_header_has_one_key(self, sent: tuple[str, ...]) -> None:
        """Two, none, and what cannot be one, are none."""
        assert one_key(sent) is None
        assert one_key([" key "]) == "key"

    def test_it_is_kept_as_a_salted_hash(self) -> None:
        """What is written down holds no part of a key but its id, and differs by the salt."""
        key = new_key()
        one, other = book_with(key), book_with(key)

        assert key[13:] not in one.to_json().decode()
        assert one.keys[0].hash != other.keys[0].hash
        assert KeyBook.from_json(one.to_json()) == one

    def test_right_and_wrong_take_the_same_time(self) -> None:
        """A wrong key, a near one and a right one cost the same within a factor of two."""
        texts = [new_key() for _ in range(200)]
        keys = ApiKeys(":".join)
        keys.put(book_with(*texts))
        right, near, wrong = texts[100], texts[100][:-1] + "!", new_key()

        def cost(text: str) -> float:
            began = time.perf_counter_ns()
            for _ in range(200):
                keys.caller(text, NOW)
            return time.perf_counter_ns() - began

        costs = {text: [0.0] * 31 for text in (right, near, wrong)}
        for number in range(31):
            for text, spent in costs.items():
                spent[number] = cost(text)
        medians = [statistics.median(spent) for spent in costs.values()]
        assert max(medians) < 2.5 * min(medians)


class TestApiKeys:
    def test_unknown_until_read(self) -> None:
        """While nobody knows which keys there are, each gets a 503."""
        refusal = ApiKeys(":".join).caller("any", NOW)

        assert isinstance(refusal, Deny)
        assert (refusal.status, refusal.code) == (503, "keys_unavailable")

    def test_a_long_connection_ends_with_its_key(self) -> None:
        """Who was let in by a key that expires, or is revoked, is refused from then on."""
        text = new_key()
        book = KeyBook.new()
        keys = ApiKeys(":".join)
        keys.put(book.adding(entry(book, text, expires=NOW + 10)))
        who = keys.caller(text, NOW)
        assert isinstance(who, Principal)

        assert keys.lapsed(who, NOW) is None
        late = keys.lapsed(who, NOW + 11)
        keys.put(book)
        gone = keys.lapsed(who, NOW)
        assert [late and late.code, gone and gone.code] == ["key_expired", "key_unknown"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"{}", "no document of API keys"),
        (b'{"format": 9}', "of format 1"),
        (b'{"format": 1, "salt": 3, "keys": []}', "no salt"),
        (b'{"format": 1, "salt": "00", "keys": []}', "less than 16 bytes"),
        (b'{"format": 1, "salt": "%s", "keys": [3]}' % (b"0" * 32), "must be an object"),
        (
            b'{"format": 1, "salt": "%s", "keys": [{"id": "a", "hash": "b", "subject": "c"}]}'
            % (b"0" * 32),
            "'a' cannot be read",
        ),
    ],
)
def test_a_document_of_something_else(tmp_path: Path, text: bytes, said: str) -> None:
    """What cannot be read is named, with the file."""
    path = tmp_path / "keys.json"
    path.write_bytes(text)

    with pytest.raises(ValueError, match=f"(?s)keys.json.*{said}"):
        ApiKeyFile(path).news()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as server:
        yield server.url


@pytest.fixture(params=["file", "single", "cluster"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], KeyStore]:
    """Make a store that holds what others of this test hold."""
    if request.param == "file":
        return lambda: ApiKeyFile(tmp_path / "keys.json")
    url, service = request.getfixturevalue(request.param), uuid4().hex
    return lambda: ApiKeyStore(url, service, timeout=5.0)


class TestStores:
    def test_what_one_writes_others_read_once(self, make: Callable[[], KeyStore]) -> None:
        """A change is news to each reader, once."""
        one, other = make(), make()
        key, second = new_key(), new_key()
        one.change(lambda book: book.adding(entry(book, key)))
        first = other.news()
        again = other.news()
        one.change(lambda book: book.adding(entry(book, second)))
        later = other.news()

        assert first is not None
        assert [k.id for k in first.keys] == [id_of(key)]
        assert again is None
        assert later is not None
        assert [k.id for k in later.keys] == [id_of(key), id_of(second)]
        assert later.salt == first.salt

    def test_no_change_is_lost(self, make: Callable[[], KeyStore]) -> None:
        """Those who write at once write one after another."""
        texts = [new_key() for _ in range(12)]

        def add(text: str) -> None:
            make().change(lambda book: book.adding(entry(book, text)))

        threads = [threading.Thread(target=add, args=[text]) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        found = make().news()
        assert found is not None
        assert {k.id for k in found.keys} == {id_of(text) for text in texts}

    def test_what_is_refused_changes_nothing(self, make: Callable[[], KeyStore]) -> None:
        """A change that cannot be made leaves all as it was."""
        store, key = make(), new_key()
        store.change(lambda book: book.adding(entry(book, key)))

        with pytest.raises(ValueError, match="there already"):
            store.change(lambda book: book.adding(entry(book, key)))
        found = make().news()
        assert found is not None
        assert len(found.keys) == 1


class TestReader:
    def test_what_is_known_holds_while_the_file_is_away(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that vanishes, or is torn, shuts nobody out; one line and a gauge say so."""
        path, key = tmp_path / "keys.json", new_key()
        told: list[bool] = []
        keys = ApiKeys(":".join)
        book = book_with(key)
        path.write_bytes(book.to_json())
        reader = KeyReader(ApiKeyFile(path), keys, told.append)
        reader.start()
        path.write_bytes(b"{")
        reader.look_after()
        path.unlink()
        reader.look_after()

        assert isinstance(keys.caller(key, NOW), Principal)
        assert told == [True]
        assert len(caplog.records) == 1
        path.write_bytes(KeyBook(book.salt).to_json())
        reader.look_after()
        assert told == [True, False]
        assert keys.caller(key, NOW) is None

    def test_a_file_that_comes_later(self, tmp_path: Path) -> None:
        """Without a file there are no keys yet: each is refused until it is there."""
        path, key, keys = tmp_path / "keys.json", new_key(), ApiKeys(":".join)
        reader = KeyReader(ApiKeyFile(path), keys, lambda _: None)
        reader.start()
        before = keys.caller(key, NOW)
        path.write_bytes(book_with(key).to_json())
        reader.look_after()

        assert before is None
        assert isinstance(keys.caller(key, NOW), Principal)


class TestCommands:
    @pytest.fixture
    def run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        settings = tmp_path / "mlguard.toml"
        settings.write_text(FILE.format(keys=""))

        def run(*arguments: str) -> tuple[int, str, str]:
            code = main(["key", *arguments, "--settings", str(settings)])
            told = capsys.readouterr()
            return code, told.out, told.err

        return run

    def test_created_listed_rotated_revoked(self, run: Any, tmp_path: Path) -> None:
        """A key's whole life; only who creates it sees it."""
        code, key, said = run("create", "--subject", "alice", "--plan", "gold", "--days", "30")
        key = key.strip()
        assert (code, id_of(key) is not None) == (0, True)
        assert f"key {id_of(key)} of alice, until 20" in said

        (told,) = json.loads(run("list", "--json")[1])
        assert told["scopes"] == ["predict:iris"]
        assert (told["id"], told["plan"], "hash" in told) == (id_of(key), "gold", False)
        assert (tmp_path / "api_keys.json").stat().st_mode & 0o777 == 0o600
        assert key not in run("list")[1]

        code, new, said = run("rotate", key, "--grace-hours", "1")
        assert code == 0
        assert f"key {id_of(key)} holds until" in said
        both = json.loads(run("list", "--json")[1])
        assert [k["id"] for k in both] == [id_of(key), id_of(new.strip())]
        assert both[0]["expires"] < both[1]["expires"]

        assert run("revoke", id_of(key))[:2] == (0, f"revoked: {id_of(key)}\n")
        assert run("revoke", "--subject", "alice")[0] == 0
        assert "there are none" in run("list")[1]

    def test_a_key_of_another_maker(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys that callers have already are taken in, and found by themselves."""
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO("sk-0123456789abcdefghij\n"))
        code, shown, said = run("create", "--subject", "bob", "--import", "-")

        assert (code, shown) == (0, "")
        assert " of bob, until it is revoked" in said
        assert run("create", "--subject", "bob", "--import", "sk-0123456789abcdefghij")[0] == 1
        assert run("create", "--subject", "bob", "--import", "short")[0] == 1
        assert run("revoke", "sk-0123456789abcdefghij")[0] == 0

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["create", "--subject", ""], "say who calls"),
            (["create", "--subject", "a", "--plan", "golden"], "did you mean 'gold'"),
            (["rotate", "unknown"], "no key with the id 'unknown'"),
            (["revoke", "unknown"], "no key with the id 'unknown'"),
            (["revoke", "--subject", "nobody"], "no key is of the subject 'nobody'"),
        ],
    )
    def test_mistakes_are_named(self, run: Any, arguments: list[str], said: str) -> None:
        """Each mistake is one line that says what is wrong."""
        code, shown, told = run(*arguments)

        assert (code, shown) == (1, "")
        assert said in told

    def test_a_folder_that_cannot_be_written(self, run: Any, tmp_path: Path) -> None:
        """Where the file cannot be written, nothing is shown as if it had been."""
        if os.getuid() == 0:
            (tmp_path / "api_keys.json").mkdir()
        else:
            tmp_path.chmod(0o500)
        code, shown, told = run("create", "--subject", "alice")
        tmp_path.chmod(0o700)

        assert (code, shown) == (1, "")
        assert "api_keys.json" in told

    def test_settings_without_keys(self, tmp_path: Path, capsys: Any) -> None:
        """The message names the table."""
        settings = tmp_path / "mlguard.toml"
        settings.write_text("")

        assert main(["key", "list", "--settings", str(settings)]) == 1
        assert "[auth.api_keys]" in capsys.readouterr().err


class TestSettings:
    def test_a_password_never_stands_in_the_file(self, tmp_path: Path) -> None:
        """It comes from the environment, and is not shown."""
        settings = tmp_path / "mlguard.toml"
        settings.write_text(FILE.format(keys='store = "redis://:hunter2@localhost/0"'))
        with pytest.raises(Exception, match="MLGUARD_AUTH__API_KEYS__STORE"):
            load(settings, environ={})
        settings.write_text(FILE.format(keys=""))
        variables = {"MLGUARD_AUTH__API_KEYS__STORE": "redis://:hunter2@localhost/0"}
        found = load(settings, environ=variables)

        assert "localhost" in found.model_dump_json()
        assert "hunter2" not in found.model_dump_json() + repr(found)

    @pytest.mark.parametrize("header", ["", "Host", "cookie", "a b", "x:y", "X" * 65])
    def test_headers_that_carry_no_key(self, header: str) -> None:
        """A name that is no header's, or another's, is a mistake."""
        with pytest.raises(Exception, match="the name of a header"):
            load({"auth": {"api_keys": {"header": header}}}, environ={})

    def test_one_place(self) -> None:
        """A file and a store contradict each other."""
        with pytest.raises(Exception, match="kept in one place"):
            load({"auth": {"api_keys": {"file": "a", "store": "redis://x"}}}, environ={})
