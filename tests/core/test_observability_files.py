"""Do the shipped rules, configurations and containers say what they should?"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mlguard.metrics import METRICS
from tests.servers import ROOT, find

FOLDER = ROOT / "examples" / "observability"
TESTS = ROOT / "tests" / "data" / "alerts_test.yml"


def load(name):
    return yaml.safe_load((FOLDER / name).read_text())


def rules():
    return [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]


def cases():
    return [case for test in load(TESTS)["tests"] for case in test["alert_rule_test"]]


def run(*command):
    done = subprocess.run(
        [find(command[0]), *map(str, command[1:])],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("promtool", "check", "rules", FOLDER / "alerts.yml"), id="rules"),
        pytest.param(("promtool", "check", "config", FOLDER / "prometheus.yml"), id="prometheus"),
        pytest.param(("amtool", "check-config", FOLDER / "alertmanager.yml"), id="alertmanager"),
    ],
)
def test_the_tools_of_the_servers_accept_the_files(command):
    """Prometheus and Alertmanager would start with these files."""
    run(*command)


def test_every_alert_fires_when_it_should_and_only_then():
    """Prometheus itself evaluates the rules on hand-written series."""
    run("promtool", "test", "rules", TESTS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_tested_in_both_directions(rule):
    """No alert is shipped that was never seen to fire, or never seen to keep silent."""
    verdicts = {bool(case["exp_alerts"]) for case in cases() if case["alertname"] == rule["alert"]}

    assert verdicts == {True, False}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_tells_its_reader_what_and_how_bad(rule):
    """Routing needs a severity; people need a summary and where to look next."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert f"`{rule['alert']}`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_rules_name_only_metrics_that_the_kit_promises(rule):
    """A rule on a misspelt metric never fires."""
    words = f"{rule['expr']} {rule['annotations']['description']}"
    named = re.findall(r"\b(?:mlguard|http)_\w+", words)
    known = {metric.name for metric in METRICS} | {
        f"{metric.name}_{part}"
        for metric in METRICS
        if metric.kind == "histogram"
        for part in ("bucket", "count", "sum")
    }

    assert set(named) <= known
    assert named or rule["expr"].startswith("up{")


def test_the_rules_on_absence_name_the_job_that_is_scraped():
    """A rule on another job's absence would always fire."""
    (job,) = load("prometheus.yml")["scrape_configs"]
    named = {name for rule in rules() for name in re.findall(r'job="(\w+)"', rule["expr"])}

    assert named == {job["job_name"]}


SERVICES = load("compose.yml")["services"]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_containers_are_pinned_and_listen_here_only(service):
    """A version that works stays the version that runs; nothing without a password is public."""
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_what_containers_mount_exists(service):
    """A missing file would be mounted as an empty folder."""
    mounts = [mount.split(":") for mount in service.get("volumes", ())]
    files = [(Path(source), mode) for source, _, *mode in mounts if source.startswith(".")]

    assert all((FOLDER / source).is_file() and mode == ["ro"] for source, mode in files)
    assert {s for s, *_ in mounts if not s.startswith(".")} <= set(load("compose.yml")["volumes"])


def test_containers_find_each_other():
    """Prometheus names Alertmanager, and Grafana both of its sources, by service name and port."""
    (alerting,) = load("prometheus.yml")["alerting"]["alertmanagers"]
    (sender,) = alerting["static_configs"]
    urls = [source["url"].removeprefix("http://") for source in load("grafana.yml")["datasources"]]

    for host, port in (target.split(":") for target in [*sender["targets"], *urls]):
        assert any(mapped.endswith(f":{port}") for mapped in SERVICES[host]["ports"])


def test_prometheus_stores_exemplars():
    """Without the feature flag the traces behind a latency are thrown away."""
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]
