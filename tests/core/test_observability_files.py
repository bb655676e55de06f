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
    return [rule for rule in every_rule() if "alert" in rule]


def every_rule():
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
    assert set(rule["annotations"]) - {"report_url"} == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    sections = (ROOT / path).read_text().split("\n### ")
    (section,) = (x for x in sections if x.partition("\n")[0] == rule["alert"])
    assert section.partition("\n")[2].startswith(rule["labels"]["severity"].capitalize())


@pytest.mark.parametrize(
    "rule", every_rule(), ids=lambda rule: rule.get("alert", rule.get("record"))
)
def test_rules_name_only_metrics_that_the_kit_promises(rule):
    """A rule on a misspelt metric never fires."""
    words = f"{rule['expr']} {rule.get('annotations')}"
    named = re.findall(r"\b(?:mlguard|http)_\w+", words)
    known = {word for metric in METRICS for word in (metric.name, *metric.labels)} | {
        f"{metric.name}_{part}"
        for metric in METRICS
        if metric.kind == "histogram"
        for part in ("bucket", "count", "sum")
    }

    records = {rule["record"] for rule in every_rule() if "record" in rule}
    recorded = set(re.findall(r"\bmlguard:[\w:]+", rule["expr"]))

    assert set(named) <= known
    assert recorded <= records
    assert named or recorded or rule["expr"].startswith("vector(")


def test_rules_hold_for_any_job():
    """Whoever calls the job otherwise than this repository does is alerted all the same."""
    assert not [rule for rule in every_rule() if re.search(r"\bjob *[=!]", rule["expr"])]


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
