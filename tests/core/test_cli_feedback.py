"""Do the commands about labels and scores do what they say?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlguard.call_ids import new_call_id
from mlguard.chance import CHANCE
from mlguard.cli import main
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.kept_calls import HostCalls
from mlguard.performance import KeptCall, Said
from mlguard.performance.calibration import ScoreCalibration
from tests.redis_servers import Redis

pytest.importorskip("hiredis", reason="the redis extra is not installed")
from mlguard.redis.kept_calls import RedisCalls

NOW = 1_800_000_000.0
Keep = Callable[..., str]


@pytest.fixture
def service() -> str:
    return f"labelled-{CHANCE.randrange(10**9)}"


@pytest.fixture
def settings(tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("time.time", lambda: NOW)
    path = tmp_path / "mlguard.toml"
    path.write_text(f"""
[service]
name = "{service}"
folder = "{tmp_path}"
[[models]]
name = "risk"
task = "classification"
classes = ["low", "1"]
[[models]]
name = "price"
task = "regression"
[feedback]
retention = 3600
""")
    return path


@pytest.fixture
def database(settings: Path, service: str) -> Iterator[Database]:
    """The file of a service that does not run."""
    folder = Folder.of(service, settings.parent)
    folder.prepare()
    with closing(Database(folder.database, wait=2.0)) as database:
        yield database


@pytest.fixture
def calls(database: Database) -> HostCalls:
    return HostCalls(database, most=1000, retention=3600)


@pytest.fixture
def keep(calls: HostCalls) -> Keep:
    """Keeps a call, and returns its name."""

    def keep(*said: Said, model: str = "risk", ago: float = 60) -> str:
        call = KeptCall(new_call_id(NOW - ago), model, "1", list(said))
        calls.keep([call])
        return call.id

    return keep


def run(settings: Path, name: str, text: str) -> int:
    path = settings.parent / name
    path.write_text(text)
    return main(["feedback", "import", str(path), "--settings", str(settings)])


class TestImport:
    def test_a_table(
        self, settings: Path, calls: HostCalls, keep: Keep, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A line a row: classes and numbers are read, and an empty cell is not known."""
        one, other = keep(["low"], ["1"], ["1"]), keep([2.0], model="price")
        lines = [f"{one},low", f"{other},2.5", f"{one},1", f"{one},"]

        assert run(settings, "labels.csv", "\n".join(["call_id,truth", *lines])) == 0
        assert capsys.readouterr().out == "4 of 4 labels joined with their calls\n"
        assert [c.truths for c in calls.recent("risk", 9)] == [["low", "1", None]]
        assert [c.truths for c in calls.recent("price", 9)] == [[2.5]]

    def test_lines(
        self, settings: Path, calls: HostCalls, keep: Keep, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """JSON lines say all truths of a call, or the only one; what does not fit is told."""
        ids = [keep(["1"]), keep(["1"]), keep(["1"], ["1"]), keep(["1"], ago=7200)]
        told = [
            {"call_id": ids[0], "truths": [1]},
            {"call_id": ids[1], "truth": True},
            {"call_id": ids[1], "truth": "low"},
            {"call_id": ids[2], "truths": [1]},
            {"call_id": ids[3], "truths": [1]},
            {"call_id": "junk", "truths": [1, 1]},
        ]
        text = "\n\n".join(json.dumps(each) for each in told)

        assert run(settings, "labels.jsonl", text) == 0
        assert capsys.readouterr().out.splitlines() == [
            "2 of 7 labels joined with their calls",
            "duplicate: 1",
            "late: 1",
            "unknown: 2",
            "wrong_length: 1",
        ]
        assert len(calls.recent("risk", 9)) == 2

    @pytest.mark.usefixtures("calls")
    def test_none_that_fits(
        self, settings: Path, keep: Keep, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file of which nothing was joined is a failure."""
        keep(["1"])

        assert run(settings, "labels.jsonl", '{"call_id": "junk", "truths": [1]}') == 1
        assert "belongs to a call that waits" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            pytest.param("a.csv", "id,truth\n1,1", "no columns call_id and truth", id="columns"),
            pytest.param("a.csv", "", "no columns call_id and truth", id="empty table"),
            pytest.param("a.jsonl", '{"call_id": "a", "truths": [1]}\n[', "line 2", id="no JSON"),
            pytest.param("a.jsonl", "[1]", "line 1", id="a list"),
            pytest.param("a.jsonl", '{"truths": [1]}', "line 1", id="no name"),
            pytest.param("a.jsonl", '{"call_id": 7, "truths": [1]}', "line 1", id="a number"),
        ],
    )
    @pytest.mark.usefixtures("calls")
    def test_files_that_are_none(
        self, settings: Path, name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file that holds no labels is told by its first mistake."""
        assert run(settings, name, text) == 1
        assert said in capsys.readouterr().err

    def test_no_service(self, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Where no call was ever kept, the command says where to ask."""
        assert run(settings, "a.jsonl", '{"call_id": "a", "truths": [1]}') == 1
        assert "no call of a service named" in capsys.readouterr().err

    def test_labels_are_off(self, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Without [feedback], nothing is kept that could be labelled."""
        settings.write_text(settings.read_text().partition("[feedback]")[0])

        assert run(settings, "a.jsonl", "") == 1
        assert "labels need the table [feedback]" in capsys.readouterr().err

    def test_a_redis(
        self,
        settings: Path,
        service: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Where the service counts in a Redis, labels go there; without it, the command fails."""
        call = KeptCall(new_call_id(NOW - 60), "risk", "1", [["1"]])
        line = json.dumps({"call_id": call.id, "truths": [1]})
        with Redis(tmp_path) as redis:
            store = f'requests = ["5/minute"]\nstore = "{redis.url}"'
            settings.write_text(f"{settings.read_text()}\n[quotas]\n{store}")
            with closing(RedisCalls(redis.url, "mlguard", service, most=9, retention=60)) as calls:
                calls.keep([call])
                assert run(settings, "a.jsonl", line) == 0
                assert [c.truths for c in calls.recent("risk", 9)] == [["1"]]
        capsys.readouterr()

        assert run(settings, "a.jsonl", line) == 1
        assert "calls cannot be read or labelled" in capsys.readouterr().err


class TestCalibrate:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        scores = rng.random(500)
        truths = np.where(rng.random(500) < scores, "yes", "no")
        path = tmp_path / "scored.csv"
        pd.DataFrame({"p": scores, "q": 1 - scores, "y": truths}).to_csv(path, index=False)
        return path

    @pytest.mark.parametrize("scores", [["p"], ["q", "p"]], ids=["one column", "each class"])
    def test_it_learns(
        self, table: Path, scores: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The file that is written is a calibration of the classes."""
        out = table.with_name("calibration.json")
        command = ["reference", "calibrate", str(table), "--truth", "y", "--scores", *scores]

        assert main([*command, "--classes", "no", "yes", "-o", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}: learned from 500 of 500 rows\n"
        learned = ScoreCalibration.load(out)
        assert (learned.classes, learned.rows) == (("no", "yes"), 500)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            pytest.param(["--truth", "y", "--scores", "p"], "a truth of 0, 1", id="classes"),
            pytest.param(["--truth", "z", "--scores", "p"], "has no column 'z'", id="column"),
            pytest.param(
                ["--truth", "y", "--scores", "p", "--classes", "no"], "two or more", id="one class"
            ),
            pytest.param(
                ["--truth", "y", "--scores", "p", "--classes", "no", "yes", "-o", "/nowhere/c"],
                "cannot be written",
                id="folder",
            ),
        ],
    )
    def test_mistakes(
        self, table: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What cannot be done is said in one line."""
        assert main(["reference", "calibrate", str(table), *options]) == 1
        assert said in capsys.readouterr().err
