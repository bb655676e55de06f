"""Does the demonstration run on its own, tell the truth and leave nothing behind?"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from examples.demo.services import Service, ServiceFailed
from tests.servers import ROOT, free_port, wait_until

FRAMEWORKS = ["FastAPI", "Flask"]
MISREAD = {"blood_pressure", "glucose"}
LONGEST = 120  # seconds of the processor; how long they take is another's business, too

of_one_play = pytest.mark.xdist_group("demo")


# Who runs the tests in the background has SIGINT ignored, by children too.
PLAY = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("examples.demo", run_name="__main__")
"""


def start(folder, *options):
    """Start the demo so that it and its children can be told from everybody else's."""
    mark = uuid.uuid4().hex
    demo = subprocess.Popen(
        [sys.executable, "-c", PLAY, "--folder", folder, *options],
        cwd=ROOT,
        env={**os.environ, "TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return demo, mark


def left_over(mark):
    """List the processes that carry the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TEST_MARK={mark}" in (process / "environ").read_text(errors="replace").split("\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def is_complete(commands):
    """Say whether both servers have their analysts."""
    return sum("mlguard.analyst" in command for command in commands) == 2


def end(demo):
    """Stop it where a test failed; it stops what it started."""
    if demo.poll() is None:
        demo.terminate()
        demo.communicate(timeout=10 * LONGEST)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    demo, mark = start(folder, "--seed", "0")
    try:
        screen, _ = demo.communicate(timeout=10 * LONGEST)
    finally:
        end(demo)
    print(screen)
    for log in folder.glob("*.log"):
        print(log.name, log.read_text(), sep="\n")
    took = _seconds(resource.getrusage(resource.RUSAGE_CHILDREN)) - _seconds(before)
    return demo.returncode, screen, took, folder, mark


def _seconds(usage):
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def summary(played):
    return json.loads((played[3] / "summary.json").read_text())["frameworks"]


@of_one_play
def test_ends_well_and_in_time(played):
    """The whole play takes less than two minutes, where nothing else runs."""
    code, _, seconds, *_ = played

    assert code == 0
    assert seconds < LONGEST


@of_one_play
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look around")
def test_leaves_no_process(played):
    """Servers, workers and analysts are gone."""
    assert left_over(played[4]) == []


@of_one_play
@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestBoth:
    def test_answers_the_well_behaved(self, summary, framework):
        """Whoever keeps to the rules is never refused."""
        clients = summary[framework]["clients"]
        names = [name for name in clients if name.startswith(("clinic", "ward"))]

        assert len(names) == 7
        assert [clients[name]["refused"] for name in names] == [{}] * 7

    @pytest.mark.parametrize(
        ("client", "code"),
        [("passer-by", "401 token_missing"), ("former employee", "401 token_expired")],
    )
    def test_answers_no_stranger(self, summary, framework, client, code):
        """Without a valid token there is one answer, and it says why."""
        got = summary[framework]["clients"][client]

        assert got["answered"] == 0
        assert list(got["refused"]) == [code]

    @pytest.mark.parametrize(
        ("client", "codes"),
        [
            ("dashboard", {"429 rate_exceeded"}),
            ("nightly job", {"422 batch_exceeds_quota", "429 quota_exceeded"}),
            ("copycat", {"429 quota_exceeded"}),
        ],
    )
    def test_holds_the_quotas(self, summary, framework, client, codes):
        """Each way to ask too much has its own code."""
        got = summary[framework]["clients"][client]

        assert set(got["refused"]) == codes
        assert got["rows"] <= 400

    def test_names_what_drifted(self, summary, framework):
        """Both misread features are found, and not everything is called drift."""
        drifted = set(summary[framework]["drifted_after"])

        assert drifted >= MISREAD
        assert len(drifted - MISREAD) <= 1

    def test_traces_requests(self, summary, framework):
        """A trace has the server's span and below it the inference's."""
        assert summary[framework]["trace"] == {
            "POST /predict": None,
            "inference diabetes": "POST /predict",
        }

    def test_measures(self, summary, framework):
        """Quantiles rise, and are those of real requests."""
        p50, p95, p99 = summary[framework]["latency_seconds"]["whole request"].values()

        assert 0 < p50 <= p95 <= p99 < 10


@of_one_play
def test_both_frameworks_decide_alike(summary):
    """The same clients get the same answers of either framework."""
    fastapi, flask = (
        {name: set(client["refused"]) for name, client in summary[f]["clients"].items()}
        for f in FRAMEWORKS
    )

    assert fastapi == flask


@of_one_play
def test_the_quota_keeps_the_copy_worse(played):
    """The copy that the quota stopped agrees less with the model than the one it did not."""
    facts = json.loads((played[3] / "summary.json").read_text())
    stopped = facts["frameworks"]["FastAPI"]["copy"]["agreement"]

    assert facts["copy_without_asking"] < stopped < facts["copy_without_quota"]


@of_one_play
def test_the_screen_is_one_screen(played):
    """Sixty lines of eighty columns, without blanks at their ends, in a pipe as well.

    Where a minute began for one framework's clients and not for the other's, both are told.
    """
    lines = played[1].splitlines()
    apart = [line for line in lines if re.match(r"  [\w ]+, (FastAPI|Flask) ", line)]

    assert len(lines) - len(apart) <= 60
    assert [line for line in lines if line != line.rstrip()] == []
    assert [line for line in lines if len(line) > 80 and str(played[3]) not in line] == []


@of_one_play
def test_the_screen_says_it_all(played):
    """A reader of the log finds each answer without a terminal."""
    screen = played[1]

    assert "\x1b" not in screen
    copy, drift = screen.index("stolen copy"), screen.index("like training")
    assert copy < drift < screen.index("What did each client get")
    for words in ("5x 401 token_missing", "token_expired", "rate_exceeded", "quota_exceeded"):
        assert words in screen
    for feature in MISREAD:
        assert re.search(rf"{feature} .* drifted", screen)
    assert "└── inference diabetes" in screen
    assert "no process is left" in screen


@of_one_play
def test_the_readme_shows_what_it_says(played):
    """Each line that the README shows of it is on the screen, but for its figures."""
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"```text\n(.*?)```", readme, re.DOTALL)[1].splitlines()
    screen = [re.sub(r"\d+", "0", line) for line in played[1].splitlines()]

    assert [line for line in shown if re.sub(r"\d+", "0", line) not in screen] == []


@of_one_play
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look around")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupted_it_leaves_no_process(tmp_path, number):
    """Whoever ends the demo early, by Ctrl-C or kill, gets the computer back as it was.

    Both are one interruption; the one that is waited for until all processes run is the kill.
    """
    demo, mark = start(tmp_path)
    try:
        if number == signal.SIGTERM:
            wait_until(
                lambda: is_complete(left_over(mark)), "all processes run", within=LONGEST * 10
            )
        else:
            assert demo.stdout.readline().startswith("mlguard")
        demo.send_signal(number)
        screen, _ = demo.communicate(timeout=10 * LONGEST)
        assert demo.returncode == 130
        assert "everything is stopped" in screen
        assert left_over(mark) == []
    finally:
        end(demo)


def test_a_service_that_does_not_start_shows_its_log(tmp_path):
    """The reason stands on the screen, not in a file somewhere."""
    program = "print('as broken as can be'); raise SystemExit(3)"
    command = [sys.executable, "-c", program]
    service = Service("broken", "Flask", command, {}, free_port(), tmp_path / "log")

    service.start()
    with pytest.raises(ServiceFailed, match=r"code 3(.|\n)*as broken as can be"):
        service.wait_until_ready()
    service.stop()
